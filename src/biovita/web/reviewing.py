"""Hits to look at one by one, and the answers about them."""

from dataclasses import dataclass

from biovita.search.archive import Archive, Hit
from biovita.search.labels import Label, label_counts, read_labels, review_queue, write_labels
from biovita.web.answers import LabelRequest

WHO = "page"  # as who answers here are kept


@dataclass(frozen=True, kw_only=True)
class Review:
    """What the page asks next about a name.

    Attributes:
        name: what the hits may be.
        hit: the next one; None where all have an answer.
        said: the answer that the hit has, and that a new one replaces; "" where it has none.
        counts: how many answers there are: yes, no, unsure.
        known: the counts of every name that was ever asked about.
    """

    name: str
    hit: Hit | None
    said: str
    counts: dict[str, int]
    known: dict[str, dict[str, int]]

    @property
    def n_done(self) -> int:
        """Count the answers about this name."""
        return sum(self.counts.values())

    @property
    def way(self) -> str:
        """Say how the next hit was chosen (`search.labels.review_queue`)."""
        if self.counts.get("yes") and self.counts.get("no"):
            return "Chosen where your answers leave the most doubt."
        if self.counts.get("yes"):
            return "Chosen near to your yes. One no, and the page asks where it is in doubt."
        return "Chosen to differ from what you have seen, until a first yes."


def review(archive: Archive, name: str, again: str = "") -> Review:
    """Choose what to ask next.

    Args:
        archive: where to look.
        name: what the hits may be.
        again: id of a hit to ask about once more.

    Raises:
        ArchiveError: there is no such hit.
    """
    archive.refresh()
    known = label_counts(archive)
    queue = archive.get([again]) if name and again else review_queue(archive, name, k=1) if name else []
    said = {label.hit: label.answer for label in read_labels(archive, name=name)}.get(again, "") if again else ""
    return Review(name=name, hit=queue[0] if queue else None, said=said, counts=known.get(name, {}), known=known)


def keep(archive: Archive, label: LabelRequest) -> None:
    """Write one answer.

    Raises:
        ArchiveError: there is no such hit, or the name cannot be used.
    """
    write_labels(archive, [Label(hit=label.hit, name=label.name.strip(), answer=label.answer, who=WHO)])
