"""Rank of the match, top-k, chance, and an interval that knows that queries of one taxon are alike."""

from statistics import NormalDist

import numpy as np

from biovita.bench.tasks import Ties
from biovita.errors import BenchError

N_RESAMPLES = 2000
CONFIDENCE = 0.95
PURPOSE_BOOTSTRAP = 71
BLOCK_CELLS = 100_000  # resamples x taxa held at once: they stay in cache


def rank_of_match(score: np.ndarray, is_match: np.ndarray, is_candidate: np.ndarray, *, ties: Ties) -> np.ndarray:
    """Rank each query's match among its candidates, counting from 1.

    With `against` a tie counts against the model: a rival with the same score ranks above the match, so a model that
    says the same of everything is never right. With `order` equals keep the order of the candidate list, as in MTEB.

    Args:
        score: float32 (query, width); higher is nearer.
        is_match: bool (query, width); exactly one in each row, and it is a candidate.
        is_candidate: bool (query, width); False beyond the end of a query's pool.
        ties: the tie rule.

    Returns:
        int64 (query,).

    Raises:
        BenchError: a score is NaN, or a query has no single match.
    """
    if np.isnan(score[is_candidate]).any():
        row = int(np.flatnonzero((np.isnan(score) & is_candidate).any(axis=1))[0])
        raise BenchError(f"a score of query {row} is not a number; a NaN has no rank")
    if not ((is_match & is_candidate).sum(axis=1) == 1).all():
        raise BenchError("a query has no match among its candidates, or several; so it has no rank")
    match = score[is_match][:, None]
    above = score > match
    level = (score == match) & ~is_match
    if ties == "order":
        level &= np.arange(score.shape[1]) < is_match.argmax(axis=1)[:, None]
    return 1 + ((above | level) & is_candidate).sum(axis=1)


def best_first(
    score: np.ndarray, is_match: np.ndarray, is_candidate: np.ndarray, *, ties: Ties, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Order candidates by the rule that `rank_of_match` counts by: its rank is the match's place here.

    Returns:
        columns, int64 (query, n'), best first; and whether each is a candidate at all (pools smaller than n).
    """
    loser = ~is_candidate * 2 + (is_match if ties == "against" else 0)
    order = np.lexsort((loser, np.where(is_candidate, -score, np.inf)), axis=-1)[:, :n]
    return order, np.take_along_axis(is_candidate, order, axis=1)


def chance(n_candidates: np.ndarray, k: int) -> float:
    """Return the expected top-k of a random order."""
    return float(np.minimum(1.0, k / n_candidates).mean())


def interval(hit: np.ndarray, taxon: np.ndarray) -> list[tuple[float, float]]:
    """Return a 95 % interval of the share of hits for new taxa like these, not only for new queries.

    Queries of one taxon stand or fall together, so the taxon is the unit: taxa are drawn anew with replacement
    N_RESAMPLES times, and the variance of the share over the draws says how many independent queries the sample is
    worth. Wilson's interval for that many queries, with Student's quantile for the number of taxa, keeps its promise
    near 0 and 1 and with few taxa as well, where the percentiles of the draws do not. Where all or no queries hit, the
    draws do not vary; the sample then counts as one query a taxon (Kish's number, for unequal taxa). One taxon alone
    says nothing of others: [0, 1].

    Args:
        hit: bool (query, measure), such as top-1, top-5 and top-10.
        taxon: integer label of each query's correct taxon (query,).

    Returns:
        (low, high) of each measure.

    Source:
        Wilson (1927); the effective size of clustered samples follows Kish (1965) and Korn and Graubard (1998).
    """
    label = np.unique(taxon, return_inverse=True)[1]
    size = np.bincount(label).astype(float)
    hits = np.stack([np.bincount(label, weights=column) for column in hit.T], axis=1)
    n_taxa, n = len(size), size.sum()
    if n_taxa == 1:
        return [(0.0, 1.0)] * hits.shape[1]
    variance = _resampled(hits, size).var(axis=0) * n_taxa / (n_taxa - 1)
    out = []
    for share, noise in zip((hits.sum(axis=0) / n).tolist(), variance.tolist(), strict=True):
        n_effective = n**2 / (size**2).sum() if share in (0, 1) else n
        if noise > 0:
            n_effective = min(n, share * (1 - share) / noise)
        out.append(_wilson(share, float(n_effective), _student(n_taxa - 1)))
    return out


def _resampled(hits: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the shares of hits in draws of taxa with replacement, (N_RESAMPLES, measure)."""
    rng = np.random.default_rng([0, PURPOSE_BOOTSTRAP])
    n_taxa = len(size)
    totals = np.column_stack([hits, size])
    drawn, left = [], N_RESAMPLES
    while left:
        block = min(left, max(1, BLOCK_CELLS // n_taxa))
        taxa = rng.integers(n_taxa, size=(block, n_taxa)) + n_taxa * np.arange(block)[:, None]
        drawn.append(np.bincount(taxa.ravel(), minlength=block * n_taxa).reshape(block, n_taxa) @ totals)
        left -= block
    drawn = np.concatenate(drawn)
    return drawn[:, :-1] / drawn[:, -1:]


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def _student(degrees: int) -> float:
    """Return Student's two-sided quantile by Abramowitz and Stegun 26.7.5: within 1 % from 3 degrees on."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
