"""Where a model is wrong, how near was it? And which groups of queries does it know?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from biovita.bench.tasks import LEVELS, Level, Modality

UNKNOWN = "unknown"


def lineages(indices: dict[Modality, pl.DataFrame], level: Level) -> dict[str, dict[str, str]]:
    """Map each taxon of a level to its name at every higher level, where the indices know exactly one.

    Returns:
        {higher level: {taxon: name}}; empty at family level.
    """
    table = pl.concat([index.select(LEVELS) for index in indices.values()])
    found = {}
    for higher in LEVELS[LEVELS.index(level) + 1 :]:
        pairs = table.select(taxon=level, name=higher).filter((pl.col("taxon") != "") & (pl.col("name") != ""))
        pairs = pairs.unique().filter(pl.col("taxon").is_unique())
        found[higher] = dict(zip(pairs["taxon"], pairs["name"], strict=True))
    return found


def error_consistency(
    correct: list[str], answer: list[str], higher: dict[str, dict[str, str]]
) -> dict[str, float | None]:
    """Return the share of errors that stay in the right genus and family.

    Args:
        correct: the true taxon of each query that was answered wrongly.
        answer: the taxon that was ranked first instead.
        higher: see `lineages`. A taxon without a known lineage shares it with none.

    Returns:
        {higher level: share}; None where there are no errors to look at.
    """
    shares: dict[str, float | None] = {}
    for level, name in higher.items():
        same = [name.get(a) is not None and name.get(a) == name.get(b) for a, b in zip(correct, answer, strict=True)]
        shares[level] = sum(same) / len(same) if same else None
    return shares


def by_group(groups: Sequence[str | None], rank: np.ndarray, k: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Return queries and top-k of each group, sorted by name; queries of no known group stand as `unknown`.

    Args:
        groups: of each query: its class, its source, ...
        rank: of the correct taxon (query,), from 1.
        k: a hit means a rank of at most k.
    """
    names = np.array([name or UNKNOWN for name in groups], dtype=str)
    return {
        name: {
            "n_queries": int((names == name).sum()),
            **{f"top{n}": float((rank[names == name] <= n).mean()) for n in k},
        }
        for name in np.unique(names).tolist()
    }
