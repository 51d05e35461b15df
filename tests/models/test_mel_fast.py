"""The chunked log-mel against a plain loop in float64: any length, any batch, real recordings, and inside autocast."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from biovita.media.window import fit, read_onset
from biovita.models import mel as module
from biovita.models.mel import LogMel

WILDLIFE = Path(__file__).parents[3] / "shared" / "data" / "wildlife"
N_SAMPLES = 480_000


@pytest.fixture(scope="module")
def settings() -> ClapFeatureExtractor:
    return ClapFeatureExtractor(
        feature_size=64, frequency_min=50, frequency_max=14_000, padding="pad", truncation="rand_trunc"
    )


def plain(settings: ClapFeatureExtractor, wave: np.ndarray) -> np.ndarray:
    """One frame after the other, all 513 bins, float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    padded = np.pad(wave.astype(np.float64), 512, mode="reflect")
    rows = []
    for begin in range(0, len(padded) - 1023, 480):
        power = np.abs(np.fft.rfft(padded[begin : begin + 1024] * window)) ** 2
        rows.append(10 * np.log10(np.maximum(power @ settings.mel_filters_slaney, 1e-10)))
    return np.array(rows)


def hum_and_hiss(n_samples: int, n_waves: int) -> np.ndarray:
    """A loud hum with a hiss 100 dB below: in float32 the hum's rounding would drown the hiss."""
    t = np.arange(n_samples) / 48_000
    rng = np.random.default_rng(n_samples)
    hum = 0.9 * np.sin(2 * np.pi * (120 + 40 * np.arange(n_waves)[:, None]) * t)
    return (hum + 1e-5 * rng.standard_normal((n_waves, n_samples))).astype(np.float32)


@pytest.mark.parametrize(
    ("n_samples", "n_waves"), [(513, 1), (1_023, 2), (61_439, 1), (61_440, 3), (62_000, 1), (5_000, 200)]
)
def test_any_length_and_any_batch_is_the_plain_loop(
    settings: ClapFeatureExtractor, n_samples: int, n_waves: int
) -> None:
    waves = hum_and_hiss(n_samples, n_waves)
    found = LogMel(settings)(torch.from_numpy(waves))
    assert (found.dtype, found.shape) == (torch.float32, (n_waves, 1 + n_samples // 480, 64))
    for row, wave in zip(found.numpy(), waves, strict=True):
        np.testing.assert_allclose(row, plain(settings, wave), atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_samples", [0, 1, 512])
def test_a_wave_too_short_to_reflect_is_refused(settings: ClapFeatureExtractor, n_samples: int) -> None:
    with pytest.raises(ValueError, match=f"{n_samples} samples: more than 512"):
        LogMel(settings)(torch.zeros(1, n_samples))


def test_the_size_of_the_chunks_does_not_matter(
    settings: ClapFeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    mel, waves = LogMel(settings), torch.from_numpy(hum_and_hiss(50_000, 2))
    expected = mel(waves)
    for n_frames in (1, 7, 10**6):
        monkeypatch.setattr(module, "CPU_FRAMES", n_frames)
        torch.testing.assert_close(mel(waves), expected, atol=3e-5, rtol=0)


def test_autocast_leaves_it_as_it_is(settings: ClapFeatureExtractor) -> None:
    mel, wave = LogMel(settings), torch.from_numpy(hum_and_hiss(20_000, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mel(wave)
    assert torch.equal(inside, mel(wave))


@pytest.mark.skipif(not WILDLIFE.is_dir(), reason="the recordings of shared/data/wildlife are not here")
def test_real_recordings_equal_the_clap_extractor(settings: ClapFeatureExtractor) -> None:
    paths = sorted(WILDLIFE.rglob("*.mp3"))[::8]
    assert paths
    mel = LogMel(settings)
    for path in paths:
        wave = fit(read_onset(path), N_SAMPLES)
        theirs = np.asarray(settings(wave, sampling_rate=48_000)["input_features"]).reshape(-1, 64)
        np.testing.assert_allclose(mel(torch.from_numpy(wave)[None])[0].numpy(), theirs, atol=2e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_says_what_the_cpu_says_whatever_its_matrix_units_are_told(settings: ClapFeatureExtractor) -> None:
    mel, waves = LogMel(settings), torch.from_numpy(hum_and_hiss(N_SAMPLES, 4))
    torch.set_float32_matmul_precision("high")  # TF32
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = LogMel(settings).cuda()(waves.cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(found, mel(waves), atol=2e-5, rtol=0)
