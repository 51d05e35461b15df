"""PEERS: our log-mel against transformers' CLAP extractor, which works in float64 and one wave at a time."""

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from biovita.models.mel import POWER_FLOOR, LogMel

RATE_HZ, N_SAMPLES = 48_000, 480_000
SILENCE_DB = 10 * np.log10(POWER_FLOOR)


@pytest.fixture(scope="module")
def settings() -> ClapFeatureExtractor:
    return ClapFeatureExtractor(
        feature_size=64, frequency_min=50, frequency_max=14_000, padding="pad", truncation="rand_trunc"
    )


@pytest.fixture(scope="module")
def mel(settings: ClapFeatureExtractor) -> LogMel:
    return LogMel(settings)


def peer(settings: ClapFeatureExtractor, wave: np.ndarray) -> np.ndarray:
    return np.asarray(settings(wave, sampling_rate=RATE_HZ)["input_features"]).reshape(-1, 64)


def ours(mel: LogMel, *waves: np.ndarray) -> np.ndarray:
    return mel(torch.from_numpy(np.stack(waves).astype(np.float32))).numpy()


def waves() -> dict[str, np.ndarray]:
    t = np.arange(N_SAMPLES) / RATE_HZ
    rng = np.random.default_rng(3)
    return {
        "noise": rng.normal(0, 0.1, N_SAMPLES),
        "faint_noise": rng.normal(0, 1e-4, N_SAMPLES),
        "tone": 0.5 * np.sin(2 * np.pi * 1_000 * t),
        "chirp": np.sin(2 * np.pi * (500 + 600 * t) * t),
        "short_call": np.where((t > 3) & (t < 3.2), np.sin(2 * np.pi * 4_000 * t), 0.0),
        "silence": np.zeros(N_SAMPLES),
    }


@pytest.mark.parametrize("name", waves())
def test_log_mel_equals_the_clap_extractor(settings: ClapFeatureExtractor, mel: LogMel, name: str) -> None:
    wave = waves()[name].astype(np.float32)
    theirs, found = peer(settings, wave), ours(mel, wave)[0]
    assert theirs.shape == found.shape == (1001, 64)
    np.testing.assert_allclose(found, theirs, atol=5e-5, rtol=0)


def test_a_batch_says_of_every_wave_what_it_is_alone(mel: LogMel) -> None:
    many = list(waves().values())
    for row, wave in zip(ours(mel, *many), many, strict=True):
        np.testing.assert_allclose(row, ours(mel, wave)[0], atol=5e-5, rtol=0)


def test_silence_is_the_floor_and_nothing_lies_below(mel: LogMel) -> None:
    found = ours(mel, *waves().values())
    assert found.min() == pytest.approx(SILENCE_DB)
    assert (found[-1] == np.float32(SILENCE_DB)).all()


@pytest.mark.parametrize(("n_samples", "n_frames"), [(513, 2), (959, 2), (960, 3), (48_000, 101), (N_SAMPLES, 1001)])
def test_every_480_samples_give_a_frame_and_the_first_one_too(mel: LogMel, n_samples: int, n_frames: int) -> None:
    assert ours(mel, np.ones(n_samples)).shape == (1, n_frames, 64)


def test_twice_the_amplitude_is_6_db_more(mel: LogMel) -> None:
    noise = waves()["noise"]
    np.testing.assert_allclose(ours(mel, 2 * noise) - ours(mel, noise), 20 * np.log10(2), atol=1e-4)
