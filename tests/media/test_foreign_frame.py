"""One frame of another rate inside an MP3 costs that frame, not all that follows: libmpg123 stops there in silence."""

from pathlib import Path

import numpy as np
import pytest

from biovita.media.audio import SAMPLE_RATE_HZ, read_audio, read_native, read_windows, write_audio
from biovita.media.check import check_files
from biovita.media.window import read_onset

SECONDS, RATE_HZ, PLACE_S = 30, 44_100, 3


def tone(rate_hz: int) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * 700 * np.arange(SECONDS * rate_hz) / rate_hz)


@pytest.fixture(scope="module")
def spliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound at 44.1 kHz with a few frames at 48 kHz in it."""
    path = tmp_path_factory.mktemp("spliced") / "call.mp3"
    write_audio(path, tone(48_000), 48_000)
    foreign = path.read_bytes()
    write_audio(path, tone(RATE_HZ), RATE_HZ)
    data = path.read_bytes()
    place = data.index(data[:2], len(data) * PLACE_S // SECONDS)
    first = foreign.index(foreign[:2], len(foreign) // 2)
    last = foreign.index(foreign[:2], first + 1_000)
    path.write_bytes(data[:place] + foreign[first:last] + data[place:])
    return path


def test_what_follows_is_read(spliced: Path) -> None:
    [verdict] = check_files([spliced])
    assert (verdict.verdict, verdict.flags) == ("ok", ("decode_errors",))
    wave, rate_hz = read_native(spliced)
    assert len(wave) / rate_hz == pytest.approx(SECONDS, abs=0.2)
    assert len(read_onset(spliced)) == 10 * SAMPLE_RATE_HZ


@pytest.mark.parametrize("start_s", [1.0, 20.0])
def test_a_window_over_it_or_behind_it_is_whole(spliced: Path, start_s: float) -> None:
    [window] = read_windows(spliced, [(start_s, start_s + 5)])
    found = read_audio(spliced, start_s=start_s, duration_s=5)
    assert len(found) == len(window) == 5 * SAMPLE_RATE_HZ
    assert np.std(found) == pytest.approx(np.std(window), rel=0.02)
