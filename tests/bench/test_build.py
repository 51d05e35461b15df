import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biovita.bench.build import make_bench, slugs
from biovita.bench.official import open_bench, read_indices, read_task
from biovita.bench.tasks import LEVELS, SPLITS
from biovita.errors import BenchError, DatasetError


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def rows_of(folder: Path, split: str, file: str) -> list[dict]:
    table = pl.read_csv(folder / split / file, infer_schema=False)
    return [
        {**row, "taxa": json.loads(row["candidates_taxa"]), "ids": json.loads(row["candidates_target_ids"])}
        for row in table.iter_rows(named=True)
    ]


@pytest.fixture
def dataset(make_dataset, tmp_path):
    return make_dataset(tmp_path / "dataset")


def test_all_36_scenarios_are_made_and_read_back(dataset, tmp_path):
    manifest = make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=5)
    bench = open_bench(tmp_path / "bench")
    assert len(bench.present) == len(manifest["scenarios"]) == 36
    assert bench.absent == {}
    for scenario in bench.present:
        task = read_task(bench.splits[scenario.split], scenario, read_indices(bench.splits[scenario.split]))
        counts = manifest["scenarios"][str(scenario)]
        assert len(task) == counts["n_queries"] > 0
        assert set(task.n_candidates) == {counts["n_candidates"]}
        assert None not in task.taxon_class


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_the_table(make_dataset, tmp_path):
    one = make_dataset(tmp_path / "one")
    two = make_dataset(tmp_path / "two", edit=lambda media: media.sample(fraction=1, shuffle=True, seed=3))
    for dataset in (one, two):
        make_bench(dataset, dataset / "bench", seed=1, n_candidates=5)
    make_bench(one, tmp_path / "other", seed=2, n_candidates=5)
    assert bytes_of(one / "bench") == bytes_of(two / "bench")
    assert bytes_of(one / "bench") != bytes_of(tmp_path / "other")


def test_pools_hold_the_own_taxon_once_and_each_taxon_with_all_its_samples(dataset, tmp_path):
    make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=5)
    bench = open_bench(tmp_path / "bench")
    for scenario in bench.present:
        indices = read_indices(bench.splits[scenario.split])
        samples = indices[scenario.target].group_by(scenario.level).agg("id")
        samples = dict(zip(samples[scenario.level], samples["id"].to_list(), strict=True))
        for row in rows_of(tmp_path / "bench", scenario.split, scenario.file):
            assert len(set(row["taxa"])) == len(row["taxa"])
            assert row["correct_taxon"] in row["taxa"]
            assert [sorted(ids) for ids in row["ids"]] == [sorted(samples[name]) for name in row["taxa"]]
            payload = indices[scenario.query].filter(pl.col("id") == row["query_payload_id"])
            assert payload[scenario.level].to_list() == [row["correct_taxon"]]


def test_splits_hold_test_items_only_and_share_no_species(dataset, tmp_path):
    make_bench(dataset, tmp_path / "bench", seed=1)
    media = pl.read_parquet(dataset / "media.parquet")
    for split in SPLITS:
        indices = read_indices(tmp_path / "bench" / split)
        chosen = media.filter(pl.col("split") == f"test_{split}")
        for modality in ("audio", "image"):
            assert indices[modality]["id"].to_list() == sorted(chosen.filter(modality=modality)["media_id"])
        assert set(indices["text"]["species"]) == set(chosen["species"])
    both = [set(read_indices(tmp_path / "bench" / split)["text"]["species"]) for split in SPLITS]
    assert not both[0] & both[1]


def test_every_item_with_an_answer_asks_and_text_asks_once_a_taxon(make_dataset, tmp_path):
    def without_some(media):  # species 0 has no sound, species 1 no picture
        mute = (pl.col("species") == "Genus0 sp0") & (pl.col("modality") == "audio")
        shy = (pl.col("species") == "Genus0 sp1") & (pl.col("modality") == "image")
        return media.filter(~mute & ~shy)

    dataset = make_dataset(tmp_path / "dataset", edit=without_some)
    make_bench(dataset, tmp_path / "bench", seed=1)

    def asked(file):
        return [row["correct_taxon"] for row in rows_of(tmp_path / "bench", "unseen", file)]

    a2i = asked("species/test_audio_to_image.csv")
    assert len(a2i) == 4 * 10
    assert not {"Genus0 sp0", "Genus0 sp1"} & set(a2i)
    assert "Genus0 sp1" in asked("species/test_audio_to_text.csv")
    for level in LEVELS:
        names = asked(f"{level}/test_text_to_audio.csv")
        assert len(names) == len(set(names)) == {"species": 11, "genus": 4, "family": 2}[level]


