"""Decoded at every draw: against what is kept, from a dataset folder and from its shards."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from biovita.data.dataset import Dataset
from biovita.data.shards import write_shards
from biovita.data.split import SPLITS
from biovita.errors import DatasetError, MediaError, TrainError
from biovita.files import sha256_file
from biovita.media.audio import read_audio, write_audio
from biovita.models.vita import FRAMES
from biovita.train import source as module
from biovita.train.features import SILENCE_DB, Features, prepare
from biovita.train.source import Originals, Source, one_thread, open_data, open_source

FP16_DB = 0.04  # half a step of float16 between 64 and 128 dB, and a little of float32's
EDGE = 2  # frames of 1,024 samples, one every 480, that a reflection at a cut reaches
LONG = {"a.wav": (48_000, 12.345), "b.mp3": (44_100, 17.2), "c.flac": (22_050, 33.33), "d.m4a": (44_100, 15.0),
        "e.flac": (48_000, 10.0), "f.wav": (44_100, 9.99), "g.wav": (32_000, 10.01)}  # fmt: skip


def build(folder: Path, table: Path, taxa: Path) -> Path:
    line = [sys.executable, "-m", "biovita", "data", "build", "--manifest", table, "--out", folder / "dataset"]
    line += ["--taxa", taxa, "--withheld", "0", "--seed", "1", "--workers", "1", "--quiet"]
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "dataset"


@pytest.fixture(scope="module")
def long(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of recordings of about a window and longer, one of each kind of file and rate."""
    folder = tmp_path_factory.mktemp("long")
    taxa = made_up.parent / "world" / "taxa.parquet"
    names = pl.read_parquet(taxa)["species"].sort()
    rng, rows = np.random.default_rng(3), []
    for n, (name, (rate_hz, seconds)) in enumerate(LONG.items()):
        at_s = np.arange(round(seconds * rate_hz)) / rate_hz
        whistle = np.sin(2 * np.pi * (500 + 300 * n) * at_s + 9 * np.sin(2 * np.pi * (n + 1) * 0.3 * at_s))
        write_audio(folder / name, 0.2 * whistle + rng.normal(0, 0.02, len(at_s)), rate_hz)
        rows.append((name, names[n], "audio", "CC0-1.0"))
    table = pl.DataFrame(rows, ["path", "scientific_name", "modality", "licence"], orient="row")
    table.write_csv(folder / "records.csv")
    return build(folder, folder / "records.csv", taxa)


@pytest.fixture(scope="module")
def sources(encoder: Any, made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """The made-up dataset, kept, from its folder and from its shards."""
    home = tmp_path_factory.mktemp("sources")
    shutil.copytree(made_up, home / "folder", ignore=shutil.ignore_patterns(".features"))
    write_shards(Dataset.open(made_up), home / "shards", shard_bytes=400_000)
    return {
        "kept": open_source(open_data(home / "folder"), encoder, kept=True),
        "folder": open_source(open_data(home / "folder"), encoder, kept=False),
        "shards": open_source(open_data(home / "shards"), encoder, kept=False),
    }


def test_all_three_have_the_same_media_in_the_same_rows(sources: dict[str, Source]) -> None:
    kept = sources["kept"]
    assert isinstance(kept, Features)
    for name in ("folder", "shards"):
        other = sources[name]
        assert other.media.drop("path", "fingerprint", strict=False).equals(kept.media.drop("path", "fingerprint"))
        assert other.species == kept.species
        assert (other.lineage == kept.lineage).all()
        for modality in ("audio", "image"):
            assert other.rows(modality, "val")["media_id"].equals(kept.rows(modality, "val")["media_id"])
        assert len(other.rows("audio", "train")) > 20
        assert [other.n_frames(row) for row in range(40)] == [kept.n_frames(row) for row in range(40)]


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.999])
def test_a_short_recording_is_what_is_kept_but_for_its_rounding(sources: dict[str, Source], shift: float) -> None:
    rows = sources["kept"].media.filter(modality="audio")["row"]
    for row in rows[::3]:
        found = sources["folder"].mel(row, shift)
        assert found.shape == (FRAMES, 64)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, sources["kept"].mel(row, shift), atol=FP16_DB)
        assert np.array_equal(sources["shards"].mel(row, shift), found)


