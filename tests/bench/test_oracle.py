"""Whole folders through `score_bench`, beside an oracle, the reference protocol and MTEB's scorer, all in plain Python.

The folders are random and wild: ragged pools and groups, pools of one, ids and names listed twice, candidates without
samples, names with quotes, lost vectors. Vectors are corners of a cube, of length 1 in float32 with nothing rounded
away: so every way of summing gives the same cosine, ties are common, and a tie here is a tie there.
"""

import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biovita.bench.official import join_names
from biovita.bench.run import score_bench
from biovita.bench.tasks import LEVELS, MODALITIES, Scenario, scenarios
from biovita.embed.store import write_embeddings
from biovita.errors import EmbeddingError

N_SPECIES, DIM = 24, 16
K = (1, 5, 10)
FACTS = {"model": "made up", "weights_sha256": "0" * 64, "preprocess": "none"}
PEER = Path(__file__).parents[2] / "benchmarks" / "score_peer.py"
MTEB_PYTHON = os.environ.get("MTEB_PYTHON") or (sys.executable if importlib.util.find_spec("mteb") else "")

Known = dict[str, dict[str, list[float]]]  # "audio", "image" or "text_LEVEL": id: vector


@dataclass(frozen=True)
class Wild:
    """A random folder in the official layout, and what a made-up model says of its items."""

    folder: Path
    known: Known
    index: dict[str, list[dict[str, str]]]

    def store(self, out: Path) -> Path:
        """Write the vectors as embedding files; a modality that has none gets no file."""
        for modality in MODALITIES:
            rows = [
                (name, key.removeprefix("text_") if modality == "text" else None, vector)
                for key, vectors in self.known.items()
                for name, vector in vectors.items()
                if key.startswith(modality)
            ]
            if rows:
                write_embeddings(
                    out / f"{modality}.parquet",
                    ids=[name for name, _, _ in rows],
                    level=[level for _, level, _ in rows],
                    modality=modality,
                    embedding=np.array([vector for _, _, vector in rows], np.float32),
                    **FACTS,
                )
        return out

    def sides(self, scenario: Scenario) -> list[dict[str, list[float]]]:
        """Return the vectors of the asking and of the answering items."""
        keys = [f"text_{scenario.level}" if m == "text" else m for m in (scenario.query, scenario.target)]
        return [self.known[key] for key in keys]

    def rows(self, scenario: Scenario) -> Iterator[tuple[dict[str, str], list[str], list[list[str]]]]:
        """Read a task file with the standard library."""
        with (self.folder / scenario.file).open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                lists = [[str(item) for item in ids] for ids in json.loads(row["candidates_target_ids"])]
                yield row, json.loads(row["candidates_taxa"]), lists


