"""A look at the joint space: a seeded sample of its vectors, drawn in two dimensions and compared by cosine."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from biovita.embed.store import EmbeddingTable
from biovita.report.inputs import MODALITIES, Catalogue

PURPOSE_SAMPLE = 81
N_SHOWN = 1200
N_PER_SPECIES = 4  # of each modality, so that no species fills the map
N_COMPONENTS = 50
PERPLEXITY = 30.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Vectors of the map: float32 (n, dimension), with modality and species of each."""

    vector: np.ndarray
    modality: list[str]
    species: list[str]

    def __len__(self) -> int:
        return len(self.modality)


def draw(tables: Mapping[str, EmbeddingTable], catalogue: Catalogue, *, seed: int, n: int = N_SHOWN) -> Sample:
    """Draw about n vectors: species in random order, those with most modalities first, until the map is full."""
    rows: dict[str, dict[str, list[int]]] = {}
    for modality, table in tables.items():
        for row, species in _species_of(table, modality, catalogue):
            rows.setdefault(species, {}).setdefault(modality, []).append(row)
    rng = np.random.default_rng([seed, PURPOSE_SAMPLE])
    names = sorted(rows)
    shuffled = [names[i] for i in rng.permutation(len(names))]
    chosen: list[tuple[str, int, str]] = []
    for name in sorted(shuffled, key=lambda name: -len(rows[name])):
        if len(chosen) >= n:
            break
        for modality, having in rows[name].items():
            chosen += [(modality, int(row), name) for row in rng.permutation(having)[:N_PER_SPECIES]]
    vectors = [tables[modality].embedding[row] for modality, row, _ in chosen]
    return Sample(
        vector=np.stack(vectors) if vectors else np.zeros((0, 1), np.float32),
        modality=[modality for modality, _, _ in chosen],
        species=[name for _, _, name in chosen],
    )


def _species_of(table: EmbeddingTable, modality: str, catalogue: Catalogue) -> list[tuple[int, str]]:
    """Name the species of each row that has one; of names only the bare species names are taken, each once."""
    if modality == "text":
        named = {table.text[row]: row for row, level in enumerate(table.level) if level == "species"}
        return [(row, name) for name, row in named.items() if name in catalogue.species]
    ids = pl.DataFrame({"id": table.ids}).with_row_index("row")
    return ids.join(catalogue.media, on="id").sort("row").select("row", "species").rows()


def project(vector: np.ndarray, *, seed: int) -> np.ndarray:
    """Place vectors in the plane, (n, 2): up to 50 principal components, then t-SNE; one seed, one map."""
    n, dimension = vector.shape
    with threadpool_limits(1):  # at this size threads wait for each other longer than they work
        narrow = PCA(min(N_COMPONENTS, dimension, n), random_state=seed).fit_transform(vector)
        return TSNE(2, perplexity=perplexity(n), init="pca", random_state=seed).fit_transform(narrow)


def perplexity(n: int) -> float:
    """Return how many neighbours t-SNE minds for n points."""
    return min(PERPLEXITY, (n - 1) // 3)


def cosines(sample: Sample, unseen: frozenset[str]) -> list[dict[str, Any]]:
    """Return mean cosines of pairs of one species and of pairs of different species, seen and unseen apart.

    Returns:
        a row a pair of modalities: `pair` and, for `seen` and `unseen`, `match` and `random` (None without such pairs).
    """
    modality, species = np.array(sample.modality), np.array(sample.species)
    is_unseen = np.array([name in unseen for name in sample.species], bool)
    rows = []
    for one, other in (("audio", "text"), ("audio", "image"), ("image", "text"), *((m, m) for m in MODALITIES)):
        row: dict[str, Any] = {"pair": (one, other)}
        for split, wanted in (("seen", ~is_unseen), ("unseen", is_unseen)):
            a, b = wanted & (modality == one), wanted & (modality == other)
            cosine = sample.vector[a] @ sample.vector[b].T
            same = species[a][:, None] == species[b][None]
            pairs = ~np.eye(len(cosine), dtype=bool) if one == other else np.ones(cosine.shape, bool)
            row[split] = {"match": _mean(cosine[same & pairs]), "random": _mean(cosine[~same])}
        rows.append(row)
    return rows


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def hues(groups: list[str], n_hues: int) -> tuple[list[int], list[tuple[str, int]]]:
    """Give the largest groups a colour each.

    Returns:
        the number of the colour for each point (n_hues where none is left), and the legend as (group, colour).
    """
    ranked = [name for name, _ in sorted(Counter(groups).items(), key=lambda item: (-item[1], item[0]))]
    colour = {name: min(i, n_hues) for i, name in enumerate(ranked)}
    legend = [(name, i) for name, i in colour.items() if i < n_hues]
    if len(ranked) > n_hues:
        legend.append((f"{len(ranked) - n_hues} others", n_hues))
    return [colour[name] for name in groups], legend
