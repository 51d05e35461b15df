"""Scores summed in float32 first, and then exactly where they decide, against a plain count in float64."""

import numpy as np
import pytest

from biovita.bench import retrieval
from biovita.bench.retrieval import Ranking, Vectors, rank_task
from biovita.bench.tasks import Scenario, Task, Ties

N_QUERIES, N_TAXA, WIDTH, DIM = 30, 40, 14, 768
NOISE = (0, 3e-8, 3e-7, 1e-4, 1)  # equal vectors, the last bits of float32, about the bound, and no relation


def near_equals(rng: np.random.Generator, n: int, base: np.ndarray) -> np.ndarray:
    """Return unit vectors, many of which are equal or all but equal."""
    noise = rng.choice(NOISE, (n, 1)) * rng.standard_normal((n, DIM)) / np.sqrt(DIM)
    x = base[rng.integers(0, len(base), n)] + noise
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def made_up_task(rng: np.random.Generator, largest: int) -> tuple[Task, Vectors, Vectors]:
    """Make a task whose groups have at most so many samples: ragged pools, empty groups, lost and shared items."""
    n_items = N_TAXA * max(1, largest // 2)
    sizes = rng.integers(-1 if largest > 1 else 1, largest, N_TAXA, endpoint=True).clip(0)
    taxon = np.stack([rng.permutation(N_TAXA)[:WIDTH] for _ in range(N_QUERIES)])
    taxon[np.arange(WIDTH) >= rng.integers(1, WIDTH, (N_QUERIES, 1), endpoint=True)] = -1
    place = rng.integers(0, (taxon >= 0).sum(axis=1))
    task = Task(
        scenario=Scenario(direction="a2i", level="species", split="unseen"),
        query_id=[f"q{i}" for i in range(N_QUERIES)],
        payload_id=[f"q{i}" for i in range(N_QUERIES)],
        correct=taxon[np.arange(N_QUERIES), place].astype(np.int32),
        taxon=taxon.astype(np.int32),
        group=taxon.astype(np.int32),
        taxa=[f"taxon {i}" for i in range(N_TAXA)],
        group_start=np.concatenate([[0], np.cumsum(sizes)]),
        group_item=rng.integers(0, n_items, sizes.sum()),
        items=[f"i{i}" for i in range(n_items)],
        taxon_class=[None] * N_TAXA,
    )
    base = rng.standard_normal((3, DIM)) / np.sqrt(DIM)
    sides = []
    for ids in (task.payload_id, task.items):
        known = [name for name in ids if rng.random() > 0.05]
        row = {name: i for i, name in enumerate(known)}
        sides.append(Vectors(source="made up", row=row, embedding=near_equals(rng, len(known), base)))
    return task, *sides


def cosines(task: Task, query: Vectors, target: Vectors) -> np.ndarray:
    """Multiply all with all in float64 and round once; a lost vector is zeros."""
    both = []
    for vectors, ids in ((query, task.payload_id), (target, task.items)):
        x = vectors.embedding[vectors.rows(ids)].astype(np.float64)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        both.append(x * (vectors.rows(ids) >= 0)[:, None])
    return (both[0] @ both[1].T).astype(np.float32)


def plain(task: Task, cosine: np.ndarray, ties: Ties) -> tuple[list, list, np.ndarray]:
    """Return ranks, the best five (taxon, item, score) and all scores, query by query."""
    ranks, tops, scores = [], [], np.full(task.taxon.shape, -np.inf, np.float32)
    for q, pool in enumerate(task.taxon.tolist()):
        found = []
        for place, taxon in enumerate(pool):
            if taxon < 0:
                continue
            items = task.group_item[task.group_start[taxon] : task.group_start[taxon + 1]].tolist()
            item = max(items, key=lambda i: cosine[q, i], default=-1)
            scores[q, place] = cosine[q, item] if items else -np.inf
            is_late = ties == "against" and taxon == task.correct[q]
            found.append((-scores[q, place], is_late, place, taxon, item))
        found.sort()
        ranks.append([taxon for *_, taxon, _ in found].index(task.correct[q]) + 1)
        tops.append([(taxon, item, -score) for score, _, _, taxon, item in found[:5]])
    return ranks, tops, scores


def answers(ranking: Ranking) -> tuple[list, list]:
    columns = (ranking.top_taxon.tolist(), ranking.top_item.tolist(), ranking.top_score)
    tops = [[one for one in zip(*row, strict=True) if one[0] >= 0] for row in zip(*columns, strict=True)]
    return ranking.rank.tolist(), tops


def count_wrong(ties: Ties, largest: int) -> int:
    """Count the tasks, of many, in which any rank, answer or score differs from the plain ones in any bit."""
    n_wrong = 0
    for seed in range(12):
        task, query, target = made_up_task(np.random.default_rng([seed, largest]), largest)
        ranking = rank_task(task, query, target, ties=ties, missing="zero")
        ranks, tops, scores = plain(task, cosines(task, query, target), ties)
        kept = np.array_equal(ranking.sample_score, scores[ranking.sample])
        n_wrong += not (answers(ranking) == (ranks, tops) and kept)
    return n_wrong


@pytest.mark.parametrize("ties", ["against", "order"])
@pytest.mark.parametrize("largest", [1, 3, 19])
@pytest.mark.parametrize(
    ("n_sample", "n_queries", "n_threads", "dense"), [(3, 8192, 1, 8), (1, 7, 2, 0), (9, 1, 1, 999)]
)
def test_ranks_answers_and_scores_equal_a_plain_count_in_every_bit(
    monkeypatch, ties, largest, n_sample, n_queries, n_threads, dense
):
    monkeypatch.setattr(retrieval, "N_SAMPLE", n_sample)
    monkeypatch.setattr(retrieval, "BLOCK_QUERIES", n_queries)
    monkeypatch.setattr(retrieval, "N_THREADS", n_threads)
    monkeypatch.setattr(retrieval, "DENSE", dense)
    assert count_wrong(ties, largest) == 0


@pytest.mark.parametrize("largest", [1, 3, 19])
def test_without_the_bound_the_same_tasks_come_out_wrong(monkeypatch, largest):
    monkeypatch.setattr(retrieval, "N_SAMPLE", 3)
    monkeypatch.setattr(retrieval, "_reach", lambda dim: 0.0)
    assert count_wrong("order", largest) > 0


@pytest.mark.parametrize("dim", [3, 64, 768, 4096])
def test_a_sum_in_the_worst_order_errs_by_less_than_the_bound(dim):
    """One large product first, so that each later one is rounded to the large one's last bit."""
    x = np.full(dim, 1e-4)
    x[0] = 1
    x /= np.linalg.norm(x)
    products = x.astype(np.float32) * x.astype(np.float32)
    error = abs(float(np.cumsum(products)[-1]) - 1)
    assert error < retrieval._reach(dim) / 2


def test_few_scores_are_summed_twice():
    """Of vectors without relation, little more than the first five decide."""
    rng = np.random.default_rng(0)
    near = rng.standard_normal((200, 100)).astype(np.float32) / np.sqrt(DIM)
    is_match = np.arange(100) == rng.integers(0, 100, (200, 1))
    decides = retrieval._decides(near, is_match, retrieval._reach(DIM))
    assert (decides.sum(axis=1) >= 5).all()
    assert decides.sum(axis=1).mean() < 7
