"""The reference onset rule against its plain loop; sliding windows cover a recording without gaps."""

from itertools import pairwise

import numpy as np
import pytest

from biovita.media.window import fit, onset_s, windows


def plain_onset_s(wave: np.ndarray, rate_hz: int) -> float:
    """The rule as the reference evaluation states it."""
    peak = np.abs(wave).max()
    hits = np.flatnonzero(np.abs(wave) > 0.01 * peak)
    return max(0.0, hits[0] / rate_hz - 0.2) if len(hits) else 0.0


@pytest.mark.parametrize("quiet_s", [0.0, 0.1, 0.5, 1.0, 3.7])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_onset_is_the_first_sample_above_one_percent_less_a_fifth_of_a_second(quiet_s: float, sign: int) -> None:
    rate_hz = 8_000
    rng = np.random.default_rng(1)
    wave = np.concatenate([1e-4 * rng.standard_normal(round(quiet_s * rate_hz)), rng.uniform(0.1, 1, rate_hz)])
    assert onset_s(sign * wave, rate_hz) == plain_onset_s(wave, rate_hz)


def test_silence_and_nothing_begin_at_zero() -> None:
    assert onset_s(np.zeros(100), 8_000) == 0.0
    assert onset_s(np.zeros(0), 8_000) == 0.0


@pytest.mark.parametrize("duration_s", [0.5, 10, 10.1, 15, 20, 33.3])
@pytest.mark.parametrize("hop_s", [2.5, 5, 10])
def test_windows_cover_the_recording_and_stay_inside(duration_s: float, hop_s: float) -> None:
    cut = windows(duration_s, hop_s)
    assert (cut[0][0], cut[-1][1]) == (0, pytest.approx(duration_s))
    assert all(b[0] <= a[1] and b[0] > a[0] for a, b in pairwise(cut))
    assert all(end - start == pytest.approx(min(10, duration_s)) for start, end in cut)


def test_fit_pads_with_zeros_or_cuts() -> None:
    wave = np.ones(3, np.float32)
    assert fit(wave, 5).tolist() == [1, 1, 1, 0, 0]
    assert fit(wave, 2).tolist() == [1, 1]
    assert fit(wave, 5).dtype == np.float32