def test_pools_are_drawn_evenly(make_dataset, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", n_species=40, n_withheld=30, n_each=20)
    make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=10)
    rows = rows_of(tmp_path / "bench", "unseen", "species/test_audio_to_image.csv")
    place = np.bincount([row["taxa"].index(row["correct_taxon"]) for row in rows], minlength=10)
    rivals = pl.Series([name for row in rows for name in row["taxa"]]).value_counts()["count"].to_numpy()
    assert len(rows) == 600
    assert ((place - 60) ** 2 / 60).sum() < 27.9  # chi-square, 9 degrees, p = 0.001
    assert len(rivals) == 30
    assert rivals.min() > 150  # 200 expected, standard deviation 11


def test_small_pools_are_all_taxa_and_are_stated(dataset, tmp_path, capsys):
    manifest = make_bench(dataset, tmp_path / "bench", seed=1)
    assert manifest["n_candidates"] == 100
    assert manifest["scenarios"]["unseen/species/a2i"]["n_candidates"] == 12
    assert manifest["scenarios"]["unseen/family/a2i"]["n_candidates"] == 2
    assert "36 of 36 scenarios have pools of fewer than 100 taxa (down to 2)" in capsys.readouterr().err


def test_media_are_found_from_the_benchmark(dataset, tmp_path):
    make_bench(dataset, tmp_path / "deep" / "bench", seed=1)
    bench = open_bench(tmp_path / "deep" / "bench")
    path = bench.media_path(read_indices(bench.splits["seen"])["audio"]["file_path"][0])
    assert path.resolve().parent == (dataset / "media" / "audio").resolve()


def test_a_taxon_without_a_name_at_a_level_stands_in_no_pool_there(make_dataset, tmp_path):
    def nameless(media):
        lost = pl.when(pl.col("species") == "Genus0 sp0").then(pl.lit(None)).otherwise("family")
        return media.with_columns(lost.alias("family"))

    dataset = make_dataset(tmp_path / "dataset", edit=nameless)
    manifest = make_bench(dataset, tmp_path / "bench", seed=1)
    assert manifest["scenarios"]["unseen/family/a2i"]["n_queries"] == 4 * 11
    assert manifest["scenarios"]["unseen/species/a2i"]["n_queries"] == 4 * 12
    open_bench(tmp_path / "bench")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (~((pl.col("split") == "test_seen") & (pl.col("modality") == "image")), "split test_seen has no image files"),
        (pl.col("split") != "test_unseen", "split test_unseen has no audio files"),
        (
            (pl.col("split") != "test_unseen") | ((pl.col("family") == "Family0") == (pl.col("modality") == "audio")),
            "split test_unseen: no species has both audio and image, so unseen/species/a2i would be empty",
        ),
    ],
)
def test_a_scenario_that_would_be_empty_is_refused(make_dataset, tmp_path, keep, message):
    dataset = make_dataset(tmp_path / "dataset", edit=lambda media: media.filter(keep))
    with pytest.raises(BenchError, match=rf"dataset: {message}"):
        make_bench(dataset, tmp_path / "bench", seed=1)
    assert not (tmp_path / "bench").exists()


def test_a_folder_with_files_is_left_alone(dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(BenchError, match="mine: already there and not empty"):
        make_bench(dataset, tmp_path / "mine", seed=1)
    (tmp_path / "empty").mkdir()
    make_bench(dataset, tmp_path / "empty", seed=1)
    assert (tmp_path / "empty" / "manifest.json").is_file()


def test_wrong_input_is_refused(dataset, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        make_bench(tmp_path / "nowhere", tmp_path / "bench", seed=1)
    with pytest.raises(BenchError, match="--candidates 1: a pool needs at least 2"):
        make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=1)


def test_a_changed_benchmark_is_refused(dataset, tmp_path):
    make_bench(dataset, tmp_path / "bench", seed=1)
    path = tmp_path / "bench" / "seen" / "genus" / "test_text_to_image.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DatasetError, match=r"test_text_to_image.csv: changed since manifest.json was written"):
        open_bench(tmp_path / "bench")


def test_slugs_are_plain_and_unique():
    assert slugs(["Corvus corax", "corvus-corax", "Ñandú!", "!"]) == ["corvus_corax", "corvus_corax-2", "and", "taxon"]
