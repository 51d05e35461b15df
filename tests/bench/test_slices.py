"""Tables by class, source, duration and rarity, counted by hand."""

import csv
import math

import polars as pl
import pytest

from biovita.bench.build import make_bench
from biovita.bench.run import score_bench
from biovita.bench.slices import DURATIONS, RARITIES, names_of
from biovita.bench.tasks import DIRECTIONS
from biovita.data.dataset import Dataset


def test_a_value_on_an_edge_belongs_to_the_group_that_begins_there():
    values = pl.Series([0.0, 4.99, 5, 10, 29.9, 60, 7200, None])
    names = ["0 to 5 s", "0 to 5 s", "5 to 10 s", "10 to 30 s", "10 to 30 s", "60 s or more", "60 s or more", None]
    assert names_of(values, DURATIONS) == names


def test_values_may_come_as_text_and_odd_text_is_unknown():
    assert names_of(pl.Series(["0", "1", "4", "5", "100", "", "many"]), RARITIES) == [
        *("0", "1 to 4", "1 to 4", "5 to 19", "100 or more", None, None)
    ]


def test_groups_add_up_and_equal_a_count_of_the_dataset_by_hand(make_dataset, embed, noisy, tmp_path):
    make_bench(make_dataset(tmp_path / "dataset", n_species=24, n_withheld=10), tmp_path / "bench", seed=3)
    vectors = embed(tmp_path / "bench", tmp_path / "embeddings", noisy(2.0))
    results = score_bench(tmp_path / "bench", vectors, out=tmp_path / "results.json")
    media = {row["media_id"]: row for row in Dataset.open(tmp_path / "dataset").media.iter_rows(named=True)}
    trained: dict[str, int] = {}
    for row in media.values():
        if row["split"] == "train" and row["modality"] == "audio":
            trained[row["species"]] = trained.get(row["species"], 0) + 1
    with (tmp_path / "bench" / "seen" / "text_index.csv").open() as file:
        species_of_name = {row["id"]: row["species"] for row in csv.DictReader(file)}
    answers = pl.read_parquet(tmp_path / "results.predictions.parquet")
    for direction in DIRECTIONS:
        row = next(
            r
            for r in results["scenarios"]
            if (r["direction"], r["level"], r["split"]) == (direction, "species", "seen")
        )
        hits: dict[str, list[bool]] = {}
        for one in answers.filter(direction=direction, level="species", split="seen").iter_rows(named=True):
            item = one["query_payload_id"]
            species = species_of_name[item] if direction[0] == "t" else media[item]["species"]
            n = trained.get(species, 0)
            group = next(name for name, end in RARITIES.items() if n < end)
            hits.setdefault(group, []).append(one["rank"] == 1)
        assert {name: (part["n_queries"], part["top1"]) for name, part in row["by_rarity"].items()} == {
            name: (len(some), pytest.approx(sum(some) / len(some))) for name, some in hits.items()
        }
        assert ("by_source" in row) == (direction[0] != "t")
        assert ("by_duration" in row) == (direction[0] == "a")
        for key in ("by_class", "by_source", "by_duration", "by_rarity"):
            parts = row.get(key, {}).values()
            assert sum(part["n_queries"] for part in parts) in (0, row["n_queries"])
            assert (
                math.isclose(sum(p["top1"] * p["n_queries"] for p in parts), row["top1"] * row["n_queries"])
                or not parts
            )
    unseen = [row for row in results["scenarios"] if row["split"] == "unseen"]
    assert all(list(row["by_rarity"]) == ["0"] for row in unseen)


def test_a_benchmark_without_these_columns_has_no_such_tables(make_dataset, embed, noisy, tmp_path):
    make_bench(make_dataset(tmp_path / "dataset", n_species=24, n_withheld=10), tmp_path / "bench", seed=3)
    for index in (tmp_path / "bench" / "seen").glob("*_index.csv"):
        pl.read_csv(index).drop("source", "duration_s", "train_recordings", strict=False).write_csv(index)
    official = tmp_path / "bench" / "seen"
    vectors = embed(official, tmp_path / "embeddings", noisy(2.0))
    results = score_bench(official, vectors, out=tmp_path / "results.json", split="seen")
    assert all({key for key in row if key.startswith("by_")} == {"by_class"} for row in results["scenarios"])
