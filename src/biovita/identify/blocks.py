"""What is known of files between one block of answers and the next, as values that survive a trip through JSON.

A `Block` holds what came of some files and windows, and the `State` in which the next one begins. `results` puts blocks
together to files.
"""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from biovita.identify.answer import Answer, Named
from biovita.identify.windows import Detection, Merging, answer_from_row
from biovita.media.check import Verdict
from biovita.media.headers import Header
from biovita.models.pieces import Span


@dataclass(frozen=True, kw_only=True)
class Identified:
    """What one file is.

    Attributes:
        path: as it was given.
        modality: audio or image.
        duration_s: of a recording; None for a picture.
        whole: the answer for all of it.
        detections: of a recording, in the order in which they begin; none for a picture.
        windows: of a recording with their answers; kept by `identify_file` only.
        vector: that stands for the file: unit float32, shape (width,); kept by `identify_file` only.
        verdict: of the checker; of `identify_files` only.
        header: what the file says of its time, place and device; of `identify_files` only.
    """

    path: str
    modality: str
    duration_s: float | None
    whole: Answer
    detections: list[Detection]
    windows: list[tuple[float, float, Answer]] = field(default_factory=list)
    vector: np.ndarray | None = field(default=None, repr=False, compare=False)
    verdict: Verdict | None = None
    header: Header = field(default_factory=Header)


@dataclass(kw_only=True)
class Opened:
    """A file of which something may have been answered.

    Attributes:
        verdict: of the checker.
        stamp: its size and time of change, by which a change is seen.
        total: sum of its vectors: float64, shape (width,).
        n_vectors: how many these are.
        n_windows: number of the first window that is not among them.
        merging: its detections that may go on.
    """

    verdict: Verdict | None = None
    stamp: list[int] | None = None
    total: np.ndarray | None = None
    n_vectors: int = 0
    n_windows: int = 0
    merging: Merging = field(default_factory=Merging)

    @property
    def path(self) -> str:
        """Where the file lies, as it was given."""
        return self.verdict.path if self.verdict else ""

    def add(self, window: int, span: Span | None, vector: np.ndarray, names: list[Named]) -> list[Detection]:
        """Take the next vector with what it is called, and return the detections that are over."""
        self.total = vector.astype(np.float64) if self.total is None else self.total + vector
        self.n_vectors += 1
        self.n_windows = window + 1
        return self.merging.add(*span, names) if span else []

    def vector(self) -> np.ndarray:
        """Return the mean of the vectors: unit float32, shape (width,)."""
        assert self.total is not None
        mean = self.total / self.n_vectors
        return (mean / np.linalg.norm(mean)).astype(np.float32)

    def row(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "verdict": self.verdict and self.verdict.row(),
            "stamp": self.stamp,
            "total": None if self.total is None else _text(self.total),
            "n_vectors": self.n_vectors,
            "n_windows": self.n_windows,
            "merging": self.merging.rows(),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Make it from what `row` gave."""
        return cls(
            verdict=row["verdict"] and Verdict.from_row(row["verdict"]),
            stamp=row["stamp"],
            total=row["total"] and _array(row["total"], np.float64),
            n_vectors=row["n_vectors"],
            n_windows=row["n_windows"],
            merging=Merging([Detection.from_row(one) for one in row["merging"]]),
        )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A file that is done.

    Attributes:
        verdict: of the checker, with the facts of the file; or why it was refused, be it later than by the check.
        stamp: its size and time of change.
        header: what it says of its time, place and device.
        whole: the answer for all of it; None where it was refused.
        detections: those since the block before.
        ends_group: whether it is the last file of its animal.
        together: the answer for all files of its animal, with the last one that shows it.
    """

    verdict: Verdict
    stamp: list[int] | None
    header: Header = field(default_factory=Header)
    whole: Answer | None = None
    detections: list[Detection] = field(default_factory=list)
    ends_group: bool = True
    together: Answer | None = None

    def row(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        row = asdict(self)
        at = self.header.recorded_at
        return {**row, "header": {**row["header"], "recorded_at": at and at.isoformat()}}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Make it from what `row` gave, also after a trip through JSON."""
        at = row["header"]["recorded_at"]
        known = {
            "verdict": Verdict.from_row(row["verdict"]),
            "header": Header(**{**row["header"], "recorded_at": at and datetime.fromisoformat(at)}),
            "whole": row["whole"] and answer_from_row(row["whole"]),
            "detections": [Detection.from_row(one) for one in row["detections"]],
            "together": row["together"] and answer_from_row(row["together"]),
        }
        return cls(**{**row, **known})


@dataclass(frozen=True, kw_only=True)
class State:
    """What the next block needs to know.

    Attributes:
        n_files: files that are done.
        opened: what is there of the next one.
        group: modality and vector of the files that are done of an animal that is not.
    """

    n_files: int = 0
    opened: Opened | None = None
    group: tuple[tuple[str, np.ndarray], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Block:
    """What came of the next files and windows.

    Attributes:
        ended: files, in order.
        detections: that are over, of the file that is open after them.
        state: after the block.
    """

    ended: list[Ended]
    detections: list[Detection]
    state: State

    def row(self) -> dict[str, Any]:
        """Return the block as JSON-able values."""
        return {
            "ended": [one.row() for one in self.ended],
            "detections": [asdict(one) for one in self.detections],
            "state": {
                "n_files": self.state.n_files,
                "opened": self.state.opened and self.state.opened.row(),
                "group": [(modality, _text(vector)) for modality, vector in self.state.group],
            },
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Make a block from what `row` gave."""
        state = row["state"]
        return cls(
            ended=[Ended.from_row(one) for one in row["ended"]],
            detections=[Detection.from_row(one) for one in row["detections"]],
            state=State(
                n_files=state["n_files"],
                opened=state["opened"] and Opened.from_row(state["opened"]),
                group=tuple((modality, _array(text, np.float32)) for modality, text in state["group"]),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one file, or of several that show one animal.

    Attributes:
        files: those that were identified.
        refused: what the checker says about the others.
        together: the answer for all of `files`; None where each stands for itself.
    """

    files: list[Identified] = field(default_factory=list)
    refused: list[Verdict] = field(default_factory=list)
    together: Answer | None = None


def results(blocks: Iterable[Block]) -> Iterator[Result]:
    """Put blocks together to files, or to files of one animal, in order."""
    detections: list[Detection] = []
    found = Result()
    for block in blocks:
        for one in block.ended:
            detections += one.detections
            if one.whole:
                found.files.append(
                    Identified(
                        path=one.verdict.path,
                        modality=str(one.verdict.modality),
                        duration_s=one.verdict.duration_s,
                        whole=one.whole,
                        detections=in_order(detections),
                        verdict=one.verdict,
                        header=one.header,
                    )
                )
            else:  # its detections are dropped: a file that ends badly has none
                found.refused.append(one.verdict)
            detections = []
            if one.ends_group:
                yield replace(found, together=one.together)
                found = Result()
        detections += block.detections


def stamp_of(path: Path) -> list[int] | None:
    """Return what shows that a file was changed: its size and the time of its last change; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def in_order(detections: Iterable[Detection]) -> list[Detection]:
    """Sort detections by their begin; of those that begin together the best scored comes first."""
    return sorted(detections, key=lambda one: (one.start_s, -one.named.score, one.named.name))


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str, dtype: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)
