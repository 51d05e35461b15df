"""How much of what the machine can do a step uses."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDES = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product is the measure
TIMES = 5


class Work:
    """Counts the operations of the first step, and measures the device's fastest product.

    torch's counter misses some fused kernels, so the share is a little low.

    Args:
        device: where the step runs.
        precision: of its products.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.flops = 0
        self.peak_flops_per_s = product_rate(device, torch.bfloat16 if precision == "bf16" else torch.float32)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what happens inside, the first time."""
        if self.flops:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = counter.get_total_flops()

    def share(self, seconds: float) -> float:
        """Return the share of the peak that a step of so many seconds reached."""
        return self.flops / seconds / self.peak_flops_per_s


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the product of two large square matrices, in operations a second."""
    side = SIDES.get(device.type, SIDES["cuda"])
    one = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(TIMES):
        _wait(device)
        begun = time.perf_counter()
        torch.mm(one, one)
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