def test_a_picture_is_what_is_kept(sources: dict[str, Source]) -> None:
    for row in sources["kept"].media.filter(modality="image")["row"]:
        kept = sources["kept"].square(row)
        assert kept.dtype == np.uint8
        assert np.array_equal(sources["folder"].square(row), kept)
        assert np.array_equal(sources["shards"].square(row), kept)


def test_where_silence_fills_up_it_fills_up_here_too(new_encoder: Callable[..., Any], made_up: Path) -> None:
    encoder = new_encoder()
    encoder.processor.feature_extractor.padding = "pad"
    found = Originals(Dataset.open(made_up), encoder)
    for shift in (0.0, 0.5):
        mel = found.mel(0, shift)
        before = round(shift * (FRAMES - found.n_frames(0)))
        assert (mel[:before] == np.float32(SILENCE_DB)).all()
        assert (mel[before + found.n_frames(0) :] == np.float32(SILENCE_DB)).all()
        assert mel[before : before + found.n_frames(0)].mean() > SILENCE_DB + 10


@pytest.mark.parametrize("shift", [0.0, 0.37, 0.999])
def test_a_window_of_a_long_recording_is_what_is_kept_but_for_two_frames_at_each_edge(
    encoder: Any, long: Path, shift: float
) -> None:
    kept = prepare(open_data(long), encoder, splits=SPLITS)
    found = Originals(open_data(long), encoder, splits=SPLITS)
    assert len(found.media) == len(LONG)
    for row in found.media["row"]:
        assert found.n_frames(row) == kept.n_frames(row)
        ours, theirs = found.mel(row, shift), kept.mel(row, shift)
        np.testing.assert_allclose(ours[EDGE:-EDGE], theirs[EDGE:-EDGE], atol=FP16_DB)


def test_only_the_window_is_decoded(encoder: Any, long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(path: Path, *, start_s: float, duration_s: float) -> np.ndarray:
        asked.append((start_s, duration_s))
        return read_audio(path, start_s=start_s, duration_s=duration_s)

    monkeypatch.setattr(module, "read_audio", read)
    found = Originals(open_data(long), encoder, splits=SPLITS)
    (row,) = found.media.filter(pl.col("duration_s") > 30)["row"]
    found.mel(row, 0.0)
    found.mel(row, 0.5)
    assert asked == [(0.0, 10.0), (round(0.5 * (found.n_frames(row) - FRAMES)) / 100, 10.0)]


def test_the_number_of_threads_changes_no_bit_and_is_put_back(sources: dict[str, Source]) -> None:
    before = torch.get_num_threads()
    alone = sources["folder"].mel(0, 0.4)
    torch.set_num_threads(2)
    try:
        assert np.array_equal(sources["folder"].mel(0, 0.4), alone)
        assert torch.get_num_threads() == 2
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def copy(made_up: Path, tmp_path: Path) -> Dataset:
    """The dataset of all tests, to write in."""
    return Dataset.open(shutil.copytree(made_up, tmp_path / "dataset", ignore=shutil.ignore_patterns(".features")))


@pytest.mark.parametrize("modality", ["audio", "image"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b"<html>" * 200), "corrupt|unsupported_format"),
        (lambda path: path.write_bytes(b""), "corrupt|unsupported_format"),
        (lambda path: path.unlink(), "unreadable"),
    ],
)
def test_a_file_that_went_bad_is_an_error_that_names_medium_and_file(
    modality: str, damage: Callable[[Path], None], reason: str, encoder: Any, copy: Dataset
) -> None:
    found = Originals(copy, encoder)
    row = found.media.filter(modality=modality).row(3, named=True)
    damage(copy.path(row["path"]))
    with pytest.raises(MediaError, match=rf"^({reason}): {row['media_id']}: .*{Path(row['path']).name}"):
        found.mel(3, 0.5) if modality == "audio" else found.square(3)
    assert (found.mel(4, 0.5) if modality == "audio" else found.square(4)).any()


