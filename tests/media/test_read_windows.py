"""Windows read in one pass against windows read one by one with a seek: the same samples, from any start."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from biovita.errors import MediaError
from biovita.media import audio
from biovita.media.audio import SAMPLE_RATE_HZ, audio_info, read_audio, read_windows, write_audio
from biovita.media.held import Held
from biovita.media.window import windows

DURATION_S = 23.7
SUFFIXES = (".wav", ".flac", ".aiff", ".mp3", ".ogg", ".opus", ".m4a", "headless")
EXACT = (".wav", ".flac", ".aiff", ".m4a")  # a seek in these gives the bits that a pass gives


def noise(rate_hz: int, n_channels: int = 2) -> np.ndarray:
    """Noise that swells and sinks, so that nothing repeats."""
    t = np.arange(round(DURATION_S * rate_hz)) / rate_hz
    wave = np.random.default_rng(2).standard_normal((len(t), n_channels))
    return (wave * (0.1 * (1 + np.sin(t)) + 0.05)[:, None]).astype(np.float32).clip(-1, 1)


def write(path: Path, wave: np.ndarray, rate_hz: int) -> Path:
    if path.suffix in (".ogg", ".aiff"):
        subtype = "OPUS" if path.stem == "opus" else None
        with soundfile.SoundFile(path, "w", rate_hz, wave.shape[1], subtype) as file:
            for block in np.array_split(wave, len(wave) // 4_096):  # one large write of Vorbis crashes libsndfile
                file.write(block)
    else:
        write_audio(path, wave, rate_hz)
    return path


def without_its_header(path: Path) -> Path:
    """Drop an MP3's first frame, which states the length."""
    data = path.read_bytes()
    path.write_bytes(data[data.index(data[:2], 100) :])
    return path


@pytest.fixture(
    scope="module",
    params=[(suffix, rate_hz) for suffix in SUFFIXES for rate_hz in (48_000, 22_050)],
    ids=str,
)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    suffix, rate_hz = request.param
    name = {"headless": "a.mp3", ".opus": "opus.ogg"}.get(suffix, f"a{suffix}")
    path = tmp_path_factory.mktemp("sounds") / name
    rate_hz = 24_000 if suffix == ".opus" and rate_hz == 22_050 else rate_hz  # it knows a few rates only
    write(path, noise(rate_hz, 1 + (rate_hz == 48_000)), rate_hz)
    return without_its_header(path) if suffix == "headless" else path


def one_by_one(path: Path, spans: list[tuple[float, float]]) -> list[np.ndarray]:
    """The plain way: a seek for each window."""
    return [read_audio(path, start_s=start_s, duration_s=end_s - start_s) for start_s, end_s in spans]


@pytest.mark.parametrize("hop_s", [0.7, 2.0, 3.0, 5.5])
def test_a_pass_gives_the_windows_that_seeks_give(sound: Path, hop_s: float) -> None:
    spans = windows(audio_info(sound).duration_s, hop_s, clip_s=2.0)  # back to back, overlapping, and with gaps
    found = list(read_windows(sound, spans))
    expected = one_by_one(sound, spans)
    assert [len(wave) for wave in found] == [len(wave) for wave in expected]
    for wave, other in zip(found, expected, strict=True):
        assert wave.dtype == np.float32
        if sound.suffix in EXACT:
            assert np.array_equal(wave, other)
        else:
            np.testing.assert_allclose(wave, other, atol=2e-5)


@pytest.mark.parametrize("n_done", [1, 4, 10])
def test_a_pass_that_begins_late_gives_the_same_bits(sound: Path, n_done: int) -> None:
    spans = windows(audio_info(sound).duration_s, 2.0, clip_s=3.0)
    whole = list(read_windows(sound, spans))
    late = list(read_windows(sound, spans[n_done:]))
    assert len(late) == len(spans) - n_done
    assert all(np.array_equal(one, other) for one, other in zip(late, whole[n_done:], strict=True))


def test_bytes_in_memory_are_read_like_a_file(sound: Path) -> None:
    spans = windows(DURATION_S, 7.0)
    held = Held(sound.name, sound.read_bytes())
    assert audio_info(held) == audio_info(sound)
    assert all(
        np.array_equal(*pair) for pair in zip(read_windows(held, spans), read_windows(sound, spans), strict=True)
    )


def test_windows_behind_the_end_are_empty_and_none_is_left_out(sound: Path) -> None:
    spans = [(0.0, 1.0), (DURATION_S - 0.5, DURATION_S + 0.5), (DURATION_S + 5, DURATION_S + 6)]
    first, last, behind = read_windows(sound, spans)
    assert len(first) == SAMPLE_RATE_HZ
    assert abs(len(last) / SAMPLE_RATE_HZ - 0.5) < 0.1
    assert not len(behind)
    assert list(read_windows(sound, [])) == []


def test_only_a_window_is_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.flac", noise(22_050), 22_050)
    longest = 0
    original = np.concatenate

    def watched(parts: list[np.ndarray], *args: object) -> np.ndarray:
        nonlocal longest
        joined = original(parts, *args)  # pyright: ignore[reportArgumentType, reportCallIssue]
        longest = max(longest, len(joined))
        return joined

    monkeypatch.setattr(audio.np, "concatenate", watched)
    list(read_windows(path, windows(DURATION_S, 1.0, clip_s=2.0)))
    assert 2 * 22_050 <= longest < 2 * 22_050 + 2 * audio.BLOCK + 4 * audio.MARGIN


def test_what_libsndfile_cannot_read_to_the_end_ffmpeg_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.flac", noise(48_000, 1), 48_000)
    spans = windows(DURATION_S, 2.0, clip_s=2.0)
    expected = list(read_windows(path, spans))
    blocks = audio._soundfile_blocks

    def torn(file: soundfile.SoundFile, first: int) -> object:
        for n, block in enumerate(blocks(file, first)):
            if n == 8:
                raise soundfile.LibsndfileError(1)
            yield block

    monkeypatch.setattr(audio, "_soundfile_blocks", torn)
    found = list(read_windows(path, spans))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_file_that_is_missing_or_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_text("<html>" * 1000)
    for name, reason in (("a.wav", "unreadable"), ("b.wav", "corrupt")):
        with pytest.raises(MediaError) as caught:
            list(read_windows(tmp_path / name, [(0.0, 1.0)]))
        assert caught.value.reason == reason
