"""Checkpoints of a running stage: all it takes to go on as if nothing had happened.

A checkpoint is a folder, `step-00000120`: what trains and all buffers (`model.safetensors`), the optimizer's moments
(`optimizer.safetensors`), averaged weights if there are any (`average.safetensors`), the random states of each process
(`random-0.safetensors`), and last the manifest with their hashes and what the loop remembers. The sampler needs
nothing: its draws are a pure function of (seed, epoch, index).

With several processes the first writes, and the others wait; all read.
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as read_tensors
from safetensors.torch import save_file

from biovita.errors import BiovitaError, TrainError
from biovita.files import MANIFEST, atomic_path, read_manifest, write_manifest
from biovita.log import say, warn
from biovita.train import ranks
from biovita.train.sharding import all_whole, like

# what a file of changed bytes may raise, as it is read or taken on
DAMAGED = (BiovitaError, SafetensorError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)
MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"


@dataclass
class State:
    """What a run is made of between two steps.

    Attributes:
        model: whose trained parameters and buffers are kept.
        optimizer: of these parameters.
        average: averaged weights, if there are any.
        memory: plain numbers that the loop remembers.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, torch.Tensor]
    memory: dict[str, Any]


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: where they lie, one folder each.
        key: hash of what makes the run; those of another run are refused.
        every_s: seconds between two of them.
        skip_damaged: go on from the one before a damaged one, instead of stopping.
        keep: so many of the newest complete ones stay.
    """

    folder: Path
    key: str
    every_s: float = 600.0
    skip_damaged: bool = False
    keep: int = 2
    _saved_at: float = field(default_factory=time.monotonic, init=False)

    def is_due(self) -> bool:
        """Tell whether it is time for one."""
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, step: int, state: State) -> None:
        """Write what holds after `step` steps, then remove all but the newest complete ones.

        Args:
            step: steps done.
            state: what to keep.
        """
        path = self.folder / f"step-{step:08d}"
        if ranks.rank() == 0:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        ranks.barrier()
        write_tensors(path / _random_file(ranks.rank()), _random_states())
        weights, moments, average = map(all_whole, (weights_of(state.model), _moments(state.optimizer), state.average))
        if ranks.rank() == 0:
            write_tensors(path / MODEL, weights)
            write_tensors(path / OPTIMIZER, moments)
            if average:
                write_tensors(path / AVERAGE, average)
        ranks.barrier()
        if ranks.rank() == 0:
            names = [MODEL, OPTIMIZER, *([AVERAGE] if average else []), *map(_random_file, range(ranks.world_size()))]
            write_manifest(path, names, step=step, key=self.key, state=state.memory, n_processes=ranks.world_size())
            complete = [older for older in self._newest_first() if (older / MANIFEST).is_file()]
            for older in self._newest_first():
                if older not in complete[: self.keep]:
                    shutil.rmtree(older)
        ranks.barrier()
        self._saved_at = time.monotonic()

    def resume(self, state: State) -> int:
        """Take the newest checkpoint's state on, in place; return the number of steps it holds, 0 if there is none.

        Raises:
            TrainError: it is damaged, or of another run, or of another number of processes; or all are damaged.
        """
        n_skipped = 0
        for path in self._newest_first():
            if not (path / MANIFEST).is_file():
                continue  # never finished
            try:
                step = self._take(path, state)
            except TrainError:
                raise
            except DAMAGED as error:
                if not self.skip_damaged:
                    raise TrainError(
                        f"{path}: damaged: {error}; remove it, or give --skip-damaged, to go on from the one before"
                    ) from error
                warn(f"{path}: damaged, going on from the one before: {error}")
                n_skipped += 1
                continue
            say(f"{path}: going on after step {step:,}")
            return step
        if n_skipped:
            raise TrainError(f"{self.folder}: no checkpoint is whole; remove {self.folder.parent} to begin anew")
        return 0

    def _take(self, path: Path, state: State) -> int:
        manifest = read_manifest(path, verify=True)
        if manifest["key"] != self.key:
            raise TrainError(f"{path}: of another run; remove {self.folder.parent}, or choose another --out")
        if manifest["n_processes"] != ranks.world_size():
            raise TrainError(
                f"{path}: of {manifest['n_processes']} processes, not {ranks.world_size()}; start as many, or remove "
                f"{self.folder.parent}"
            )
        weights, moments, random = (
            read_tensors(path / name) for name in (MODEL, OPTIMIZER, _random_file(ranks.rank()))
        )
        own = weights_of(state.model)
        if odd := sorted(own.keys() ^ weights.keys()):
            raise KeyError(f"{odd[0]} is in only one of the checkpoint and the model")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(like(tensor, weights[name]))
            for name, tensor in read_tensors(path / AVERAGE).items() if state.average else ():
                state.average[name].copy_(like(state.average[name], tensor))
        held = state.optimizer.state_dict()
        held["state"] = {}
        parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        for name, tensor in moments.items():
            number, moment = name.split(".")
            spread = like(parameters[int(number)].data, tensor) if tensor.ndim else tensor  # a count is whole
            held["state"].setdefault(int(number), {})[moment] = spread
        state.optimizer.load_state_dict(held)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        state.memory.update(manifest["state"])
        return int(manifest["step"])

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file; it is whole or it is not there."""
    with atomic_path(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)


def _random_file(rank: int) -> str:
    return f"random-{rank}.safetensors"


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
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
