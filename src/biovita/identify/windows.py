"""Answers along a recording to detections: who is heard from when to when."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from biovita.identify.answer import Answer, Named


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One taxon in one stretch of a recording.

    Attributes:
        start_s: where its first window begins.
        end_s: where its last window ends; the interval is half-open.
        named: the taxon, with score, probability and common name of its best window.
    """

    start_s: float
    end_s: float
    named: Named

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Make a detection from what `dataclasses.asdict` gave, also after a trip through JSON."""
        return cls(start_s=row["start_s"], end_s=row["end_s"], named=Named(**row["named"]))


def answer_from_row(row: dict[str, Any]) -> Answer:
    """Make an answer from what `dataclasses.asdict` gave, also after a trip through JSON."""
    return Answer(taxa=[Named(**one) for one in row["taxa"]], sure=Named(**row["sure"]) if row["sure"] else None)


def names_of(answer: Answer, *, min_score: float | None) -> list[Named]:
    """Choose the taxa that an answer stands for in a table.

    Args:
        answer: of a window, a picture or a recording.
        min_score: with which the answer was made. If it is given, all its taxa count, since each reaches it.
            Otherwise only the taxon that is sure enough counts, which may be none: unknown. Without calibration
            nothing is sure, and the first taxon counts.
    """
    if min_score is not None:
        return answer.taxa
    if answer.sure:
        return [answer.sure]
    is_calibrated = any(one.prob is not None for one in answer.taxa)
    return [] if is_calibrated else answer.taxa[:1]


class Merging:
    """Joins windows of one taxon that touch or overlap, window by window.

    A detection covers no moment that lies in none of its windows: windows back to back go on as long as each names
    the taxon; with overlapping ones the taxon may be missing as long as the ones that name it still touch.

    Attributes:
        open: detections that the next window may prolong, in the order in which they began.
    """

    def __init__(self, open_: list[Detection] | None = None) -> None:
        self.open = open_ or []

    def add(self, start_s: float, end_s: float, names: list[Named]) -> list[Detection]:
        """Take the next window [start_s, end_s) and return the detections that end before it."""
        closed = [one for one in self.open if one.end_s < start_s]
        going = [one for one in self.open if one.end_s >= start_s]
        for name in names:
            taxon = _taxon(name)
            n = next((n for n, one in enumerate(going) if _taxon(one.named) == taxon), None)
            if n is None:
                going.append(Detection(start_s=start_s, end_s=end_s, named=name))
            else:
                going[n] = replace(going[n], end_s=end_s, named=_better(going[n].named, name))
        self.open = going
        return closed

    def rows(self) -> list[dict[str, Any]]:
        """Return the open detections as JSON-able values."""
        return [asdict(one) for one in self.open]


def _taxon(named: Named) -> tuple[str, ...]:
    """Tell taxa apart: a name with all that stand above it."""
    return (named.rank, *(name for _, name in sorted(named.lineage.items())))


def _better(one: Named, other: Named) -> Named:
    """Keep the name with the higher probability or, without one, the higher score; the first of equals."""

    def worth(named: Named) -> float:
        return named.score if named.prob is None else named.prob

    return other if worth(other) > worth(one) else one
