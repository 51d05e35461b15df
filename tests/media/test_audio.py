"""Windows of every format equal that stretch of a full decode; nothing is shifted."""

import socket
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from biovita.errors import MediaError
from biovita.media import audio
from biovita.media.audio import SAMPLE_RATE_HZ, WRITE_SUFFIXES, audio_info, read_audio, write_audio

DURATION_S = 4.0
RATES_HZ = (48_000, 44_100, 22_050, 16_000)


def sweep(rate_hz: int, duration_s: float = DURATION_S) -> np.ndarray:
    """A rising tone with a little noise: every moment looks different, so a shift shows."""
    t = np.arange(round(rate_hz * duration_s)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (0.4 * np.sin(2 * np.pi * (200 * t + 300 * t**2)) + 0.01 * noise).astype(np.float32)


@pytest.fixture(scope="module", params=[(s, r) for s in WRITE_SUFFIXES for r in RATES_HZ], ids=str)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    suffix, rate_hz = request.param
    path = tmp_path_factory.mktemp("sound") / f"sweep{suffix}"
    write_audio(path, sweep(rate_hz), rate_hz)
    return path, rate_hz


def test_a_full_read_is_where_the_original_is(sound: tuple[Path, int]) -> None:
    path, rate_hz = sound
    wave, original = read_audio(path), soxr.resample(sweep(rate_hz), rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    assert (wave.dtype, wave.ndim) == (np.float32, 1)
    assert len(wave) == len(original) == round(DURATION_S * SAMPLE_RATE_HZ)
    middle = slice(SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ)
    match = [np.dot(wave[middle], np.roll(original, offset)[middle]) for offset in range(-1200, 1201)]
    assert np.argmax(match) - 1200 == 0
    assert np.abs(wave[middle] - original[middle]).max() < 0.1


@pytest.mark.parametrize(("start_s", "duration_s"), [(0, 1), (0.3, 1), (1.23456, 1.5), (3.2, 5), (2, None), (9, 1)])
def test_a_window_is_that_slice_of_a_full_read(
    sound: tuple[Path, int], start_s: float, duration_s: float | None
) -> None:
    path, _ = sound
    start = round(start_s * SAMPLE_RATE_HZ)
    stop = None if duration_s is None else start + round(duration_s * SAMPLE_RATE_HZ)
    expected = read_audio(path)[start:stop]
    wave = read_audio(path, start_s=start_s, duration_s=duration_s)
    assert len(wave) == len(expected)
    assert np.abs(wave - expected).max(initial=0) < 2e-3


def test_both_decoders_give_the_same_sound(sound: tuple[Path, int]) -> None:
    path, _ = sound
    by_pyav = audio._resample(*audio._read_pyav(path, 1.1, 1.3))
    assert np.abs(by_pyav - read_audio(path, start_s=1.1, duration_s=1.3)).max() < 2e-3


def test_the_header_tells_length_rate_and_channels(sound: tuple[Path, int]) -> None:
    path, rate_hz = sound
    info = audio_info(path)
    assert info.duration_s == pytest.approx(DURATION_S, abs=1e-6)
    assert (info.sample_rate_hz, info.n_channels) == (rate_hz, 1)


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_equal_samples_give_equal_bytes_and_channels_are_averaged(tmp_path: Path, suffix: str) -> None:
    left, right = sweep(48_000, 1), 0.5 * sweep(48_000, 1)[::-1]
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}{suffix}", np.stack([left, right], axis=1), 48_000)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert audio_info(tmp_path / f"a{suffix}").n_channels == 2
    wave = read_audio(tmp_path / f"a{suffix}")
    assert len(wave) == len(left)
    assert np.abs(wave - (left + right) / 2)[4800:-4800].mean() < 0.01


def test_vorbis_is_read_through_soundfile(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", 44_100, 1) as file:
        for block in np.array_split(sweep(44_100, 2), 50):  # one large write crashes libsndfile
            file.write(block)
    full = read_audio(tmp_path / "a.ogg")
    assert np.abs(read_audio(tmp_path / "a.ogg", start_s=0.7, duration_s=1) - full[33_600:81_600]).max() < 2e-3


def test_an_mp3_with_bytes_behind_its_end_is_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", sweep(44_100), 44_100)
    clean = read_audio(tmp_path / "a.mp3")
    with (tmp_path / "a.mp3").open("ab") as file:
        file.write(b"<html>not found</html>" * 50)
    assert np.abs(read_audio(tmp_path / "a.mp3")[: len(clean)] - clean).max() < 2e-3


def test_a_file_that_is_missing_or_no_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"unreadable: .*gone\.m4a"):
        read_audio(tmp_path / "gone.m4a")
    (tmp_path / "text.wav").write_text("ffconcat version 1.0\nfile 'other.wav'\n")
    with pytest.raises(MediaError, match=r"corrupt: .*text\.wav"):
        read_audio(tmp_path / "text.wav")


def test_ffmpeg_never_sees_a_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{url}\n")
        with (tmp_path / "list.m3u8").open("rb") as file, pytest.raises(av.error.InvalidDataError):
            audio.open_container(file)
        with pytest.raises(TimeoutError):
            server.accept()


def test_chunks_are_the_frames_joined(sound: tuple[Path, int]) -> None:
    path, _ = sound

    def decoded(n_samples: int) -> list[np.ndarray]:
        with path.open("rb", buffering=0) as file, audio.open_container(file) as container:
            return list(audio.Decoding(container).chunks(n_samples))

    frames, chunks = decoded(1), decoded(10_000)
    assert len(frames) > len(chunks)
    assert [chunk.dtype for chunk in chunks] == [np.float32] * len(chunks)
    assert min(chunk.shape[1] for chunk in chunks[:-1]) >= 10_000
    assert np.array_equal(np.concatenate(chunks, axis=1), np.concatenate(frames, axis=1))
