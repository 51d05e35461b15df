"""Hits to look at one by one, and the answers about them."""

from dataclasses import dataclass

from biovita.search.archive import Archive, Hit
from biovita.search.labels import Label, label_counts, review_queue, write_labels
from biovita.web.answers import LabelRequest

WHO = "page"  # as who answers here are kept


@dataclass(frozen=True, kw_only=True)
class Review:
    """What the page asks next about a name.

    Attributes:
        name: what the hits may be.
        hit: the next one; None where all have an answer.
        counts: how many answers there are: yes, no, unsure.
        known: the counts of every name that was ever asked about.
    """

    name: str
    hit: Hit | None
    counts: dict[str, int]
    known: dict[str, dict[str, int]]

    @property
    def n_done(self) -> int:
        """Count the answers about this name."""
        return sum(self.counts.values())


def review(archive: Archive, name: str) -> Review:
    """Choose what to ask next."""
    archive.refresh()
    known = label_counts(archive)
    queue = review_queue(archive, name, k=1) if name else []
    return Review(name=name, hit=queue[0] if queue else None, counts=known.get(name, {}), known=known)


def keep(archive: Archive, label: LabelRequest) -> None:
    """Write one answer.

    Raises:
        ArchiveError: there is no such hit, or the name cannot be used.
    """
    write_labels(archive, [Label(hit=label.hit, name=label.name.strip(), answer=label.answer, who=WHO)])