def species_of(s: int) -> dict[str, str]:
    """Three species a genus, two genera a family; every sixth species is of a class that nobody knows."""
    name = f'Genus{s // 3} "sp{s}", größe [{s}]'
    group = "" if s % 6 == 5 else ("Aves", "Mammalia")[s // 6 % 2]
    return {"species": name, "genus": f"Genus{s // 3}", "family": f"Family {s // 6}", "class": group}


def write_wild(
    folder: Path, seed: int, *, width: int = 14, n_queries: int = 9, empty: float = 0.0, twice: float = 0.0,
    lost: float = 0.0,
) -> Wild:  # fmt: skip
    """Write one split.

    Args:
        folder: new.
        seed: of everything.
        width: of the largest pool.
        n_queries: of each scenario.
        empty: share of candidates without samples.
        twice: share of pools that list a taxon a second time, with samples of its own.
        lost: share of items that the model has no vector of.
    """
    rng = np.random.default_rng(seed)
    index: dict[str, list[dict[str, str]]] = {}
    for first, modality in enumerate(MODALITIES, start=1):
        # Two names a species in text, so that a name stands twice at every level.
        own = [s // 2 for s in range(2 * N_SPECIES)] if modality == "text" else rng.integers(0, N_SPECIES, 60).tolist()
        index[modality] = [
            {"id": str(1000 * first + i), "file_path": f"{modality}/{i}", **species_of(s)} for i, s in enumerate(own)
        ]
        columns = ("id", *LEVELS, "class") if modality == "text" else ("id", "file_path", *LEVELS)
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(index[modality]).select(columns).write_csv(folder / f"{modality}_index.csv")
    for scenario in scenarios("unseen"):
        level = scenario.level
        items: dict[str, list[str]] = {}
        for row in index[scenario.target]:
            items.setdefault(row[level], []).append(row["id"])
        asking = [row for row in index[scenario.query] if row[level] in items]
        rows = []
        for q in range(n_queries):
            row = asking[rng.integers(len(asking))]
            others = [name for name in items if name != row[level]]
            n = int(rng.integers(0, min(width, len(others)) + 1))
            pool = [str(name) for name in rng.permutation([row[level], *rng.choice(others, n, replace=False)])]
            if rng.random() < twice:
                pool.append(str(rng.choice(pool)))
            groups = [rng.choice(items[name], rng.integers(1, 5)).tolist() for name in pool]
            groups = [[] if rng.random() < empty else [int(item) for item in ids] for ids in groups]
            rows.append(
                {
                    "query_id": f"q{q}",
                    "query_payload_id": row["id"],
                    "task": scenario.direction.upper(),
                    "taxon_level": level,
                    "correct_taxon": row[level],
                    "candidates_taxa": join_names(pool),
                    "candidates_target_ids": json.dumps(groups),
                }
            )
        (folder / level).mkdir(exist_ok=True)
        pl.DataFrame(rows).write_csv(folder / scenario.file)
    known: Known = {}
    for key in ("audio", "image", *(f"text_{level}" for level in LEVELS)):
        ids = [row["id"] for row in index[key.split("_")[0]]]
        corners = rng.choice([-0.25, 0.25], (len(ids), DIM)).tolist()
        known[key] = {name: corner for name, corner in zip(ids, corners, strict=True) if rng.random() >= lost}
    return Wild(folder=folder, known=known, index=index)


def cosine(one: list[float] | None, other: list[float] | None) -> float:
    """Multiply two unit vectors; nothing stands for a lost one."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) if one and other else 0.0


def oracle(wild: Wild, scenario: Scenario, ties: str, missing: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score one task file by the contract: its row of results, and its predictions."""
    query, target = wild.sides(scenario)
    higher = {row[scenario.level]: row for row in wild.index["text"]}
    known_classes: dict[str, set[str]] = {}
    for row in wild.index["text"]:
        known_classes.setdefault(row[scenario.level], set()).update({row["class"]} - {""})
    predictions, pools, answers, n_skipped = [], [], [], 0
    for row, pool, lists in wild.rows(scenario):
        listed: dict[str, list[str]] = {}
        for name, ids in zip(pool, lists, strict=True):
            listed.setdefault(name, []).extend(ids)
        own, asked = row["correct_taxon"], query.get(row["query_payload_id"])
        lacks = asked is None or any(not ids or any(item not in target for item in ids) for ids in listed.values())
        if lacks and missing == "skip":
            n_skipped += 1
            continue
        best = {}
        for place, (name, ids) in enumerate(listed.items()):
            scored = [(cosine(asked, target.get(item)), item) for item in ids]
            score, item = max(scored, key=lambda pair: pair[0], default=(-math.inf, None))
            best[name] = (-score, ties == "against" and name == own, place, item)
        order = sorted(best, key=best.__getitem__)
        pools.append(len(order))
        answers.append((own, order[0]))
        predictions.append(
            {
                "query_id": row["query_id"],
                "query_payload_id": row["query_payload_id"],
                "correct_taxon": own,
                "rank": order.index(own) + 1,
                "top_taxa": order[:5],
                "top_scores": [-best[name][0] for name in order[:5]],
                "top_ids": [best[name][3] for name in order[:5]],
            }
        )
    ranks = [row["rank"] for row in predictions]
    wrong = [(own, answer) for own, answer in answers if own != answer]
    classes: dict[str, list[int]] = {}
    for (own, _), rank in zip(answers, ranks, strict=True):
        only = known_classes[own]
        classes.setdefault(next(iter(only)) if len(only) == 1 else "unknown", []).append(rank)
    return {
        "n_queries": len(ranks),
        "n_skipped": n_skipped,
        "n_taxa": len({own for own, _ in answers}),
        "n_candidates": mean(pools),
        **{f"top{k}": mean([rank <= k for rank in ranks]) for k in K},
        "chance": {f"top{k}": mean([min(1.0, k / n) for n in pools]) for k in K},
        "by_class": {
            name: {"n_queries": len(some), **{f"top{k}": mean([rank <= k for rank in some]) for k in K}}
            for name, some in classes.items()
        },
        "error_consistency": {
            level: mean([higher[own][level] == higher[answer][level] for own, answer in wrong])
            for level in LEVELS[LEVELS.index(scenario.level) + 1 :]
        },
    }, predictions


def mean(values: list[Any]) -> float | None:
    return sum(values) / len(values) if values else None


def approximately(found: Any) -> Any:
    """Let sums of the same numbers in another order differ in the last digits."""
    if isinstance(found, dict):
        return {key: approximately(value) for key, value in found.items()}
    return pytest.approx(found, abs=1e-12) if isinstance(found, float) else found


def scored(wild: Wild, out: Path, **rules: Any) -> tuple[dict[Scenario, dict[str, Any]], pl.DataFrame]:
    """Run the scorer, and find each scenario's row and the predictions."""
    results = score_bench(wild.folder, wild.store(out / "embeddings"), out=out / "results.json", k=K, **rules)
    rows = {(row["direction"], row["level"]): row for row in results["scenarios"]}
    return (
        {scenario: rows[scenario.direction, scenario.level] for scenario in scenarios("unseen")},
        pl.read_parquet(out / "results.predictions.parquet"),
    )


@pytest.mark.parametrize("ties", ["against", "order"])
@pytest.mark.parametrize(
    ("missing", "harm"),
    [
        ("error", {}),
        ("error", {"twice": 0.5}),
        ("skip", {"empty": 0.01, "twice": 0.3, "lost": 0.01}),
        ("zero", {"empty": 0.1, "twice": 0.3, "lost": 0.1}),
        ("zero", {"empty": 0.9, "twice": 0.9, "lost": 0.9}),
    ],
)
def test_results_and_predictions_equal_a_plain_oracle(tmp_path, missing, harm, ties):
    n_ties = n_skipped = n_small = 0
    for seed in range(3):
        out = tmp_path / str(seed)
        wild = write_wild(out / "bench", seed, **harm)
        rows, table = scored(wild, out, ties=ties, missing=missing)
        for scenario, found in rows.items():
            row, predictions = oracle(wild, scenario, ties, missing)
            assert {key: found[key] for key in row} == approximately(row), scenario
            some = table.filter(direction=scenario.direction, level=scenario.level).drop("direction", "level", "split")
            assert some.to_dicts() == predictions, scenario
            n_skipped += row["n_skipped"]
            n_small += any(len(one["top_taxa"]) == 1 for one in predictions)
            n_ties += sum(len(set(one["top_scores"])) < len(one["top_scores"]) for one in predictions)
    assert n_ties > 0
    assert n_small > 0
    assert (n_skipped > 0) == (missing == "skip")


def reference_hits(wild: Wild, scenario: Scenario) -> dict[str, float]:
    """Score as the reference protocol does, query by query, in float32.

    A lost feature is zeros. A query is multiplied with the whole gallery, a candidate scores its best sample, and the
    first k places of the candidate list by score are looked through for the right name. The released script orders
    equals by chance; here they keep the order of the list. A candidate without samples comes last.
    """
    query, target = wild.sides(scenario)
    ids = [row["id"] for row in wild.index[scenario.target]]
    zeros = [0.0] * DIM
    gallery = np.array([target.get(item, zeros) for item in ids], np.float32)
    hits: dict[str, list[bool]] = {f"top{k}": [] for k in K}
    for row, pool, lists in wild.rows(scenario):
        cosines = gallery @ np.array(query.get(row["query_payload_id"], zeros), np.float32)
        score = np.array([max((cosines[ids.index(item)] for item in some), default=-np.inf) for some in lists])
        order = np.argsort(-score, kind="stable")
        for k in K:
            hits[f"top{k}"].append(row["correct_taxon"] in [pool[place] for place in order[:k]])
    return {name: float(np.mean(found)) for name, found in hits.items()}


@pytest.mark.parametrize("harm", [{}, {"empty": 0.1, "lost": 0.1}, {"empty": 0.5, "lost": 0.9}])
def test_order_and_zero_equal_the_reference_protocol(tmp_path, harm):
    """Where no pool lists a taxon twice: there it takes two of the reference's places, and here one."""
    for seed in range(3):
        out = tmp_path / str(seed)
        wild = write_wild(out / "bench", seed, **harm)
        rows, _ = scored(wild, out, ties="order", missing="zero")
        for scenario, row in rows.items():
            assert {f"top{k}": row[f"top{k}"] for k in K} == reference_hits(wild, scenario), scenario


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.skipif(not MTEB_PYTHON, reason="no mteb here; MTEB_PYTHON=PATH names a Python that has it")
@pytest.mark.parametrize("harm", [{}, {"empty": 0.1, "lost": 0.1}])
def test_order_and_zero_equal_the_scorer_inside_mteb(tmp_path, harm):
    """MTEB drops queries whose taxon has no samples, so they are left out on both sides."""
    wild = write_wild(tmp_path / "bench", 11, n_queries=40, **harm)
    rows, table = scored(wild, tmp_path, ties="order", missing="zero")
    arrays = {f"{key}_ids": np.array(list(vectors)) for key, vectors in wild.known.items()}
    arrays |= {key: np.array(list(vectors.values()), np.float32) for key, vectors in wild.known.items()}
    np.savez(tmp_path / "vectors.npz", **arrays)
    command = [MTEB_PYTHON, PEER, wild.folder, tmp_path / "vectors.npz", tmp_path / "answer.json"]
    subprocess.run([*command, *(scenario.file for scenario in rows)], check=True, capture_output=True)
    answer = json.loads((tmp_path / "answer.json").read_text())
    for scenario in rows:
        there = [
            row["query_id"]
            for row, pool, lists in wild.rows(scenario)
            if any(ids for name, ids in zip(pool, lists, strict=True) if name == row["correct_taxon"])
        ]
        some = table.filter(direction=scenario.direction, level=scenario.level)
        rank = some.filter(pl.col("query_id").is_in(there))["rank"].to_numpy()
        assert answer[scenario.file]["n"] == len(rank)
        for k in K:
            assert (rank <= k).mean() == pytest.approx(answer[scenario.file][f"top{k}"], abs=1e-12), (scenario, k)


@pytest.fixture(scope="module")
def turning(tmp_path_factory) -> Wild:
    """Pools of eight, or four at family level; over the queries of a task the match stands once at each place."""
    wild = write_wild(tmp_path_factory.mktemp("turning") / "bench", 0)
    for scenario in scenarios("unseen"):
        items: dict[str, list[int]] = {}
        for item in wild.index[scenario.target]:
            items.setdefault(item[scenario.level], []).append(int(item["id"]))
        asking = [row for row in wild.index[scenario.query] if row[scenario.level] in items]
        own = asking[0][scenario.level]
        n = 4 if scenario.level == "family" else 8  # powers of two, whose shares are exact
        pool = [own, *sorted(set(items) - {own})][:n]
        groups = [items[name] for name in pool]
        first = next(iter(wild.rows(scenario)))[0]
        rows = [
            {
                **first,
                "query_id": f"q{q}",
                "query_payload_id": asking[0]["id"],
                "correct_taxon": own,
                "candidates_taxa": join_names([*pool[q:], *pool[:q]]),
                "candidates_target_ids": json.dumps([*groups[q:], *groups[:q]]),
            }
            for q in range(len(pool))
        ]
        pl.DataFrame(rows).write_csv(wild.folder / scenario.file)
    return wild


def test_a_constant_model_scores_chance_in_order_and_nothing_when_ties_count_against_it(turning, tmp_path):
    one = turning.known["audio"]["1000"]
    constant = Wild(turning.folder, {key: dict.fromkeys(known, one) for key, known in turning.known.items()}, {})
    rows, _ = scored(constant, tmp_path / "order", ties="order")
    for row in rows.values():
        assert {f"top{k}": row[f"top{k}"] for k in K} == row["chance"]
        assert row["top1"] == 1 / row["n_candidates"] < 1
    rows, _ = scored(constant, tmp_path / "against", ties="against")
    for row in rows.values():
        assert {row[f"top{k}"] for k in K if k < row["n_candidates"]} == {0}


@pytest.mark.parametrize("ties", ["against", "order"])
def test_a_perfect_model_scores_1(turning, tmp_path, ties):
    """Each taxon is an axis of its own, and a sound or picture is its species, genus and family at once."""
    known: Known = {}
    for key in turning.known:
        modality, _, level = key.partition("_")
        known[key] = {}
        for row in turning.index[modality]:
            vector = np.zeros(100)
            for rank in [level] if level else LEVELS:
                names = sorted({species_of(s)[rank] for s in range(N_SPECIES)})
                vector[30 * LEVELS.index(rank) + names.index(row[rank])] = 1
            known[key][row["id"]] = (vector / np.linalg.norm(vector)).tolist()
    rows, _ = scored(Wild(turning.folder, known, {}), tmp_path, ties=ties)
    assert {row[f"top{k}"] for row in rows.values() for k in K} == {1}


def test_a_vector_that_is_not_a_number_is_refused_and_nothing_is_written(turning, tmp_path):
    path = turning.store(tmp_path / "embeddings") / "image.parquet"
    table = pq.read_table(path)
    vectors = table["embedding"].combine_chunks()
    values = vectors.flatten().to_numpy().copy()
    values[3 * DIM + 1] = np.nan
    broken = pa.FixedSizeListArray.from_arrays(pa.array(values), type=vectors.type)
    where = table.column_names.index("embedding")
    pq.write_table(table.set_column(where, table.schema.field("embedding"), broken), path)
    with pytest.raises(EmbeddingError, match=r"image.parquet: the vector of '2003' is not finite; embed it again"):
        score_bench(turning.folder, tmp_path / "embeddings", out=tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()
