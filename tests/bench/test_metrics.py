from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from biovita.bench.metrics import _student, best_first, chance, interval, rank_of_match
from biovita.errors import BenchError


def plain_rank(score: list[float], match: int, ties: str) -> int:
    """Count the rivals above the match, one by one."""
    above = 0
    for i, rival in enumerate(score):
        if i != match and (rival > score[match] or (rival == score[match] and (ties == "against" or i < match))):
            above += 1
    return above + 1


pools = st.lists(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            st.lists(st.sampled_from([-np.inf, -0.5, 0.0, 0.25, 0.5]), min_size=n, max_size=n), st.integers(0, n - 1)
        )
    ),
    min_size=1,
    max_size=8,
)


def rectangle(queries: list[tuple[list[float], int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width = max(len(score) for score, _ in queries)
    score = np.full((len(queries), width), 9.0, np.float32)  # beyond a pool stands nonsense
    is_match = np.zeros(score.shape, bool)
    is_candidate = np.zeros(score.shape, bool)
    for row, (values, match) in enumerate(queries):
        score[row, : len(values)], is_match[row, match], is_candidate[row, : len(values)] = values, True, True
    return score, is_match, is_candidate


@given(pools, st.sampled_from(["against", "order"]))
@settings(deadline=None, max_examples=200)
def test_rank_equals_a_plain_count(queries, ties):
    score, is_match, is_candidate = rectangle(queries)
    rank = rank_of_match(score, is_match, is_candidate, ties=ties)
    assert rank.tolist() == [plain_rank(values, match, ties) for values, match in queries]


@given(pools, st.sampled_from(["against", "order"]))
@settings(deadline=None, max_examples=100)
def test_the_order_that_is_kept_puts_the_match_at_its_rank(queries, ties):
    score, is_match, is_candidate = rectangle(queries)
    rank = rank_of_match(score, is_match, is_candidate, ties=ties)
    order, is_real = best_first(score, is_match, is_candidate, ties=ties, n=99)
    for row, (values, match) in enumerate(queries):
        places = order[row][is_real[row]]
        assert sorted(places) == list(range(len(values)))
        assert list(places).index(match) + 1 == rank[row]
        assert all(values[a] >= values[b] for a, b in pairwise(places))


def test_a_tie_counts_against_the_match():
    score = np.ones((1, 5), np.float32)
    is_match = np.array([[True, False, False, False, False]])
    everyone = np.ones_like(is_match)
    assert rank_of_match(score, is_match, everyone, ties="against") == [5]
    assert rank_of_match(score, is_match, everyone, ties="order") == [1]


def test_a_score_that_is_not_a_number_is_refused():
    score = np.array([[0.5, np.nan]], np.float32)
    is_match = np.array([[True, False]])
    with pytest.raises(BenchError, match="NaN has no rank"):
        rank_of_match(score, is_match, np.ones_like(is_match), ties="against")
    assert rank_of_match(score, is_match, np.array([[True, False]]), ties="against") == [1]


def test_chance_is_capped_by_small_pools():
    assert chance(np.array([100, 100]), 5) == pytest.approx(0.05)
    assert chance(np.array([100, 4]), 10) == pytest.approx((0.1 + 1) / 2)


def test_students_quantile_is_near_the_exact_one():
    for degrees in (3, 5, 10, 30, 300):
        assert _student(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)
    assert _student(10**6) == pytest.approx(1.959964, abs=1e-4)


def test_the_interval_holds_the_share_and_stays_within_0_and_1():
    rng = np.random.default_rng(0)
    for _ in range(100):
        taxon = rng.integers(0, rng.integers(1, 30), rng.integers(1, 60))
        hit = rng.random(len(taxon)) < rng.random()
        [(low, high)] = interval(hit[:, None], taxon)
        assert 0 <= low <= hit.mean() <= high <= 1
        assert high > low


def test_certainty_needs_many_taxa():
    def width(n_taxa, n_each, hit):
        [(low, high)] = interval(np.full((n_taxa * n_each, 1), hit), np.repeat(np.arange(n_taxa), n_each))
        return high - low

    assert width(1, 1000, True) == 1
    assert width(5, 200, True) > width(50, 20, True) > width(500, 2, True) > 0
    assert width(50, 20, True) == pytest.approx(width(50, 20, False))
    assert width(50, 20, True) == pytest.approx(width(50, 1, True))


def test_alike_queries_of_a_taxon_widen_the_interval():
    taxon = np.repeat(np.arange(50), 10)
    together = taxon % 2 == 0
    apart = np.tile([True, False], 250)
    [(a, b), (c, d)] = interval(np.stack([together, apart], axis=1), taxon)
    assert b - a > 2 * (d - c)


def sampled(rng: np.random.Generator, n_taxa: int, share: float, likeness: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw taxa with 1 to 10 queries; `likeness` is the correlation of hits within a taxon."""
    size = np.minimum(rng.geometric(0.32, n_taxa), 10)
    skill = np.full(n_taxa, share)
    if likeness:
        skill = rng.beta(share * (1 / likeness - 1), (1 - share) * (1 / likeness - 1), n_taxa)
    taxon = np.repeat(np.arange(n_taxa), size)
    return rng.random(len(taxon)) < skill[taxon], taxon


@pytest.mark.parametrize(
    ("n_taxa", "share", "likeness", "least"),
    [
        (325, 0.35, 0.3, 0.93),  # the released unseen split
        (100, 0.5, 0.3, 0.93),
        (50, 0.2, 0.1, 0.93),
        (50, 0.8, 0.0, 0.93),
        (20, 0.5, 0.3, 0.92),
        (100, 0.95, 0.0, 0.93),  # near the ends, where percentiles of the draws cover 0.90 and less
        (100, 0.03, 0.1, 0.90),
        (10, 0.9, 0.3, 0.90),
    ],
)
def test_95_percent_intervals_cover_about_95_percent(n_taxa, share, likeness, least):
    rng = np.random.default_rng([7, n_taxa])
    n_trials, covered = 400, 0
    for _ in range(n_trials):
        hit, taxon = sampled(rng, n_taxa, share, likeness)
        [(low, high)] = interval(hit[:, None], taxon)
        covered += low <= share <= high
    noise = 2 * np.sqrt(0.95 * 0.05 / n_trials)
    assert least - noise <= covered / n_trials <= 0.985 + noise
