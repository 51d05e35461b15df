"""Changes to sounds and pictures: as if made to the wave and the photo, within what the recipe says, seeded."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from biovita.models.mel import LogMel
from biovita.models.vita import FRAMES
from biovita.train.augment import augment_mel, augment_square
from biovita.train.features import SILENCE_DB
from biovita.train.recipe import Augment

RATE_HZ = 48_000
ALL = Augment(gain_db=6, background=1, mask_frames=100, mask_bands=16, crop=0.3, colour=0.4)


@pytest.fixture(scope="module")
def log_mel(encoder: Any) -> Any:
    mel = LogMel(encoder.processor.feature_extractor)
    return lambda wave: mel(torch.from_numpy(wave.astype(np.float32))[None])[0].numpy()


def noise(seed: int, loudness: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, loudness, 10 * RATE_HZ)


def sounds(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-50, 10, (FRAMES, 64)).astype(np.float32)


def picture(side: int = 48) -> np.ndarray:
    """A picture whose red says where across, whose green says where down."""
    across, down = np.meshgrid(np.linspace(0, 255, side), np.linspace(0, 255, side))
    return np.stack([across, down, np.full_like(across, 90)], axis=2).astype(np.uint8)


def test_with_all_off_nothing_changes_and_nothing_is_drawn() -> None:
    rng = np.random.default_rng(1)
    mel, square = sounds(), picture()
    assert augment_mel(mel, rng, Augment()) is mel
    assert augment_square(square, rng, Augment()) is square
    assert rng.random() == np.random.default_rng(1).random()


def test_changes_are_those_of_the_stream_and_leave_the_original_alone() -> None:
    mel, other, square = sounds(), sounds(1), picture()
    for array in (mel, other, square):
        array.flags.writeable = False
    found = []
    for seed in (1, 1, 2):
        rng = np.random.default_rng(seed)
        found.append((augment_mel(mel, rng, ALL, other), augment_square(square, rng, ALL)))
    (mel_1, square_1), (mel_2, square_2), (mel_3, square_3) = found
    assert (mel_1 == mel_2).all()
    assert (square_1 == square_2).all()
    assert (mel_1 != mel_3).any()
    assert (square_1 != square_3).any()
    assert (mel_1.dtype, mel_1.shape) == (np.float32, mel.shape)
    assert (square_1.dtype, square_1.shape) == (np.uint8, square.shape)


def test_gain_is_that_of_the_wave(log_mel: Any) -> None:
    wave = noise(3)
    wave[: 4 * RATE_HZ] = 0  # silence stays silence
    wave[4 * RATE_HZ : 6 * RATE_HZ] *= 1e-4  # and what gets too soft becomes silence
    for seed in range(4):
        gain_db = np.random.default_rng(seed).uniform(-20, 20)
        found = augment_mel(log_mel(wave), np.random.default_rng(seed), Augment(gain_db=20))
        expected = log_mel(wave * 10 ** (gain_db / 20))
        heard = log_mel(wave) > SILENCE_DB
        np.testing.assert_allclose(found[heard], expected[heard], atol=0.01)
        assert (found[~heard] == np.float32(SILENCE_DB)).all()
        assert found.min() == np.float32(SILENCE_DB)


def test_a_background_is_mixed_in_at_the_ratio_that_was_drawn(log_mel: Any) -> None:
    sound, background = noise(1, 0.05), noise(2, 0.5)
    for seed in range(3):
        snr_db = np.random.default_rng(seed).uniform(-5, 15)
        augment = Augment(background_snr_db=(-5, 15))
        found = augment_mel(log_mel(sound), np.random.default_rng(seed), augment, log_mel(background))
        scale = np.sqrt((sound**2).mean() / (background**2).mean() / 10 ** (snr_db / 10))
        expected = log_mel(sound + scale * background)
        power, expected_power = (10 ** (mel / 10) for mel in (found, expected))
        np.testing.assert_allclose(power.mean(axis=0), expected_power.mean(axis=0), rtol=0.1)
        assert power.mean() == pytest.approx(expected_power.mean(), rel=0.02)


def test_the_ratio_is_that_of_the_parts_that_sound() -> None:
    sound, background = sounds(1), sounds(2)
    short = sound.copy()
    short[200:] = SILENCE_DB
    augment = Augment(background_snr_db=(10, 10))
    for one, other in ((short, background), (sound, short), (sound, background)):
        found = augment_mel(one, np.random.default_rng(0), augment, other)
        before, added = ([10 ** (float(x) / 10) if x > SILENCE_DB else 0 for x in mel.flat] for mel in (one, other))
        levels = []
        for values in (before, added):
            frames = np.reshape(values, (FRAMES, 64)).sum(axis=1)
            levels.append(frames[frames > 0].mean())
        expected = [b + a * levels[0] / levels[1] / 10 for b, a in zip(before, added, strict=True)]
        np.testing.assert_allclose(found.flat, 10 * np.log10(np.maximum(expected, 1e-10)), atol=1e-4)


def test_silence_has_no_ratio_and_is_neither_covered_nor_mixed_in() -> None:
    silent, sound = np.full((FRAMES, 64), SILENCE_DB, np.float32), sounds()
    augment = Augment(background_snr_db=(0, 20))
    assert (augment_mel(silent, np.random.default_rng(0), augment, sound) == silent).all()
    np.testing.assert_allclose(augment_mel(sound, np.random.default_rng(0), augment, silent), sound, atol=1e-4)


@pytest.mark.parametrize(("name", "axis", "most"), [("mask_frames", 0, 40), ("mask_bands", 1, 12)])
def test_a_stripe_of_any_width_up_to_the_largest_lies_anywhere_and_holds_the_mean(
    name: str, axis: int, most: int
) -> None:
    mel = sounds()
    widths, places = [], set()
    for seed in range(400):
        found = augment_mel(mel, np.random.default_rng(seed), Augment(**{name: most}))  # pyright: ignore[reportArgumentType]
        changed = np.flatnonzero((found != mel).any(axis=1 - axis))
        widths.append(len(changed))
        if len(changed):
            assert (np.diff(changed) == 1).all()
            assert (np.take(found, changed, axis) == mel.mean()).all()
            places |= set(changed.tolist())
    assert set(widths) == set(range(most + 1))
    assert abs(np.mean(widths) - most / 2) < 4 * most / np.sqrt(12 * 400)
    assert len(places) > 0.99 * mel.shape[axis]


def test_both_stripes_hold_the_mean_of_the_window_before_them() -> None:
    mel = sounds()
    found = augment_mel(mel, np.random.default_rng(3), Augment(mask_frames=900, mask_bands=60))
    blank = found[found != mel]
    assert len(blank) > 5_000
    assert (blank == mel.mean()).all()


def test_a_crop_keeps_the_share_and_the_aspect_that_the_recipe_allows() -> None:
    square, side, least = picture(64), 64, 0.3
    areas, aspects, lefts = [], [], []
    for seed in range(300):
        found = augment_square(square, np.random.default_rng(seed), Augment(crop=least)).astype(float)
        width, height = (found[:, -1, 0] - found[:, 0, 0]).mean() / 255, (found[-1, :, 1] - found[0, :, 1]).mean() / 255
        areas.append(width * height)
        aspects.append(width / height)
        lefts.append(found[:, 0, 0].mean() / 255)
        assert np.abs(found[..., 2] - 90).max() <= 1
    slack = 6 / side  # a gradient loses half a pixel at each end
    assert least - slack < min(areas) < least + slack
    assert 1 - slack < max(areas) <= 1
    assert 3 / 4 - slack < min(aspects) < 0.85
    assert 1.18 < max(aspects) < 4 / 3 + slack
    assert abs(np.mean(areas) - (1 + least) / 2) < 0.06
    assert min(lefts) < 0.02
    assert max(lefts) > 0.25


def test_a_crop_is_pillows_of_the_same_box() -> None:
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        area = rng.uniform(0.5, 1)
        bound = np.log(min(4 / 3, 1 / area))
        aspect = np.exp(rng.uniform(-bound, bound))
        width, height = 32 * np.sqrt(area * aspect), 32 * np.sqrt(area / aspect)
        left, top = rng.uniform(0, 32 - width), rng.uniform(0, 32 - height)
        box = (left, top, left + width, top + height)
        expected = np.asarray(Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC, box=box))
        found = augment_square(square, np.random.default_rng(seed), Augment(crop=0.5))
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert area - 1e-9 <= width * height / 32**2 <= 1


@pytest.mark.parametrize("least", [0.01, 0.99, 1 - 1e-12])
def test_no_crop_leaves_the_picture(least: float) -> None:
    for seed in range(200):
        assert augment_square(picture(16), np.random.default_rng(seed), Augment(crop=least)).shape == (16, 16, 3)


def test_colours_change_as_in_plain_arithmetic() -> None:
    square = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)

    def away_from(centre: Any, pixels: np.ndarray, factor: float) -> np.ndarray:
        return np.floor(np.clip(centre + factor * (pixels - centre), 0, 255))

    def grey(pixels: np.ndarray) -> np.ndarray:
        return np.round(pixels @ [0.299, 0.587, 0.114])

    for seed in range(20):
        brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
        expected = away_from(0, square, brightness)
        expected = away_from(np.round(grey(expected).mean()), expected, contrast)
        expected = away_from(grey(expected)[..., None], expected, saturation)
        found = augment_square(square, np.random.default_rng(seed), Augment(colour=0.4))
        assert np.abs(found - expected).max() <= 2  # 32-bit numbers may floor to another one
        assert np.abs(found - expected).mean() < 0.01
