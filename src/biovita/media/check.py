"""Is a file what it should be? Strangers' bytes are opened only in limited child processes; here live their parents.

`check_files` keeps a few long-lived children (`check_child`), hands each a path at a time over a pipe, and replaces one
that dies or misses its deadline: that is a verdict about the file, never an error of ours. Verdicts come in the order
of the paths, whatever the number of children.
"""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Self

from biovita.files import sha256_json

# A child needs the same memory for file after file: to give it back each time costs as much as decoding.
CHILD_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a usable file may be, and what looking at it may cost. Lengths count decoded samples, not header claims."""

    min_duration_s: float = 0.1
    max_duration_s: float = 7200.0
    min_sample_rate_hz: int = 2_000
    max_sample_rate_hz: int = 768_000
    max_channels: int = 16
    max_sample: float = 100.0
    """floats beyond this are out_of_range"""
    min_peak: float = 1e-4
    """of the mix-down less its mean; below it a sound is silent (-80 dBFS)"""
    min_side_px: int = 16
    max_side_px: int = 30_000
    max_pixels: int = 89_478_485
    max_aspect: float = 50.0
    seconds: float = 5.0
    """wall time and CPU time of one file"""
    memory_bytes: int = 768_000_000
    """of a child, for all that it may write to"""
    address_space_bytes: int = 1_500_000_000
    """of a child, with its libraries"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the checker says about one path; facts are null where it did not get that far."""

    path: str
    verdict: Literal["ok", "reject"]
    reason: str | None = None
    detail: str = ""
    modality: str | None = None
    duration_s: float | None = None
    sample_rate_hz: int | None = None
    n_channels: int | None = None
    size: tuple[int, int] | None = None
    """width and height in pixels, as seen after EXIF turning"""
    flags: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    sha256: str | None = None
    fingerprint: str | None = None
    suffix: str | None = None
    """by content, like .flac"""

    @property
    def ok(self) -> bool:
        """Say whether the file may be used."""
        return self.verdict == "ok"

    def row(self) -> dict[str, Any]:
        """Return the verdict as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Make a verdict from what `row` gave, also after a trip through JSON."""
        size = tuple(row["size"]) if row["size"] else None
        return cls(**{**row, "size": size, "flags": tuple(row["flags"])})

    def expecting(self, modality: str) -> Self:
        """Refuse a usable file of the other modality."""
        if not self.ok or self.modality == modality:
            return self
        detail = f"{self.modality} where {modality} should be"
        return dataclasses.replace(self, verdict="reject", reason="wrong_modality", detail=detail)


class Look:
    """What a child knows about a file so far; becomes its verdict.

    Attributes:
        limits: what a usable file may be.
        name_suffix: of the given name, lower case; only a hint.
        facts: fields of the verdict.
        flags: repairs and oddities that do not refuse a file.
    """

    def __init__(self, path: str, limits: Limits) -> None:
        self.limits = limits
        self.name_suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - a name may be anything
        self.facts: dict[str, Any] = {}
        self.flags: set[str] = set()

    def note(self, **facts: Any) -> None:
        """Remember facts for the verdict."""
        self.facts.update(facts)


def policy(limits: Limits) -> str:
    """Hash what a verdict depends on besides the bytes: the limits and the decoders' versions."""
    from importlib.metadata import version  # noqa: PLC0415 - a child, which imports us, starts faster without

    return sha256_json([dataclasses.asdict(limits), version("av"), version("pillow")])


def check_files(paths: Iterable[Path], *, workers: int = 1, limits: Limits | None = None) -> Iterator[Verdict]:
    """Yield the verdict of every path, in order.

    Args:
        paths: files; what is no regular file gets a verdict as well.
        workers: child processes at work at a time.
        limits: the defaults if None.
    """
    limits = limits or Limits()
    with checkers(workers, limits) as idle, ThreadPoolExecutor(workers) as threads:

        def judge(path: Path) -> Verdict:
            child = idle.get()
            try:
                return child.judge(path)
            finally:
                idle.put(child)

        pending: deque[Future[Verdict]] = deque()
        try:
            for path in paths:
                pending.append(threads.submit(judge, path))
                if len(pending) > 8 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def checkers(workers: int, limits: Limits) -> Iterator["SimpleQueue[Child]"]:
    """Keep children at hand for who asks file by file; take one from the queue, and put it back after its verdict."""
    idle: SimpleQueue[Child] = SimpleQueue()
    children = [Child(limits) for _ in range(workers)]
    for child in children:
        idle.put(child)
    try:
        yield idle
    finally:
        for child in children:
            child.stop()


class Child:
    """One checker process, started when it is first needed and again after it was lost."""

    START_S = 60.0  # a loaded machine may take long to import

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: subprocess.Popen[bytes] | None = None

    def judge(self, path: Path) -> Verdict:
        """Look at one path; a child that dies or misses its deadline is a verdict too."""
        started = time.monotonic()
        process = self.process or self._start()
        assert process.stdin
        try:
            process.stdin.write(json.dumps(os.fspath(path)).encode() + b"\n")
            process.stdin.flush()
            line = self._line(self.limits.seconds)
        except BrokenPipeError:
            line = b""
        if line:
            return Verdict.from_row(json.loads(line))
        elapsed_s = time.monotonic() - started
        code = self._end()
        if code is None:
            reason, detail = "unreadable", f"no verdict within {self.limits.seconds:g} s"
        else:
            reason, detail = "corrupt", f"the decoder died ({_death(code)})"
        return Verdict(path=str(path), verdict="reject", reason=reason, detail=detail, elapsed_s=round(elapsed_s, 4))

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self.process:
            self._end()

    def _start(self) -> "subprocess.Popen[bytes]":
        # -P: the folder we stand in may hold a stranger's json.py
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "biovita.media.check_child", json.dumps(dataclasses.asdict(self.limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders are talkative
            env={**os.environ, **CHILD_ENVIRONMENT},
        )
        if self._line(self.START_S) != b"ready\n":
            code = self._end()
            raise RuntimeError(f"the checker's child did not start (exit {code}): python -m biovita.media.check_child")
        return self.process

    def _line(self, seconds: float) -> bytes:
        """Read one line; empty where the child closed its end or missed the deadline."""
        assert self.process
        assert self.process.stdout
        pipe, line = self.process.stdout.fileno(), bytearray()
        deadline = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(pipe, 65536) if ready else b""
            if not part:
                return b""
            line += part
        return bytes(line)

    def _end(self) -> int | None:
        """Kill the child and forget it; return its exit code if it had ended by itself."""
        assert self.process
        process, self.process = self.process, None
        try:
            code = process.wait(0.05)
        except subprocess.TimeoutExpired:
            code = None
            process.kill()
        with process:  # closes the pipes and reaps it
            pass
        return code


def _death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
