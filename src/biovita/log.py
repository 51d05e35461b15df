"""Progress and messages, always on standard error; standard output belongs to data.

On a terminal a progress line is redrawn in place; in a file or a pipe a plain line appears every few seconds.
Each shows rate, time left and the count of bad items.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TextIO, TypeVar

T = TypeVar("T")


@dataclass
class Settings:
    """What the common flags asked for; set once by the command line."""

    quiet: bool = False
    json: bool = False
    offline: bool = False


SETTINGS = Settings()
PLAIN_INTERVAL_S = 5.0
TERMINAL_INTERVAL_S = 0.1
N_LISTED = 20  # bad items that are shown one by one; the rest is counted


def say(message: str) -> None:
    """Print one line for people, unless --quiet."""
    if not SETTINGS.quiet:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one warning, also with --quiet."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """Print one machine-readable object on standard output."""
    print(json.dumps(value, ensure_ascii=True, sort_keys=True), flush=True)


def duration(seconds: float) -> str:
    """Write a duration for people: 42 s, 3 min 07 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Count work done and show it; use as a context manager.

    Args:
        label: what is being done, two or three words.
        total: how many units there are, or None when unknown.
        unit: the plural name of a unit.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "items", stream: TextIO | None = None) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.stream = stream or sys.stderr
        self.done = 0
        self.n_bad = 0
        self.note = ""
        self._started = time.monotonic()
        self._shown = self._started
        self._terminal = self.stream.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._show(final=kind is None)
        if kind and self._terminal and not SETTINGS.quiet:
            self.stream.write("\n")  # the error has a line of its own

    def advance(self, n: int = 1, *, bad: int = 0, note: str | None = None) -> None:
        """Count `n` units as done, `bad` of them as refused; `note` replaces the trailing remark."""
        self.done += n
        self.n_bad += bad
        self.note = self.note if note is None else note
        now = time.monotonic()
        if now - self._shown >= (TERMINAL_INTERVAL_S if self._terminal else PLAIN_INTERVAL_S):
            self._shown = now
            self._show(final=False)

    def line(self, *, final: bool) -> str:
        """Compose the line: label, count, share, rate, time left, bad count, remark."""
        elapsed = time.monotonic() - self._started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.done:,}" + (f" of {self.total:,}" if self.total is not None else "") + f" {self.unit}"]
        if rate > 0:
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        if final:
            parts.append(f"in {duration(elapsed)}")
        elif self.total and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if self.n_bad:
            parts.append(f"{self.n_bad:,} bad")
        if self.note:
            parts.append(self.note)
        return f"{self.label}: {', '.join(parts)}"

    def _show(self, *, final: bool) -> None:
        if SETTINGS.quiet:
            return
        if self._terminal:
            self.stream.write(f"\r\x1b[2K{self.line(final=final)}" + ("\n" if final else ""))
        else:
            self.stream.write(self.line(final=final) + "\n")
        self.stream.flush()


def progress(things: Iterable[T], label: str, *, total: int | None = None, unit: str = "items") -> Iterator[T]:
    """Yield each thing and count it."""
    if total is None and hasattr(things, "__len__"):
        total = len(things)  # pyright: ignore[reportArgumentType]
    with Progress(label, total, unit) as bar:
        for thing in things:
            yield thing
            bar.advance()
