"""A query made of examples, in words, sounds and pictures, with more or less like this; near-duplicates are folded.

Cosines of two pairs of modalities are not on one scale: in one model a text is nearest to a picture at 0.3 and a sound
to a sound at 0.9, and both may be the best there is. So nothing here compares raw cosines of two kinds:

1. An example says of every row of a modality how near it is; its word counts in standard deviations of that modality's
   scores (over a sample of the archive). Added up with their weights, the examples are one direction for each modality.
2. A row's `standing` is how many standard deviations its score lies above the mean of its modality. Hits of several
   modalities are ranked by it. Among rows of one modality and for one example this is the order of the cosines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from biovita.errors import ArchiveError
from biovita.search.archive import MAX_FETCH, Archive, Hit, check_k

To = Literal["any", "audio", "image"]
UNLIKE = -0.5  # weight of what hits should not be like: half of what they should be, or little is left to go by
NEAR = 0.9995  # cosine from which two rows of one modality are the same for a person
N_AHEAD = 4  # times k, rows that are fetched first; more where folding leaves too few


@dataclass(frozen=True, kw_only=True)
class Example:
    """One thing that hits should be like.

    Attributes:
        modality: text, audio or image.
        vector: shape (width,), of unit length.
        weight: how much it counts; below 0, hits should be unlike it.
        item: of the archive's own row that it is; that one is no hit.
    """

    modality: str
    vector: np.ndarray
    weight: float = 1.0
    item: str | None = None


def examples_like(archive: Archive, ids: Sequence[str], *, weight: float = 1.0) -> list[Example]:
    """Take rows of the archive as examples; the weight is shared among them.

    Raises:
        ArchiveError: an id is not there.
    """
    hits = archive.get(ids)
    pairs = zip(hits, archive.vectors(ids), strict=True)
    return [
        Example(modality=hit.modality, vector=vector, weight=weight / len(hits), item=hit.item) for hit, vector in pairs
    ]


def search(
    archive: Archive,
    examples: Sequence[Example],
    *,
    to: To = "any",
    k: int = 20,
    where: str | None = None,
    collapse: bool = True,
    exact: bool = False,
) -> list[Hit]:
    """Find what is like the examples, best first by standing.

    Args:
        archive: where to look.
        examples: at least one with a weight above 0.
        to: the modality of the hits.
        k: 1 to 100.
        where: a filter (search.where).
        collapse: show one row of a recording, and one of rows that are all but equal.
        exact: compare with every row, also where there is an index.

    Raises:
        ArchiveError: the examples, k or the filter cannot be used.
    """
    check_k(k)
    if not any(example.weight > 0 for example in examples):
        raise ArchiveError(f"{archive.uri}: nothing to search for; give a text, a sound, a picture or --like ID")
    own = {example.item for example in examples} - {None}
    found: list[Hit] = []
    for modality in ("audio", "image") if to == "any" else (to,):
        _, sample = archive.sample(modality)
        if not len(sample):
            continue
        direction = combine(examples, sample)
        n = N_AHEAD * k
        while True:
            hits, vectors = archive.fetch(direction, n, modality=modality, where=where, exact=exact)
            others = [n for n, hit in enumerate(hits) if hit.item not in own]
            kept = [hits[n] for n in others]
            if collapse:
                kept = fold(kept, vectors[others])
            if len(kept) >= k or len(hits) < n or n >= MAX_FETCH:
                break
            n *= N_AHEAD
        mean, spread = _scale(sample, direction)
        found += [replace(hit, standing=(hit.score - mean) / spread) for hit in kept[:k]]
    return sorted(found, key=lambda hit: (-(hit.standing or 0.0), hit.id))[:k]


def combine(examples: Sequence[Example], sample: np.ndarray) -> np.ndarray:
    """Make one direction of all examples, for rows of one modality.

    Args:
        examples: at least one.
        sample: vectors that stand for the modality, shape (n, width).

    Returns:
        float32, shape (width,), of unit length.

    Raises:
        ArchiveError: the examples cancel each other out.
    """
    total = np.sum(
        [example.weight * example.vector / _scale(sample, example.vector)[1] for example in examples], axis=0
    )
    length = float(np.linalg.norm(total))
    if not length > 0:
        raise ArchiveError("the examples cancel each other out; change their weights")
    return (total / length).astype(np.float32)


def _scale(sample: np.ndarray, vector: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of a modality's scores; 1 where they do not differ."""
    scores = sample @ vector
    spread = float(scores.std())
    return float(scores.mean()), spread if spread > 1e-6 else 1.0


def fold(hits: Sequence[Hit], vectors: np.ndarray, *, near: float = NEAR) -> list[Hit]:
    """Keep the best of each group of near-duplicates, and count the others in it.

    A hit goes to the first better one that is of the same recording or picture, or whose vector is all but equal.

    Args:
        hits: of one modality, best first.
        vectors: theirs, unit rows, shape (n_hits, width).
        near: cosine from which two are all but equal.
    """
    kept: list[int] = []
    n_alike: list[int] = []
    group_of: dict[str, int] = {}
    chosen = np.empty_like(vectors)
    for n, hit in enumerate(hits):
        group = group_of.get(hit.item)
        if group is None:
            alike = np.flatnonzero(chosen[: len(kept)] @ vectors[n] >= near)
            group = int(alike[0]) if len(alike) else None
        if group is None:
            group = len(kept)
            chosen[group] = vectors[n]
            kept.append(n)
            n_alike.append(0)
        else:
            n_alike[group] += 1
        group_of.setdefault(hit.item, group)
    return [replace(hits[n], n_alike=count) for n, count in zip(kept, n_alike, strict=True)]
