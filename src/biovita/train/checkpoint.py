"""Checkpoints of a running stage: all it takes to go on as if nothing had happened.

A checkpoint is a folder, `step-00000120`: what trains and all buffers (`model.safetensors`), the optimizer's moments
(`optimizer.safetensors`), the random states (`random.safetensors`), and last the manifest with their hashes. The
sampler needs none: its draws are a pure function of (seed, epoch, step).
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from biovita.errors import DatasetError, TrainError
from biovita.files import MANIFEST, atomic_path, read_manifest, write_manifest
from biovita.log import say, warn

KEPT = 2  # newest complete ones
FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors")


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: where they lie, one folder each.
        key: hash of what makes the run; those of another run are refused.
        every_s: seconds between two of them.
        skip_damaged: go on from the one before a damaged one, instead of stopping.
    """

    folder: Path
    key: str
    every_s: float = 600.0
    skip_damaged: bool = False
    _saved_at: float = field(default_factory=time.monotonic, init=False)

    def is_due(self) -> bool:
        """Tell whether it is time for one."""
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps, then remove all but the newest complete ones."""
        path = self.folder / f"step-{step:08d}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        for name, tensors in zip(FILES, (_weights(model), _moments(optimizer), _random_states()), strict=True):
            with atomic_path(path / name) as part:
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)
        write_manifest(path, list(FILES), step=step, key=self.key)
        self._saved_at = time.monotonic()
        complete = [older for older in self._newest_first() if (older / MANIFEST).is_file()]
        for older in self._newest_first():
            if older not in complete[:KEPT]:
                shutil.rmtree(older)

    def resume(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Take the newest checkpoint's state on; return the number of steps it holds, 0 if there is none.

        Raises:
            TrainError: it is damaged, or of another run.
        """
        for path in self._newest_first():
            if not (path / MANIFEST).is_file():
                continue  # never finished
            try:
                step = self._take(path, model, optimizer)
            except (DatasetError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
                if not self.skip_damaged:
                    raise TrainError(
                        f"{path}: damaged: {error}; remove it, or give --skip-damaged, to go on from the one before"
                    ) from error
                warn(f"{path}: damaged, going on from the one before: {error}")
                continue
            say(f"{path}: going on after step {step:,}")
            return step
        return 0

    def _take(self, path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        manifest = read_manifest(path, verify=True)
        if manifest["key"] != self.key:
            raise TrainError(f"{path}: of another run; remove {self.folder.parent}, or choose another --out")
        weights, moments, random = (load_file(path / name) for name in FILES)
        own = _weights(model)
        if odd := sorted(own.keys() ^ weights.keys()):
            raise KeyError(f"{odd[0]} is in only one of the checkpoint and the model")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
        state = optimizer.state_dict()
        state["state"] = {}
        for name, tensor in moments.items():
            number, moment = name.split(".")
            state["state"].setdefault(int(number), {})[moment] = tensor
        optimizer.load_state_dict(state)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        return int(manifest["step"])

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what changes in training; the rest is in the model that the run started from."""
    trained = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | dict(model.named_buffers())


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{n}.{name}": torch.as_tensor(value) for n, moments in state.items() for name, value in moments.items()}


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
