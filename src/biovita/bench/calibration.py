"""Can a score be read as a probability? The softmax over a pool, beside how often the first answer is right."""

from typing import Any

import numpy as np

N_BINS, LEAST_IN_BIN = 10, 50  # fewer queries say little of how often they are right
LARGEST_SCALE = 1e4  # of cosines: beyond it a softmax is an argmax
N_HALVINGS = 40


def probabilities(score: np.ndarray, scale: float) -> np.ndarray:
    """Return the softmax of `scale * score` over each row, float64 (query, width); cells of -inf get 0."""
    is_there = np.isfinite(score)
    logit = np.where(is_there, scale * np.where(is_there, score, 0).astype(np.float64), -np.inf)
    exp = np.exp(logit - logit.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def fit_scale(score: np.ndarray, match: np.ndarray) -> float:
    """Find the scale (1 / temperature) under which the softmax finds the matches likeliest.

    The likelihood is concave in the scale, so the root of its derivative is found by halving. Where no scale above 0
    helps, the result is 0: all candidates equally likely.

    Args:
        score: cosines (query, width); -inf where a pool is smaller.
        match: column of the match (query,).

    Source:
        Guo et al., On Calibration of Modern Neural Networks (2017): temperature scaling.
    """
    finite = np.where(np.isfinite(score), score, 0.0).astype(np.float64)
    own = finite[np.arange(len(score)), match]

    def slope(scale: float) -> float:
        return float((own - (probabilities(score, scale) * finite).sum(axis=1)).mean())

    low, high = 0.0, LARGEST_SCALE
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return low


def calibration(score: np.ndarray, match: np.ndarray, taxon: np.ndarray) -> dict[str, Any] | None:
    """Say how well scores become probabilities.

    The scale is fitted on the queries of one half of the taxa and judged on the other, and the other way round, so
    that nothing is judged on what it was fitted on.

    Args:
        score: cosines (query, width); -inf where a pool is smaller.
        match: column of the match (query,).
        taxon: integer label of each query's correct taxon (query,); taxa are dealt to the halves in turn.

    Returns:
        `scale` (mean of both), `mean_prob` of the first answers beside their `top1`, `ece` (expected calibration
        error: the mean distance of the two over bins of equally many queries, sorted by probability; ten, or fewer so
        that each has 50), and `bins` with the same three numbers each. None with fewer than two taxa. Matches without
        samples, which `--missing zero` lets pass, are left out.
    """
    has = np.isfinite(score[np.arange(len(score)), match])
    score, match, taxon = score[has], match[has], taxon[has]
    own = score[np.arange(len(score)), match]
    is_odd = np.unique(taxon, return_inverse=True)[1] % 2 == 1
    if not is_odd.any():
        return None
    prob, scales = np.empty(len(score)), []
    for judged in (is_odd, ~is_odd):
        scales.append(fit_scale(score[~judged], match[~judged]))
        prob[judged] = probabilities(score[judged], scales[-1]).max(axis=1)
    right = (score > own[:, None]).sum(axis=1) + (score == own[:, None]).sum(axis=1) == 1
    n_bins = max(1, min(N_BINS, len(prob) // LEAST_IN_BIN))
    parts = np.array_split(np.argsort(prob, kind="stable"), n_bins)
    bins = [
        {"n_queries": len(part), "mean_prob": float(prob[part].mean()), "top1": float(right[part].mean())}
        for part in parts
    ]
    return {
        "n_queries": len(score),
        "scale": float(np.mean(scales)),
        "mean_prob": float(prob.mean()),
        "top1": float(right.mean()),
        "ece": sum(part["n_queries"] * abs(part["mean_prob"] - part["top1"]) for part in bins) / len(score),
        "bins": bins,
    }
