"""Decoded once: windows of the stored log-mel against the log-mel of the cut wave; the store on disk."""

import fcntl
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from biovita.data.dataset import Dataset
from biovita.errors import MediaError, TrainError
from biovita.log import Progress
from biovita.media.audio import read_audio
from biovita.models.mel import LogMel
from biovita.models.vita import FRAMES
from biovita.train import features as module
from biovita.train.features import SILENCE_DB, Features, _Store, lineage_of, prepare

HOP = 480
FP16_DB = 0.04  # half a step of float16 between 64 and 128 dB, and a little of float32's


@pytest.fixture(scope="module")
def mel(encoder: Any) -> LogMel:
    return LogMel(encoder.processor.feature_extractor)


def one_recording(mel: LogMel, wave: np.ndarray, *, repeats: bool) -> Features:
    whole = log_mel(mel, wave).astype(np.float16)
    return Features(
        media=None,  # pyright: ignore[reportArgumentType]
        species=[],
        lineage=np.empty((0, 2), np.int64),
        mels=np.concatenate([np.full((7, 64), 99, np.float16), whole, np.full((3, 64), 99, np.float16)]),
        starts=np.array([0, 7, 7 + len(whole), 10 + len(whole)]),
        squares=np.empty(0),
        repeats=repeats,
    )


def log_mel(mel: LogMel, wave: np.ndarray) -> np.ndarray:
    return mel(torch.from_numpy(wave.astype(np.float32))[None])[0].numpy()


def noise(n_samples: int) -> np.ndarray:
    return np.random.default_rng(n_samples).normal(0, 0.1, n_samples)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.999])
def test_a_window_of_a_long_recording_is_the_mel_of_that_stretch(mel: LogMel, shift: float) -> None:
    wave = noise(23 * 48_000)
    found = one_recording(mel, wave, repeats=False).mel(1, shift)
    spare = 1 + len(wave) // HOP - FRAMES
    cut = round(shift * spare) * HOP
    expected = log_mel(mel, wave[cut : cut + (FRAMES - 1) * HOP])
    assert found.shape == expected.shape == (FRAMES, 64)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[2:-2], expected[2:-2], atol=FP16_DB)


def test_a_recording_of_exactly_one_window_has_only_that_one(mel: LogMel) -> None:
    features = one_recording(mel, noise(480_000), repeats=True)
    assert (features.mel(1, 0.0) == features.mel(1, 0.99)).all()


@pytest.mark.parametrize(("shift", "before"), [(0.0, 0), (0.25, 175), (0.999, 699)])
def test_a_short_recording_stands_in_silence_where_the_shift_puts_it(mel: LogMel, shift: float, before: int) -> None:
    wave = noise(3 * 48_000)  # 301 frames, 700 to spare
    found = one_recording(mel, wave, repeats=False).mel(1, shift)
    padded = np.pad(wave, (before * HOP, (FRAMES - 1 - before) * HOP - len(wave)))
    expected = log_mel(mel, padded)
    inside = slice(before + 2, before + 299)
    np.testing.assert_allclose(found[inside], expected[inside], atol=FP16_DB)
    outside = np.r_[0 : max(0, before - 2), before + 303 : FRAMES]
    assert (found[outside] == np.float32(SILENCE_DB)).all()
    np.testing.assert_allclose(found[outside], expected[outside], atol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.999])
def test_a_short_recording_that_is_repeated_fills_the_window(mel: LogMel, shift: float) -> None:
    n_frames = 200  # the stored mel has one frame more than whole hops, so a seam lies every 201 frames
    wave = noise(n_frames * HOP)
    found = one_recording(mel, wave, repeats=True).mel(1, shift)
    assert found.shape == (FRAMES, 64)
    whole = log_mel(mel, wave)
    before = round(shift * (FRAMES - n_frames - 1))
    for row in range(FRAMES):
        np.testing.assert_allclose(found[row], whole[(row - before) % (n_frames + 1)], atol=FP16_DB)


def test_an_unshifted_repeat_is_the_mel_of_the_wave_said_again(mel: LogMel) -> None:
    wave = noise(4 * 48_000)
    found = one_recording(mel, wave, repeats=True).mel(1, 0.0)
    expected = log_mel(mel, np.resize(wave, 480_000))
    np.testing.assert_allclose(found[2:399], expected[2:399], atol=FP16_DB)


