"""Fast reads against plain ones: windows of every format, MP3 that states no length, joined frames, the onset."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from biovita.errors import MediaError
from biovita.media import audio
from biovita.media.audio import SAMPLE_RATE_HZ, mix_down, mp3_stated_s, read_audio, resample, write_audio
from biovita.media.window import CLIP_S, onset_clip, onset_s, read_onset, resampled_onset_s

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
RATES_HZ = (48_000, 44_100, 22_050)
DURATION_S = 14.0
QUIET_S = 1.3


def call(rate_hz: int, duration_s: float = DURATION_S, n_channels: int = 2) -> np.ndarray:
    """Near silence, then noise that swells and sinks: nothing repeats, and quiet stretches need an MP3's reservoir."""
    rng = np.random.default_rng(5)
    t = np.arange(round(rate_hz * duration_s)) / rate_hz
    noise = rng.standard_normal((len(t), n_channels)) * (0.1 * (1 + np.sin(2 * np.pi * t)) + 0.01)[:, None]
    noise[t < QUIET_S] *= 1e-4
    return noise.astype(np.float32).clip(-1, 1)


def write(path: Path, wave: np.ndarray, rate_hz: int) -> Path:
    if path.suffix == ".ogg":
        with soundfile.SoundFile(path, "w", rate_hz, wave.shape[1]) as file:
            for block in np.array_split(wave, len(wave) // 4_096):  # one large write crashes libsndfile
                file.write(block)
    else:
        write_audio(path, wave, rate_hz)
    return path


@pytest.fixture(scope="module", params=[(s, r) for s in SUFFIXES for r in RATES_HZ], ids=str)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    suffix, rate_hz = request.param
    return write(tmp_path_factory.mktemp("calls") / f"call{suffix}", call(rate_hz), rate_hz), rate_hz


def without_its_header(path: Path, to: Path) -> Path:
    """Drop an MP3's first frame, which states the length and holds no sound."""
    data = path.read_bytes()
    second = data.index(data[:2], 100)
    to.write_bytes(data[second:])
    with to.open("rb") as file:
        assert mp3_stated_s(file) is None
    return to


def test_a_window_of_any_place_is_that_slice_of_a_full_read(sound: tuple[Path, int]) -> None:
    path, _ = sound
    full = read_audio(path)
    for start_s in np.random.default_rng(1).uniform(0, DURATION_S, 12):
        start = round(start_s * SAMPLE_RATE_HZ)
        expected = full[start : start + SAMPLE_RATE_HZ]
        wave = read_audio(path, start_s=start_s, duration_s=1)
        assert len(wave) == len(expected)
        np.testing.assert_allclose(wave, expected, atol=2e-5)


@pytest.mark.parametrize("rate_hz", [48_000, 16_000])
def test_opus_in_ogg_is_decoded_by_one_decoder_only(tmp_path: Path, rate_hz: int) -> None:
    """From a 16 kHz file FFmpeg makes 48 kHz, with other samples than soundfile's 16 kHz."""
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", rate_hz, 1, format="OGG", subtype="OPUS") as file:
        for block in np.array_split(call(rate_hz, 4.0, 1), 50):
            file.write(block)
    full = read_audio(tmp_path / "a.ogg")
    assert len(full) == 4 * SAMPLE_RATE_HZ
    window = read_audio(tmp_path / "a.ogg", start_s=1.5, duration_s=1)
    np.testing.assert_allclose(window, full[72_000:120_000], atol=2e-5)


@pytest.mark.parametrize("rate_hz", [44_100, 22_050, 8_000])
def test_a_window_of_an_mp3_that_states_no_length_is_that_slice_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate_hz: int
) -> None:
    path = without_its_header(write(tmp_path / "a.mp3", call(rate_hz), rate_hz), tmp_path / "b.mp3")
    full = read_audio(path)
    assert abs(len(full) / SAMPLE_RATE_HZ - DURATION_S) < 0.5
    for start_s in (0.0, 0.7, 3.21, 8.0, 11.1, DURATION_S - 1.5, DURATION_S, DURATION_S + 5):
        start = round(start_s * SAMPLE_RATE_HZ)
        wave = read_audio(path, start_s=start_s, duration_s=2)
        assert len(wave) == len(full[start : start + 2 * SAMPLE_RATE_HZ])
        np.testing.assert_allclose(wave, full[start : start + 2 * SAMPLE_RATE_HZ], atol=2e-5)
    monkeypatch.delattr(audio, "_read_pyav")
    assert len(read_audio(path, start_s=8.0, duration_s=2)) == 2 * SAMPLE_RATE_HZ  # by a seek, not a decode from 0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_blocks_joined_in_c_are_the_frames_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, n_channels: int
) -> None:
    monkeypatch.setattr(audio, "BLOCK", 5_000)
    path = write(tmp_path / f"a{suffix}", call(44_100, 2.0, n_channels), 44_100)

    def decoding() -> audio.Decoding:
        return audio.Decoding(container)

    with path.open("rb", buffering=0) as file, audio.open_container(file) as container:
        plain = np.concatenate([mix_down(frame) for frame in decoding().chunks(1)])
    for first, stop in ((0, None), (0, 1), (3_333, 50_000), (70_001, None), (10, 10), (10**6, None)):
        with path.open("rb", buffering=0) as file, audio.open_container(file) as container:
            assert np.array_equal(decoding().mono(first, stop), plain[first:stop])


