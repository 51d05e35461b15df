"""The fast scorer against a plain one that reads the same files with the standard library."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from biovita.bench import retrieval
from biovita.bench.official import read_indices, read_task
from biovita.bench.retrieval import Vectors, rank_task
from biovita.bench.tasks import DIRECTIONS, Scenario, scenarios
from biovita.errors import BenchError


def cosine(a: list[float] | None, b: list[float] | None) -> float:
    """Sum exactly, round once to float32; a missing vector is zeros."""
    if a is None or b is None:
        return 0.0
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    length = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    return float(np.float32(dot / length))


def plain_ranks(path: Path, query: dict, target: dict, *, ties: str, missing: str) -> list[int | None]:
    """Score a task file row by row; None where a query is left out."""
    ranks: list[int | None] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            taxa = json.loads(row["candidates_taxa"])
            lists = [[str(item) for item in ids] for ids in json.loads(row["candidates_target_ids"])]
            asked = query.get(row["query_payload_id"])
            lacking = asked is None or any(not ids or any(item not in target for item in ids) for ids in lists)
            if lacking and missing == "skip":
                ranks.append(None)
                continue
            score = [max((cosine(asked, target.get(item)) for item in ids), default=-math.inf) for ids in lists]
            own = taxa.index(row["correct_taxon"])
            above = sum(
                score[i] > score[own] or (score[i] == score[own] and (ties == "against" or i < own))
                for i in range(len(taxa))
                if i != own
            )
            ranks.append(above + 1)
    return ranks


def as_vectors(known: dict[str, list[float]]) -> Vectors:
    matrix = np.array(list(known.values()), np.float32) if known else np.zeros((0, 0), np.float32)
    return Vectors(source="made up", row={name: i for i, name in enumerate(known)}, embedding=matrix)


def made_up_vectors(ids: list[str], rng: np.random.Generator, kind: str) -> dict[str, list[float]]:
    x = rng.standard_normal((len(ids), 6))
    if kind == "few":  # many equal vectors, many ties
        x = x[rng.integers(0, 3, len(ids))]
    if kind == "constant":
        x[:] = x[0]
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return dict(zip(ids, x.tolist(), strict=True))


@pytest.fixture
def ask(make_official, tmp_path):
    """Read all 18 tasks of a random split and give their items random vectors."""

    def make(seed: int, kind: str, *, n_lost: int = 0, **size):
        folder = tmp_path / str(seed)
        if not folder.exists():
            make_official(folder, seed, **size)
        indices = read_indices(folder)
        rng = np.random.default_rng([seed, 1])
        for scenario in scenarios("unseen"):
            known = {m: made_up_vectors(indices[m]["id"].to_list(), rng, kind) for m in indices}
            query, target = known[scenario.query], known[scenario.target]
            if kind == "constant":
                target = dict.fromkeys(target, next(iter(query.values())))
            for vectors in (query, target):
                for name in rng.choice(list(vectors), min(n_lost, len(vectors)), replace=False):
                    vectors.pop(str(name))
            yield folder / scenario.file, read_task(folder, scenario, indices), query, target

    return make


@pytest.mark.parametrize("kind", ["random", "few", "constant"])
def test_ranks_equal_a_plain_count_on_ragged_tasks(ask, kind):
    n_ties = 0
    for seed in range(3):
        for path, task, query, target in ask(seed, kind):
            for ties in ("against", "order"):
                ranking = rank_task(task, as_vectors(query), as_vectors(target), ties=ties, missing="error")
                assert ranking.rank.tolist() == plain_ranks(path, query, target, ties=ties, missing="error"), path
                n_ties += int((np.diff(ranking.top_score, axis=1) == 0).sum())
    assert (n_ties > 0) == (kind != "random")


@pytest.mark.parametrize("missing", ["skip", "zero"])
def test_missing_vectors_are_left_out_or_zeros_as_in_a_plain_count(ask, missing):
    for n_lost in (1, 5, 99):
        n_scored = 0
        for path, task, query, target in ask(0, "random", n_lost=n_lost):
            ranking = rank_task(task, as_vectors(query), as_vectors(target), ties="against", missing=missing)
            plain = plain_ranks(path, query, target, ties="against", missing=missing)
            assert ranking.is_scored.tolist() == [rank is not None for rank in plain], path
            assert ranking.rank.tolist() == [rank for rank in plain if rank is not None], path
            n_scored += len(ranking.rank)
        assert (n_scored > 0) == (n_lost < 99 or missing == "zero")


def test_a_missing_vector_is_an_error_that_names_the_id(ask):
    for _, task, query, target in ask(3, "random", n_queries=3):
        lost = task.items[0]
        without = {name: vector for name, vector in target.items() if name != lost}
        with pytest.raises(BenchError, match=rf"made up lacks 1 of the \d+ ids that \S+ needs: {lost}; embed them"):
            rank_task(task, as_vectors(query), as_vectors(without), ties="against", missing="error")
        with pytest.raises(BenchError, match=rf"made up lacks .*{task.payload_id[0]}"):
            rank_task(task, as_vectors({}), as_vectors(target), ties="against", missing="error")


def test_blocks_change_no_digit(ask, monkeypatch):
    whole = {}
    for n_queries, n_together in ((4096, 4096), (1, 1), (3, 7), (19, 2)):
        monkeypatch.setattr(retrieval, "BLOCK_QUERIES", n_queries)
        monkeypatch.setattr(retrieval, "BLOCK_ASKING", n_together)
        monkeypatch.setattr(retrieval, "BLOCK_ASKED", n_together)
        for path, task, query, target in ask(5, "few", n_items=60, n_queries=20):
            blocks = rank_task(task, as_vectors(query), as_vectors(target), ties="against", missing="error")
            expected = whole.setdefault(path, blocks)
            for name in ("rank", "top_taxon", "top_item", "top_score"):
                np.testing.assert_array_equal(getattr(expected, name), getattr(blocks, name), err_msg=name)


@pytest.mark.parametrize("dim", [3, 64, 768])
def test_a_constant_model_is_never_right_and_in_order_as_good_as_its_place(make_official, tmp_path, dim):
    folder = make_official(tmp_path / "bench", 0, n_items=80, n_queries=80, width=17)
    one = np.random.default_rng(dim).standard_normal(dim).astype(np.float32)
    indices = read_indices(folder)
    for direction in DIRECTIONS:
        scenario = Scenario(direction=direction, level="genus", split="unseen")
        task = read_task(folder, scenario, indices)
        same = {m: as_vectors(dict.fromkeys(indices[m]["id"], one.tolist())) for m in indices}
        against = rank_task(task, same[scenario.query], same[scenario.target], ties="against", missing="error")
        order = rank_task(task, same[scenario.query], same[scenario.target], ties="order", missing="error")
        assert (against.rank == task.n_candidates).all()
        place = (task.taxon == task.correct[:, None]).argmax(axis=1)
        assert (order.rank == place + 1).all()


def test_the_best_sample_of_each_top_taxon_is_kept(ask):
    for _, task, query, target in ask(8, "random"):
        ranking = rank_task(task, as_vectors(query), as_vectors(target), ties="against", missing="error")
        for row, place in np.ndindex(ranking.top_taxon.shape):
            taxon, item, score = (x[row, place] for x in (ranking.top_taxon, ranking.top_item, ranking.top_score))
            if taxon < 0:
                assert math.isnan(score)
                assert item == -1
                continue
            group = task.group[row][task.taxon[row] == taxon][0]
            items = task.group_item[task.group_start[group] : task.group_start[group + 1]]
            scores = {i: cosine(query[task.payload_id[row]], target[task.items[i]]) for i in items}
            assert score == np.float32(max(scores.values())) == np.float32(scores[item])


def test_a_candidate_without_samples(make_official, tmp_path):
    folder = make_official(tmp_path / "bench", 2, width=3)
    scenario = Scenario(direction="a2i", level="family", split="unseen")
    path = folder / scenario.file
    rows = list(csv.DictReader(path.read_text().splitlines()))
    lists = json.loads(rows[1]["candidates_target_ids"])
    lists[-1] = []
    rows[1]["candidates_target_ids"] = json.dumps(lists)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    indices = read_indices(folder)
    task = read_task(folder, scenario, indices)
    rng = np.random.default_rng(0)
    query, target = (made_up_vectors(indices[m]["id"].to_list(), rng, "random") for m in ("audio", "image"))
    name = json.loads(rows[1]["candidates_taxa"])[-1]
    with pytest.raises(BenchError, match=f"row 2: candidate '{name}' has no samples"):
        rank_task(task, as_vectors(query), as_vectors(target), ties="against", missing="error")
    skipped = rank_task(task, as_vectors(query), as_vectors(target), ties="against", missing="skip")
    assert np.flatnonzero(~skipped.is_scored).tolist() == [1]
    zero = rank_task(task, as_vectors(query), as_vectors(target), ties="against", missing="zero")
    assert zero.rank.tolist() == plain_ranks(path, query, target, ties="against", missing="zero")