def test_the_neighbours_of_a_recording_stay_out_of_its_windows(mel: LogMel) -> None:
    for seconds, repeats in ((2, True), (2, False), (30, True)):
        features = one_recording(mel, noise(seconds * 48_000), repeats=repeats)
        assert max(features.mel(1, shift).max() for shift in (0.0, 0.5, 0.9999)) < 90


@pytest.fixture
def copy(made_up: Path, tmp_path: Path) -> Path:
    """The dataset of all tests, to write in."""
    return Path(shutil.copytree(made_up, tmp_path / "dataset", ignore=shutil.ignore_patterns(".features")))


def test_a_dataset_is_decoded_once_and_read_back_the_same(
    encoder: Any, copy: Path, mel: LogMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(copy)
    first = prepare(dataset, encoder)
    monkeypatch.setattr(module, "prefetch", None)  # decoding again would fail
    again = prepare(dataset, encoder)
    assert (first.mels == again.mels).all()
    assert (first.squares == again.squares).all()
    assert again.media.equals(first.media)
    assert set(first.media["split"]) == {"train", "val"}
    assert first.species == sorted(set(first.media["species"]))
    assert not set(first.species) & set(dataset.taxa.filter("withheld")["species"])
    for row in first.media.iter_rows(named=True):
        assert first.species[row["label"]] == row["species"]
    for row in first.rows("audio", "train").head(3).iter_rows(named=True):
        stored = first.mels[first.starts[row["row"]] : first.starts[row["row"] + 1]]
        expected = log_mel(mel, read_audio(dataset.path(row["path"])))
        np.testing.assert_allclose(stored.astype(np.float32), expected, atol=FP16_DB)
    for row in first.rows("image", "val").iter_rows(named=True):
        assert (first.squares[row["row"]] == encoder.square(dataset.path(row["path"]))).all()


def test_other_settings_or_data_are_decoded_anew(encoder: Any, new_encoder: Callable[..., Any], copy: Path) -> None:
    dataset = Dataset.open(copy)
    prepare(dataset, encoder)
    prepare(dataset, encoder, splits=["train"])
    other = new_encoder()
    other.processor.feature_extractor.padding = "pad"
    prepare(dataset, other)
    assert len(list((copy / ".features").iterdir())) == 3


def kept(copy: Path) -> dict[str, bytes]:
    (folder,) = (copy / ".features").iterdir()
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.*")) if path.suffix in (".bin", ".lengths")}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recordings that are decoded while a test runs."""
    names: list[str] = []

    def read(path: Path) -> np.ndarray:
        names.append(path.name)
        return read_audio(path)

    monkeypatch.setattr(module, "read_audio", read)
    return names


WHOLE = {"mels.bin", "mels.lengths", "squares.bin", "squares.lengths"}


@pytest.mark.parametrize(
    ("damage", "n_again"),
    [
        (lambda mels, lengths: lengths.write_bytes(lengths.read_bytes()[: 8 * 20]), -20),  # more is there than is sure
        (lambda mels, lengths: lengths.write_bytes(lengths.read_bytes()[: 8 * 20 + 3]), -20),  # half a number
        (lambda mels, lengths: mels.write_bytes(mels.read_bytes() + b"torn"), -50),
        (lambda mels, lengths: mels.write_bytes(mels.read_bytes()[:-1]), 0),  # less than was said: trust nothing
        (lambda mels, lengths: lengths.unlink(), 0),
        (lambda mels, lengths: mels.unlink(), 0),
    ],
)
def test_whatever_a_stop_left_the_next_call_ends_with_the_same_bytes(
    damage: Callable[[Path, Path], None], n_again: int, encoder: Any, copy: Path, decoded: list[str]
) -> None:
    prepare(Dataset.open(copy), encoder)
    n_all, expected = len(decoded), kept(copy)
    assert set(expected) == WHOLE
    assert n_all > 40
    (folder,) = (copy / ".features").iterdir()
    (folder / "manifest.json").unlink()
    damage(folder / "mels.bin", folder / "mels.lengths")
    decoded.clear()
    prepare(Dataset.open(copy), encoder)
    assert kept(copy) == expected
    assert len(decoded) == max(0, n_all + n_again)


KILLED = """
import os, signal, sys
from pathlib import Path
from biovita.data.dataset import Dataset
from biovita.models import hub
from biovita.train import features
features.BLOCK, last = 8, int(sys.argv[2])
read, n = features.read_audio, 0
def counted(path):
    global n
    n += 1
    if n > last:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)
features.read_audio = counted
features.prepare(Dataset.open(Path(sys.argv[1])), hub.start("tiny", ["Rana temporaria", "Turdus merula"] * 3, seed=1))
"""


@pytest.mark.slow
def test_after_a_kill_finished_blocks_are_kept_and_the_bytes_are_the_same(
    encoder: Any, copy: Path, decoded: list[str]
) -> None:
    line = [sys.executable, "-c", KILLED, str(copy), "30"]
    killed = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((copy / ".features").glob("*/manifest.json"))
    prepare(Dataset.open(copy), encoder)
    after = kept(copy)
    assert 0 < len(decoded) <= len(after["mels.lengths"]) // 8 - 16
    shutil.rmtree(copy / ".features")
    prepare(Dataset.open(copy), encoder)
    assert kept(copy) == after


def test_who_comes_second_waits_until_the_first_has_decoded(
    encoder: Any, copy: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = prepare(Dataset.open(copy), encoder)
    (folder,) = (copy / ".features").iterdir()
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    decoded.clear()
    with ThreadPoolExecutor(1) as pool:
        with (folder / ".lock").open("w") as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            second = pool.submit(prepare, Dataset.open(copy), encoder)
            said = ""
            while "another process decodes" not in said:
                said += capsys.readouterr().err
                assert not second.done()
                time.sleep(0.01)
            (folder / "manifest.json").write_bytes(manifest)
        found = second.result(timeout=30)
    assert (found.mels == expected.mels).all()
    assert not decoded


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    store = _Store(tmp_path / "mels", np.dtype(np.float16), (64,))
    tracemalloc.start()
    try:
        store.fill(lambda path: np.full((800, 64), int(path), np.float16), [str(n) for n in range(200)], Progress("x"))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (store.path.with_suffix(".bin")).stat().st_size == 200 * 800 * 128
    assert peak_bytes < 200 * 800 * 128 / 4
    assert (store.rows()[::800, 0] == np.arange(200)).all()


def test_a_disk_without_room_is_noticed_before_anything_is_decoded(
    encoder: Any, copy: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TrainError, match=r"GB more, and 0\.0 GB are free.*--media fresh"):
        prepare(Dataset.open(copy), encoder)
    assert not decoded


def test_a_row_is_as_long_as_its_mel_and_gives_its_own_picture(make_features: Callable[..., Features]) -> None:
    features = make_features([(2, 1), (1, 2)], n_frames=300)
    assert [features.n_frames(row) for row in range(3)] == [300] * 3
    for row in range(3):
        assert (features.square(row) == features.squares[row]).all()


def test_a_file_that_went_bad_stops_the_stage_and_leaves_nothing_half_made(encoder: Any, copy: Path) -> None:
    dataset = Dataset.open(copy)
    row = dataset.media.filter(modality="audio", split="train").row(0, named=True)
    dataset.path(row["path"]).write_bytes(b"<html>")
    with pytest.raises(MediaError, match=Path(row["path"]).name):
        prepare(dataset, encoder)
    assert not list((copy / ".features").glob("*/manifest.json"))


def test_splits_without_media_are_an_error_that_names_them(encoder: Any, made_up: Path) -> None:
    with pytest.raises(TrainError, match="no media in the splits train2"):
        prepare(Dataset.open(made_up), encoder, splits=["train2"])


@pytest.mark.parametrize("unknown", ["", None])
def test_species_of_unknown_family_are_no_relatives(unknown: str | None) -> None:
    species = ["Rana temporaria", "Turdus merula", "Turdus pilaris"]
    ranks = {"kingdom": "Animalia", "phylum": "Chordata", "class": ["Amphibia", "Aves", "Aves"], "order": unknown}
    ranks |= {"family": unknown, "genus": ["Rana", "Turdus", "Turdus"]}
    taxa = pl.DataFrame({"species": species}).with_columns(
        pl.Series(name, values if isinstance(values, list) else [values] * 3, pl.String)
        for name, values in ranks.items()
    )
    found = dict(zip(("species", "genus", "family", "order", "class"), lineage_of(taxa, species).T, strict=False))
    assert len(set(found["family"])) == len(set(found["order"])) == 3
    assert found["genus"][1] == found["genus"][2] != found["genus"][0]
    assert found["class"][1] == found["class"][2] != found["class"][0]
