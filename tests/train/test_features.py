"""Decoded once: windows of the stored log-mel against the log-mel of the cut wave; the store on disk."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biovita.data.dataset import Dataset
from biovita.errors import MediaError, TrainError
from biovita.media.audio import read_audio
from biovita.models.mel import LogMel
from biovita.models.vita import FRAMES
from biovita.train.features import SILENCE_DB, Features, prepare

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
    monkeypatch.setattr("biovita.train.features.prefetch", None)  # decoding again would fail
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


def test_features_cut_off_in_the_middle_are_made_again(encoder: Any, copy: Path) -> None:
    dataset = Dataset.open(copy)
    expected = prepare(dataset, encoder)
    (folder,) = (copy / ".features").iterdir()
    before = np.array(expected.mels)
    (folder / "manifest.json").unlink()
    np.save(folder / "mels.npy", before[:100])
    assert (prepare(dataset, encoder).mels == before).all()


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
