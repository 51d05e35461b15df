"""Photos and recordings of one animal, as one answer.

The evidence adds up: the logit of a species is the weighted sum of its mean score in each modality (a log-linear pool),
with weights that are fitted on animals of which there is both. Several files of one modality repeat each other, so
their scores are averaged, not added.

Source:
    Genest and Zidek 1986, Combining Probability Distributions (log-linear pools).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

MEDIA = ("audio", "image")
BOTH = "audio+image"
FEWEST_PAIRS = 20  # animals of which there is both; with fewer, files are paired by species


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Animals whose species is known, with what there is of each.

    Attributes:
        vectors: by modality, shape (n, width): of each animal the mean of its files.
        truth: place of the species among the labels, shape (n,).
        paired_by: `individual` or `species`, where there are two modalities.
    """

    vectors: dict[str, np.ndarray]
    truth: np.ndarray
    paired_by: str = ""

    def scores(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Score the labels, (species, width): by modality, shape (n, species)."""
        return {modality: vectors @ labels.T for modality, vectors in self.vectors.items()}


def mean_scores(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Score labels by several files of one modality: the mean of their cosines.

    Args:
        vectors: of the files, shape (n files, width), unit rows.
        labels: shape (n labels, width), unit rows.

    Returns:
        float32, shape (n labels,).
    """
    return (vectors.astype(np.float32, copy=False) @ labels.T).mean(0)


def key_of(modalities: Iterable[str]) -> str:
    """Say which modalities there are, as weights are filed: `audio`, `image` or `audio+image`."""
    return "+".join(sorted(modalities))


def samples_of(
    vectors: np.ndarray, modality: Sequence[str], truth: Sequence[int], individual: Sequence[str | None]
) -> dict[str, Sample]:
    """Sort files into samples by what there is: every file by itself, and animals with a sound and a picture.

    Args:
        vectors: of the files, shape (n, width).
        modality: audio or image, of each.
        truth: place of its species among the labels.
        individual: which animal it is; None is not known.

    Returns:
        a sample for each of `audio`, `image` and `audio+image` that there is.
    """
    kinds, species = np.array(modality), np.array(truth, np.intp)
    found = {}
    for one in MEDIA:
        if (kinds == one).any():
            found[one] = Sample(vectors={one: vectors[kinds == one]}, truth=species[kinds == one])
    files: dict[str, dict[str, list[int]]] = {}
    for n, animal in enumerate(individual):
        if animal is not None:
            files.setdefault(animal, {}).setdefault(modality[n], []).append(n)
    both = [(there["audio"], there["image"]) for there in files.values() if len(there) == 2]
    paired_by = "individual"
    if len(both) < FEWEST_PAIRS:
        paired_by = "species"
        both = []
        for one in np.unique(species):
            own = [np.flatnonzero((species == one) & (kinds == kind)) for kind in MEDIA]
            both += [([a], [i]) for a, i in zip(*own, strict=False)]
    if both:
        means = {kind: np.stack([vectors[pair[n]].mean(0) for pair in both]) for n, kind in enumerate(MEDIA)}
        truths = np.array([species[sounds[0]] for sounds, _ in both])
        found[BOTH] = Sample(vectors=means, truth=truths, paired_by=paired_by)
    return found
