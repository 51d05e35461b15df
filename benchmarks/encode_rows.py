"""What a row of encode.py is: the same work done by a peer, by us, and by the one step that cannot be avoided.

A file that offers rows holds `ROWS: tuple[Row, ...]`, and encode.py adds them to its table.
"""

import gc
import os
import pickle
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

Side = Callable[[int], Any]  # takes the number of the round, from 0; gives what is compared, or a Taken


@dataclass(frozen=True)
class Taken:
    """A result with the seconds it took, from a side that measures itself (a peer in another process)."""

    result: Any
    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Setup:
    """What the sides of a row may use.

    Attributes:
        recordings: real sounds as they are, in order of their names.
        sounds: some of them, repeated up to 60 s, by format: mp3, ogg, flac, wav, m4a, all of 44.1 kHz, and the same
            words with " of 48 kHz".
        clips: the onset windows of those of 44.1 kHz, float32 [n, 480,000] at 48 kHz.
        photos: real JPEGs.
        device: where our models run; the peers' too.
        n_threads: threads that torch and BLAS are limited to in this pass; work that has no threads of its own (a
            decoder) runs in as many workers on both sides.
        scratch: a folder that is deleted at the end.
        peer_python: interpreter of the released code's libraries, or None.
    """

    recordings: list[Path]
    sounds: dict[str, list[Path]]
    clips: np.ndarray
    photos: list[Path]
    device: torch.device
    n_threads: int
    scratch: Path
    peer_python: Path | None = None


@dataclass(frozen=True)
class Work:
    """Both sides of a row, built and ready.

    Attributes:
        peer_name: who, with the version where it decides.
        peer, ours: called in turn, once each unmeasured first; both do round n on the same inputs.
        difference: of (peer's result, ours), as a number: the largest over the rounds is printed.
        unit: of that number, for instance "dB" or "1 - cosine".
        limit: the step that no one can avoid (a decoder, a GEMM), done alone.
        limit_name: what that is.
        n_items: things that one call handles; times are printed for one.
    """

    peer_name: str
    peer: Side
    ours: Side
    difference: Callable[[Any, Any], float]
    unit: str
    limit: Side | None = None
    limit_name: str = ""
    n_items: int = 1


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: what is done, in a few words.
        make: builds the sides; what it built is freed before the next row.
        goal: the least ratio that we want, or None.
        judged_by: the clock of that ratio. Processor time is the steadier one; on a GPU it says nothing.
        kind: rows of one kind, one after the other, are followed by a line for all of them.
    """

    name: str
    make: Callable[[Setup], Work]
    goal: float | None = None
    judged_by: str = "cpu"
    kind: str = ""


@dataclass
class Measured:
    """What one row came to, in seconds an item: medians over the rounds, by side."""

    row: Row
    peer_name: str
    limit_name: str
    unit: str
    cpu_s: dict[str, float] = field(default_factory=dict)
    wall_s: dict[str, float] = field(default_factory=dict)
    difference: float = 0.0

    def ratio(self, clock: str) -> float:
        spent = getattr(self, f"{clock}_s")
        return spent["peer"] / spent["ours"]


class Children:
    """The released code's libraries, in as many processes as there are threads; they measure themselves."""

    def __init__(self, python: Path, n: int) -> None:
        command = [python, "-W", "ignore", Path(__file__).with_name("encode_peer.py")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) for _ in range(n)
        ]
        self.versions, *_ = [self._answer(process) for process in self.processes]

    def __call__(self, task: str, *arguments: list[Any]) -> Taken:
        """Do a task of encode_peer.py on each file; arguments are lists with a value for each, first the paths."""
        n = len(self.processes)
        arguments = ([str(path) for path in arguments[0]], *arguments[1:])
        for k, process in enumerate(self.processes):
            assert process.stdin
            pickle.dump((task, *(each[k::n] for each in arguments)), process.stdin)
            process.stdin.flush()
        results, cpu_s, wall_s = zip(*(self._answer(process) for process in self.processes), strict=True)
        joined = np.empty((len(arguments[0]), *results[0].shape[1:]), np.float32)
        for k, result in enumerate(results):
            joined[k::n] = result
        return Taken(joined, sum(cpu_s), max(wall_s))

    @staticmethod
    def _answer(process: subprocess.Popen) -> Any:
        assert process.stdout
        return pickle.load(process.stdout)


children = cache(Children)


def in_workers(work: Callable[[Any], Any], things: Iterable[Any], n_threads: int) -> np.ndarray:
    """Do `work` on each thing, one thread each, as the encoder's workers do."""
    if n_threads == 1:
        return np.stack([work(thing) for thing in things])
    with ThreadPoolExecutor(n_threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        return np.stack(list(pool.map(work, things)))


def timed(side: Side, n: int, device: torch.device) -> Taken:
    """Do round `n`, measured here unless the side measured itself."""
    _wait(device)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    result = side(n)
    _wait(device)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return result if isinstance(result, Taken) else Taken(result, cpu_s, wall_s)


def measure(row: Row, setup: Setup, n_runs: int) -> Measured:
    """Run the sides of a row in turn, in random order, and compare what they give in each round."""
    work = row.make(setup)
    sides = {"peer": work.peer, "ours": work.ours} | ({"limit": work.limit} if work.limit else {})
    rng = np.random.default_rng(0)
    taken: dict[str, list[Taken]] = {who: [] for who in sides}
    measured = Measured(row, work.peer_name, work.limit_name, work.unit)
    for n in range(-1, n_runs):  # the first, unmeasured, fills caches
        now = {who: timed(sides[who], max(n, 0), setup.device) for who in rng.permutation(list(sides))}
        difference = work.difference(now["peer"].result, now["ours"].result)
        measured.difference = max(measured.difference, difference)
        if n >= 0:
            for who, one in now.items():
                taken[who].append(Taken(None, one.cpu_s, one.wall_s))
    for who, many in taken.items():
        measured.cpu_s[who] = statistics.median(one.cpu_s for one in many) / work.n_items
        measured.wall_s[who] = statistics.median(one.wall_s for one in many) / work.n_items
    del work, sides
    gc.collect()
    return measured


def together(rows: list[Measured]) -> Measured:
    """Average rows of one kind: what an item costs where there are as many of each."""
    first = rows[0]
    mean = Measured(replace(first.row, name=f"{first.row.kind}, as many of each"), first.peer_name, "", first.unit)
    for who in first.cpu_s:
        mean.cpu_s[who] = statistics.mean(row.cpu_s[who] for row in rows)
        mean.wall_s[who] = statistics.mean(row.wall_s[who] for row in rows)
    mean.difference = max(row.difference for row in rows)
    return mean


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
