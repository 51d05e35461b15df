"""Prints stay close under what happens to copies, are apart for what differs, and equal their plain-loop twins."""

import base64
import io
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from biovita.media import fingerprint
from biovita.media.fingerprint import (
    N_PEAKS,
    AudioPrint,
    audio_peaks,
    find_peaks,
    image_bits,
    image_print,
    reigns,
)

RATE_HZ = 24_000


def picture(seed: int, width_px: int = 240, height_px: int = 180) -> Image.Image:
    """Soft blobs with some grain, as photos have."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).resize((width_px, height_px))
    grain = rng.normal(0, 3, (height_px, width_px, 1))
    return Image.fromarray((np.asarray(blobs) + grain).clip(0, 255).astype(np.uint8))


def song(seed: int, duration_s: float = 6.0) -> np.ndarray:
    """Notes at random times and pitches over a noise."""
    rng = np.random.default_rng(seed)
    wave = 0.01 * rng.standard_normal(round(duration_s * RATE_HZ))
    for start_s in np.sort(rng.uniform(0, duration_s - 0.3, round(5 * duration_s))):
        t = np.arange(round(RATE_HZ * rng.uniform(0.05, 0.25))) / RATE_HZ
        note = np.sin(2 * np.pi * rng.uniform(500, 5000) * t * (1 + rng.uniform(-0.5, 0.5) * t)) * np.hanning(len(t))
        begin = round(start_s * RATE_HZ)
        wave[begin : begin + len(t)] += rng.uniform(0.05, 0.2) * note
    return wave.astype(np.float32)


def print_of(wave: np.ndarray, rate_hz: int = RATE_HZ, block: int = 5_000) -> str:
    sound = AudioPrint(rate_hz)
    for begin in range(0, len(wave), block):
        sound.add(wave[begin : begin + block])
    return sound.text()


def peaks_of(text: str) -> set[tuple[int, int]]:
    peaks, n = audio_peaks([text])
    return {(int(p) >> 8, int(p) & 255) for p in peaks[0, : n[0]]}


def shared(one: str, other: str, later: int = 0) -> float:
    """Share of the peaks of `one` near a peak of `other` when that is moved by so many steps."""
    theirs = peaks_of(other)
    ours = peaks_of(one)
    hits = sum(any(abs(t - u - later) <= 2 and abs(p - q) <= 4 for u, q in theirs) for t, p in ours)
    return hits / len(ours)


def apart(one: Image.Image, other: Image.Image) -> int:
    bits = image_bits([image_print(one), image_print(other)])
    return int(np.bitwise_count(bits[0] ^ bits[1]).sum())


def test_a_picture_print_holds_the_signs_of_a_plain_cosine_transform() -> None:
    image = picture(1)
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS), float)
    orders = sorted((v + u, u, v) for v in range(23) for u in range(23))[1:257]
    at = [math.pi * (2 * x + 1) / 128 for x in range(64)]
    signs = ""
    for _, u, v in orders:
        rows = np.array([math.cos(v * a) for a in at])
        columns = np.array([math.cos(u * a) for a in at])
        signs += "1" if rows @ grey @ columns > 0 else "0"
    assert image_print(image) == f"{int(signs, 2):064x}"
    assert image_bits([image_print(image)]).tolist() == [[int(signs[i : i + 64], 2) for i in (0, 64, 128, 192)]]


def test_a_changed_picture_stays_within_22_bits_and_another_one_beyond_60() -> None:
    for seed in range(20):
        image = picture(seed)
        body = io.BytesIO()
        image.save(body, "JPEG", quality=40)
        for copy in (
            Image.open(body),
            image.resize((60, 45)),
            image.resize((500, 375)),
            ImageEnhance.Brightness(image).enhance(0.9),
            image.convert("L"),
        ):
            assert apart(image, copy) <= 22
        assert apart(image, picture(seed + 100)) > 60


def test_a_picture_without_structure_has_no_print() -> None:
    ramp = np.tile(np.linspace(0, 255, 200), (150, 1)).astype(np.uint8)
    assert image_print(Image.fromarray(ramp)) == ""
    assert image_print(Image.new("RGB", (90, 60), (10, 90, 200))) == ""


def test_no_prints_are_no_bits() -> None:
    assert image_bits([]).shape == (0, 4)
    peaks, n = audio_peaks([])
    assert peaks.shape == (0, N_PEAKS)
    assert n.shape == (0,)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 192_000])
def test_a_sound_print_does_not_depend_on_how_the_sound_is_cut_into_blocks(rate_hz: int) -> None:
    wave = np.resize(song(3, 20.0), 40 * rate_hz if rate_hz < 100_000 else 8 * rate_hz)
    whole = print_of(wave, rate_hz, len(wave))
    assert len(base64.b64decode(whole)) == 4 * N_PEAKS
    for block in (1_000, 65_536, 100_003):
        assert print_of(wave, rate_hz, block) == whole


def test_blocks_of_slices_give_the_peaks_of_all_slices_together(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = song(4, 30.0)
    text = print_of(wave)
    monkeypatch.setattr(fingerprint, "BLOCK", 64)
    assert print_of(wave) == text


def test_a_louder_resampled_or_trimmed_sound_shares_most_peaks() -> None:
    soxr = pytest.importorskip("soxr")
    for seed in range(5):
        wave = song(seed)
        text = print_of(wave)
        assert shared(print_of(0.2 * wave), text) > 0.95
        for rate_hz in (16_000, 44_100):
            assert shared(print_of(soxr.resample(wave, RATE_HZ, rate_hz), rate_hz), text) > 0.8
        trimmed = print_of(wave[round(0.8 * RATE_HZ) :])
        assert shared(trimmed, text, later=-50) > 0.8
        assert shared(print_of(song(seed + 50)), text) < 0.4


def test_a_cut_keeps_the_peaks_of_the_whole_that_lie_inside() -> None:
    wave = song(6, 40.0)
    whole, half = print_of(wave), print_of(wave[10 * RATE_HZ : 30 * RATE_HZ])
    inside = {(time - 625, pitch) for time, pitch in peaks_of(whole) if 700 < time < 1800}
    assert len(inside) > 20
    theirs = peaks_of(half)
    kept = [any(abs(t - u) <= 2 and abs(p - q) <= 4 for u, q in theirs) for t, p in inside]
    assert np.mean(kept) > 0.9


@pytest.mark.parametrize("n_samples", [0, 1, 100, 2_303, 2_304, 2_305])
def test_hardly_any_sound_gives_hardly_any_peaks(n_samples: int) -> None:
    assert print_of(song(1)[:n_samples]) == ""


def test_a_silence_in_a_sound_gives_no_peaks() -> None:
    wave = song(2, 4.0)
    wave[RATE_HZ : 3 * RATE_HZ] = 0
    assert not [time for time, _ in peaks_of(print_of(wave)) if 70 < time < 180]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_peak_reigns_until_the_nearest_one_at_least_as_high(peaks: list[tuple[float, int]]) -> None:
    peaks.sort(key=lambda peak: peak[0])
    time, height = np.array([t for t, _ in peaks]), np.array([h for _, h in peaks])
    twin = [
        min((abs(time[i] - time[j]) for j in range(len(peaks)) if j != i and _overtops(height, i, j)), default=math.inf)
        for i in range(len(peaks))
    ]
    assert reigns(time, height).tolist() == twin


def _overtops(height: np.ndarray, i: int, j: int) -> bool:
    """Of equals, the earlier one ends the later one's reign only."""
    return height[j] > height[i] or (height[j] == height[i] and j < i)


def test_peaks_equal_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    energy = rng.exponential(1.0, (60, fingerprint.N_BANDS)) ** 2
    n, m = energy.shape
    smooth = energy.copy()
    smooth[1:] += energy[:-1] / 2
    smooth[:-1] += energy[1:] / 2
    loud = np.log(smooth + 1e-20)
    expected = []
    for t in range(1, n - 1):
        for b in range(1, m - 1):
            near = loud[max(0, t - 2) : t + 3, max(0, b - 2) : b + 3]
            around = loud[max(0, t - 16) : t + 17, max(0, b - 6) : b + 7]
            if loud[t, b] == near.max() and loud[t, b] - around.mean() > 0.3:
                expected.append((t, b))
    time, pitch, height, loudness = find_peaks(energy)
    assert [(round(t), round(b)) for t, b in zip(time, pitch, strict=True)] == expected
    assert np.abs(time - np.round(time)).max() <= 0.5
    assert height.min() > 0.3
    assert loudness.tolist() == [loud[t, b] for t, b in expected]
    assert all(a <= b for a, b in pairwise(np.round(time)))