def test_a_recording_that_ends_before_its_window_is_an_error_and_never_silence(encoder: Any, long: Path) -> None:
    data = open_data(long)
    too_long = data.media.with_columns(pl.col("duration_s") + 100)
    found = Originals(replace(data, media=too_long), encoder, splits=SPLITS)
    assert found.mel(0, 0.0).any()
    with pytest.raises(
        MediaError, match=rf"^truncated: {found.media['media_id'][0]}: \d+ samples from frame 1\d,\d+ on"
    ):
        found.mel(0, 0.99)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda whole, at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "corrupt"),
        (lambda whole, at: whole[:at], "truncated"),
    ],
)
def test_other_bytes_in_a_shard_are_an_error_that_names_medium_and_shard(
    damage: Callable[[bytes, int], bytes], reason: str, encoder: Any, made_up: Path, tmp_path: Path
) -> None:
    write_shards(Dataset.open(made_up), tmp_path / "shards")
    found = Originals(open_data(tmp_path / "shards"), encoder)
    row = found.media.filter(modality="audio").row(3, named=True)
    shard, place, _ = row["path"].split("/")
    offset, size = map(int, place.split("+"))
    whole = (tmp_path / "shards" / shard).read_bytes()
    (tmp_path / "shards" / shard).write_bytes(damage(whole, offset + size // 2))
    with pytest.raises(MediaError, match=rf"^{reason}: {row['media_id']}: .*{shard}"):
        found.mel(3, 0.0)


def test_a_folder_or_its_shards_open_by_one_call(made_up: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(made_up)
    write_shards(dataset, tmp_path / "shards")
    folder, shards = open_data(made_up), open_data(tmp_path / "shards")
    assert folder.made_up
    assert shards.made_up
    assert folder.sha256 == dataset.manifest["sha256"]
    assert shards.sha256 == {
        name: sha256_file(tmp_path / "shards" / name) for name in ("index.parquet", "taxa.parquet")
    }
    assert shards.taxa.equals(folder.taxa)
    assert shards.media["media_id"].equals(folder.media["media_id"])
    assert shards.folder == tmp_path / "shards"


def test_what_can_not_be_opened_says_so(made_up: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        open_data(tmp_path / "absent")
    with pytest.raises(DatasetError, match="never finished"):
        open_data(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "shards", "sha256": {}, "samples": {}}))
    with pytest.raises(DatasetError, match=r"has no index\.parquet"):
        open_data(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": {}}))
    with pytest.raises(DatasetError, match="not a dataset"):
        open_data(tmp_path)


def test_shards_can_be_kept_decoded_too(
    encoder: Any, made_up: Path, sources: dict[str, Source], tmp_path: Path
) -> None:
    write_shards(Dataset.open(made_up), tmp_path / "shards")
    kept, first = open_source(open_data(tmp_path / "shards"), encoder, kept=True), sources["kept"]
    assert isinstance(kept, Features)
    assert isinstance(first, Features)
    assert np.array_equal(kept.mels, first.mels)
    assert np.array_equal(kept.squares, first.squares)


def test_a_few_files_are_never_kept_and_stay_few(encoder: Any, copy: Dataset) -> None:
    found = open_source(open_data(copy.folder), encoder, kept=True, few=True)
    assert isinstance(found, Originals)
    assert not (copy.folder / ".features").exists()
    assert 0 < len(found.media) < len(Originals(copy, encoder).media)
    assert found.mel(0, 0.0).any()


def test_splits_without_media_are_an_error_that_names_them(encoder: Any, made_up: Path) -> None:
    with pytest.raises(TrainError, match="no media in the splits train2"):
        Originals(Dataset.open(made_up), encoder, splits=["train2"])
