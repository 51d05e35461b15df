"""Scores as probabilities: a plain twin, known truths, and odd pools."""

import math

import numpy as np
import pytest

from biovita.bench.calibration import calibration, fit_scale, probabilities


def worlds(n: int, scale: float, *, width: int = 20, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw cosines, and matches as the softmax at a scale says."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(-0.2, 0.6, (n, width)).astype(np.float32)
    prob = probabilities(score, scale)
    return score, np.array([rng.choice(width, p=row) for row in prob])


def loss(score: np.ndarray, match: np.ndarray, scale: float) -> float:
    total = 0.0
    for row, own in zip(score.tolist(), match.tolist(), strict=True):
        total -= scale * row[own] - math.log(sum(math.exp(scale * s) for s in row if s > -math.inf))
    return total / len(score)


@pytest.mark.parametrize("truth", [5.0, 20.0, 60.0])
def test_the_scale_that_made_the_matches_is_found(truth):
    score, match = worlds(4000, truth)
    assert fit_scale(score, match) == pytest.approx(truth, rel=0.1)


def test_no_other_scale_is_likelier_by_a_plain_loop():
    score, match = worlds(200, 12.0)
    score[3, 5:] = -np.inf
    match[3] = 2
    best = fit_scale(score, match)
    assert all(
        loss(score, match, best) <= loss(score, match, best * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2)
    )


def test_a_model_that_knows_nothing_gets_equal_probabilities():
    score, _ = worlds(500, 12.0)
    assert fit_scale(-np.abs(score), np.abs(score).argmax(axis=1)) == 0.0
    assert probabilities(score, 0.0) == pytest.approx(np.full(score.shape, 1 / 20))
    ragged = np.array([[0.3, 0.1, -np.inf]], np.float32)
    assert probabilities(ragged, 0.0).tolist() == [[0.5, 0.5, 0.0]]


def test_a_model_that_is_always_right_is_sure():
    score = np.full((50, 10), 0.1, np.float32)
    match = np.arange(50) % 10
    score[np.arange(50), match] = 0.9
    found = calibration(score, match, np.arange(50) % 7)
    assert found is not None
    assert (found["top1"], found["mean_prob"], found["ece"]) == pytest.approx((1, 1, 0), abs=1e-6)


def test_the_error_is_small_where_the_softmax_is_true_and_equals_a_plain_count():
    score, match = worlds(6000, 15.0)
    taxon = np.random.default_rng(2).integers(0, 300, len(match))
    found = calibration(score, match, taxon)
    assert found is not None
    assert found["ece"] < 0.03
    halves = [np.isin(taxon, np.unique(taxon)[start::2]) for start in (0, 1)]
    judged_all: list[tuple[float, int, bool]] = []
    for fitted, judged in (halves, halves[::-1]):
        scale = fit_scale(score[fitted], match[fitted])
        for n in np.flatnonzero(judged).tolist():
            row = score[n].tolist()
            weights = [math.exp(scale * (s - max(row))) for s in row]
            judged_all.append((max(weights) / sum(weights), n, row.index(max(row)) == match[n]))
    judged_all.sort()
    size = len(match) // 10
    bins = [judged_all[i * size : (i + 1) * size] for i in range(10)]
    error = sum(abs(sum(p for p, _, _ in part) - sum(r for _, _, r in part)) for part in bins) / len(match)
    assert found["ece"] == pytest.approx(error, abs=1e-6)
    assert sum(part["n_queries"] for part in found["bins"]) == len(match)


def test_a_tie_is_not_right_and_one_taxon_alone_says_nothing():
    score = np.zeros((6, 4), np.float32)
    match = np.zeros(6, np.int64)
    found = calibration(score, match, np.arange(6))
    assert found is not None
    assert found["top1"] == 0
    assert calibration(score, match, np.zeros(6, np.int64)) is None


def test_matches_without_samples_are_left_out():
    score, match = worlds(100, 10.0)
    score[0, match[0]] = -np.inf
    found = calibration(score, match, np.arange(100))
    assert found is not None
    assert found["n_queries"] == 99
    assert calibration(np.full((3, 2), -np.inf, np.float32), np.zeros(3, np.int64), np.arange(3)) is None