def test_a_window_resampled_alone_is_that_slice_of_all_of_it() -> None:
    for rate_hz in (48_000, 44_100, 32_000, 11_025):
        wave = call(rate_hz, n_channels=1)[:, 0]
        full = resample(wave, rate_hz)
        for start_s, duration_s in ((0.0, 1.0), (2.34567, 3.0), (DURATION_S - 0.5, 2.0), (5.0, None), (99.0, 1.0)):
            start = round(start_s * SAMPLE_RATE_HZ)
            expected = full[start : None if duration_s is None else start + round(duration_s * SAMPLE_RATE_HZ)]
            found = resample(wave, rate_hz, start_s=start_s, duration_s=duration_s)
            assert len(found) == len(expected)
            np.testing.assert_allclose(found, expected, atol=2e-5)


def plain_onset(path: Path) -> tuple[int, np.ndarray]:
    """The reference rule, step by step: all at 48 kHz, the first sample above 1 % of the peak, 0.2 s before it."""
    wave = read_audio(path)
    first = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())[0]
    return max(0, int(first) - 9_600), wave


def test_the_onset_window_is_that_of_the_reference_rule(sound: tuple[Path, int]) -> None:
    path, _ = sound
    start, wave = plain_onset(path)
    assert 0.9 * QUIET_S < start / SAMPLE_RATE_HZ + 0.2 < 1.1 * QUIET_S
    found = read_onset(path)
    assert len(found) == round(CLIP_S * SAMPLE_RATE_HZ)
    np.testing.assert_allclose(found, wave[start : start + len(found)], atol=2e-5)


@pytest.mark.parametrize("rate_hz", [44_100, 32_000, 22_050, 16_000])
def test_the_onset_between_samples_is_found_without_resampling_all(rate_hz: int) -> None:
    rng = np.random.default_rng(rate_hz)
    n_between = 0
    for bend in rng.uniform(0.8, 2.5, 12):
        wave = (rng.standard_normal(4 * rate_hz) * np.geomspace(1e-3, 1, 4 * rate_hz) ** bend).astype(np.float32)
        expected = onset_s(resample(wave, rate_hz))
        assert resampled_onset_s(wave, rate_hz) == pytest.approx(expected, abs=1e-9)
        n_between += abs(onset_s(wave, rate_hz) - expected) > 2 / rate_hz
    assert n_between > 2  # where the samples alone would be wrong


def test_the_onset_of_a_short_sound_and_of_silence_is_all_there_is(tmp_path: Path) -> None:
    loud = call(44_100, 3.0)
    found = read_onset(write(tmp_path / "a.wav", loud, 44_100))
    assert len(found) == pytest.approx((3 - QUIET_S + 0.2) * SAMPLE_RATE_HZ, abs=50)
    assert len(onset_clip(np.zeros(22_050, np.float32), 22_050)) == SAMPLE_RATE_HZ
    assert len(onset_clip(np.zeros(0, np.float32), 22_050)) == 0


def test_samples_that_are_no_numbers_have_no_onset(tmp_path: Path) -> None:
    wave = call(48_000, 2.0, 1)
    wave[70_000] = np.nan
    soundfile.write(tmp_path / "a.wav", wave, 48_000, subtype="FLOAT")
    with pytest.raises(MediaError, match=r"non_finite: .*a\.wav"):
        read_onset(tmp_path / "a.wav")
