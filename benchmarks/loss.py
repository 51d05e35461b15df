"""The contrastive loss, forward and backward, beside the plain matrix of logits: time, memory, difference.

    python benchmarks/loss.py [--batches 512 2048 4096] [--large 16384 65536] [--runs 5] [--threads 1]

Plain is what the released code does on one process: all logits at once, two cross entropies. Limit is the time of the
three matrix products that no way can do without (logits, and the gradients of both sides). Both sides run in turn in
this process, medians of `--runs`, on random unit vectors of 768 numbers; a fifth as many species as rows. Peak memory
is measured in a child of its own for each batch, above what it held before the loss. Linux. Writes
docs/results/loss.md.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from biovita.train.loss import KEPT_BYTES, SameSpecies, Targets, contrastive

WIDTH, SCALE = 768, 1 / 0.07
PAGE = Path(__file__).parents[1] / "docs" / "results" / "loss.md"
KINDS: tuple[SameSpecies, ...] = ("negative", "masked", "positive")


def rows(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    vectors = [functional.normalize(torch.randn(n, WIDTH, generator=generator), dim=1) for _ in range(2)]
    species = torch.randint(0, max(1, n // 5), (n, 1), generator=generator)
    return [*(side.requires_grad_() for side in vectors), torch.tensor(SCALE, requires_grad=True), species]


def plain(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    logits = scale * one @ other.T
    right = torch.arange(len(one))
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def products(one: torch.Tensor, other: torch.Tensor) -> None:
    with torch.no_grad():
        logits = one @ other.T
        _ = logits @ other, logits.T @ one


def spent_s(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def memory_bytes(field: str) -> int:
    """Read VmRSS, what this process holds, or VmHWM, the most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure_memory(
    n: int, is_plain: bool, threads: int, answer: "multiprocessing.SimpleQueue[tuple[int, float]]"
) -> None:
    torch.set_num_threads(threads)
    inputs = rows(n)
    for tensor in inputs[:3]:
        tensor.grad = torch.zeros_like(tensor)
    plain(*rows(8)).backward()  # loads what the first backward loads
    before = memory_bytes("VmRSS")
    forget_peak()
    took = spent_s(lambda: (plain if is_plain else contrastive)(*inputs).backward())
    answer.put((memory_bytes("VmHWM") - before, took))


def in_a_child(n: int, is_plain: bool, threads: int) -> tuple[int, float]:
    spawn = multiprocessing.get_context("spawn")
    answer: multiprocessing.SimpleQueue[tuple[int, float]] = spawn.SimpleQueue()
    child = spawn.Process(target=measure_memory, args=(n, is_plain, threads, answer))
    child.start()
    found = answer.get()
    child.join()
    return found


def gradients(inputs: list[torch.Tensor], loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, inputs[:3]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", nargs="+", type=int, default=[512, 2048, 4096])
    parser.add_argument("--large", nargs="*", type=int, default=[16384, 65536])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = []
    for n in args.batches:
        inputs = rows(n)
        ways: dict[str, Callable[[], object]] = {
            "plain": lambda inputs=inputs: plain(*inputs).backward(),
            **{
                kind: lambda inputs=inputs, kind=kind: contrastive(*inputs, targets=Targets(kind)).backward()
                for kind in KINDS
            },
            "limit": lambda inputs=inputs: products(*inputs[:2]),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for run in range(args.runs + 1):
            for way, work in ways.items():
                took = spent_s(work)
                if run:  # the first warms up
                    times[way].append(took)
        ms = {way: 1000 * statistics.median(found) for way, found in times.items()}
        theirs = gradients(inputs, plain(*inputs))
        ours = gradients(inputs, contrastive(*inputs, targets=Targets("negative")))
        off = max(float((a - b).norm() / a.norm()) for a, b in zip(theirs, ours, strict=True))
        memory = [in_a_child(n, is_plain, args.threads)[0] / 1e6 for is_plain in (True, False)]
        lines.append(
            f"| {n:,} | {ms['plain']:,.1f} | "
            + " | ".join(f"{ms[kind]:,.1f}" for kind in KINDS)
            + f" | {ms['limit']:,.1f} | {ms['plain'] / ms['negative']:.2f} | {ms['limit'] / ms['negative']:.2f} | "
            f"{off:.1e} | {memory[0]:,.0f} | {memory[1]:,.0f} |"
        )
        print(lines[-1], flush=True)
    large = []
    for n in args.large:
        megabytes, took = in_a_child(n, False, args.threads)
        large.append(f"| {n:,} | {took:,.1f} | {megabytes / 1e6:,.0f} | {4 * n * n / 1e6:,.0f} |")
        print(large[-1], flush=True)
    command = f"python benchmarks/loss.py --runs {args.runs} --threads {args.threads}"
    PAGE.write_text(
        "# The contrastive loss beside the plain matrix\n\n"
        f"    {command}\n\n"
        f"Forward and backward, {WIDTH} numbers a vector, float32, {args.threads} thread(s), medians of "
        f"{args.runs}\nin turn; torch {torch.__version__}, Python {platform.python_version()}. `negative` computes\n"
        "what plain does; `masked` and `positive` treat items of one species as the recipe says. Limit: the products.\n"
        "Off: the largest relative difference of a gradient from plain. Memory: peak above vectors and gradients, MB;\n"
        f"up to {KEPT_BYTES >> 20} MB of logits are kept for the gradient, whatever the batch.\n\n"
        "| batch | plain, ms | negative | masked | positive | limit | plain / ours | limit / ours | off | plain, MB | "
        "ours, MB |\n|---|---|---|---|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n\n"
        "Batches whose matrix would not fit:\n\n"
        "| batch | s | peak, MB | the matrix alone, MB |\n|---|---|---|---|\n" + "\n".join(large) + "\n"
    )


if __name__ == "__main__":
    main()
