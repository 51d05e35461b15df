"""A world on disk: the same bytes whoever makes it, records that keep the laws of the data, no mixing of folders."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biovita import files, log
from biovita.commands.world import Make, run_make
from biovita.errors import WorldError
from biovita.media.audio import read_audio
from biovita.media.image import read_image
from biovita.world.publish import RECORD_COLUMNS, damaged_files, make_world

NUMBERS = {"n_species": 8, "n_recordings": 2, "n_images": 2, "seed": 5}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log.SETTINGS, "quiet", True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "w"
    make_world(folder, **NUMBERS)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path / "again", **NUMBERS)
    assert content(tmp_path / "again") == content(world)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path / "two", **NUMBERS, workers=2)
    assert content(tmp_path / "two") == content(world)


def test_another_seed_gives_other_animals(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path / "w", **(NUMBERS | {"seed": 6}), media=False)
    ours, theirs = (pl.read_parquet(folder / "taxa.parquet")["species"] for folder in (world, tmp_path / "w"))
    assert not set(ours) & set(theirs)


def test_every_file_reads_and_every_record_has_one(world: Path) -> None:
    records = pl.read_parquet(world / "records.parquet")
    assert records.columns == RECORD_COLUMNS
    assert {f"{world / path}" for path in records["path"]} == {str(p) for p in (world / "media").rglob("*.*")}
    for path, modality in records.select("path", "modality").rows():
        if modality == "audio":
            assert np.abs(read_audio(world / path)).max() > 0.05
        else:
            assert read_image(world / path).mode == "RGB"


def test_the_manifest_says_that_it_is_made_up_and_pins_the_tables(world: Path) -> None:
    manifest = files.read_manifest(world, verify=True)
    assert manifest["made_up"] is True
    assert manifest["counts"]["species"] == NUMBERS["n_species"]


def test_a_finished_world_is_left_alone(world: Path) -> None:
    before = (world / "manifest.json").stat().st_mtime_ns
    make_world(world, **NUMBERS)
    assert (world / "manifest.json").stat().st_mtime_ns == before


def test_an_unfinished_world_is_continued(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "w")
    (tmp_path / "w" / "manifest.json").unlink()
    (tmp_path / "w" / "taxa.parquet").unlink()
    kept, *lost = sorted((tmp_path / "w" / "media").rglob("*.*"))
    for path in lost[::3]:
        path.unlink()
    (kept.parent / ".99.flac").write_bytes(b"half of a fi")
    before = kept.stat().st_mtime_ns
    make_world(tmp_path / "w", **NUMBERS)
    assert content(tmp_path / "w") == content(world)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_world_of_other_numbers_is_refused(world: Path, tmp_path: Path, finished: bool) -> None:
    shutil.copytree(world, tmp_path / "w")
    if not finished:
        (tmp_path / "w" / "manifest.json").unlink()
    with pytest.raises(WorldError, match="choose another --out"):
        make_world(tmp_path / "w", **(NUMBERS | {"seed": 6}))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(WorldError, match="not a world"):
        make_world(tmp_path, **NUMBERS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_media_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="at least one"):
        make_world(tmp_path / "w", n_species=8, n_recordings=0, n_images=0, seed=1)


@pytest.mark.parametrize(("n_recordings", "n_images"), [(0, 3), (3, 0), (1, 1)])
def test_one_modality_is_enough(tmp_path: Path, n_recordings: int, n_images: int) -> None:
    make_world(tmp_path / "w", n_species=6, n_recordings=n_recordings, n_images=n_images, seed=1, media=False)
    records = pl.read_parquet(tmp_path / "w" / "records.parquet")
    assert set(records["modality"]) == {m for m, n in (("audio", n_recordings), ("image", n_images)) if n}
    assert set(records["scientific_name"]) == set(pl.read_parquet(tmp_path / "w" / "taxa.parquet")["species"])


def test_records_keep_the_laws_of_the_data(tmp_path: Path) -> None:
    make_world(tmp_path / "w", n_species=500, n_recordings=6, n_images=6, seed=1, media=False)
    records = pl.read_parquet(tmp_path / "w" / "records.parquet")
    assert records["path"].null_count() == len(records)
    assert records.drop("path").null_count().sum_horizontal().item() == 0
    assert records["media_id"].is_unique().all()
    assert set(records["licence"]) == {"CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0"}
    assert set(records["quality"]) == set("ABCDE")
    assert records["remarks"].str.starts_with("made up").all()
    assert records["latitude_deg"].is_between(-90, 90).all()
    assert records["longitude_deg"].is_between(-180, 180).all()
    assert 5.3 < len(records) / 1000 < 5.7
    each = records.group_by("individual").agg(
        pl.col("modality").n_unique().alias("n_modalities"),
        pl.len().alias("n_media"),
        pl.col("scientific_name").n_unique().alias("n_species"),
        pl.col("recorded_at").n_unique().alias("n_times"),
    )
    assert each.select(pl.max("n_species", "n_times")).row(0) == (1, 1)
    assert (each["n_media"] == each["n_modalities"]).all()
    assert 0.4 < (each["n_modalities"] == 2).mean() < 0.6


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(log.SETTINGS, "json", True)
    assert run_make(Make(out=tmp_path / "w", species=5, recordings=1, images=1, seed=1, media=False)) == 0
    assert '"made_up": true' in capsys.readouterr().out


def test_damaged_files_are_damaged(tmp_path: Path) -> None:
    paths = damaged_files(tmp_path)
    assert paths["empty_file"].stat().st_size == 0
    assert paths["html_document"].suffix == ".mp3"
    assert all(path.is_file() for path in paths.values())
    read_audio(tmp_path / "whole.flac")
    read_image(tmp_path / "whole.jpg")
