"""Files, arrays and names in; unit vectors out, in order, the same every time."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from biovita.errors import MediaError, ModelError
from biovita.media.audio import SAMPLE_RATE_HZ, read_audio, write_audio
from biovita.media.image import write_image
from biovita.models import encoder as pipeline
from biovita.models import pieces
from biovita.models.encoder import Encoder, Window, in_batches, prefetch
from biovita.models.pieces import clips_of
from biovita.models.vita import BioVitaModel

WINDOWS: tuple[Window, ...] = ("onset", "centre", "windows")
NAMES = ("owl", "Turdus merula", "", "Größe 漢字", "x" * 300, "frog")


def call(seconds: float, *, seed: int = 0, rate_hz: int = SAMPLE_RATE_HZ, silent_s: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = rng.normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32)
    wave[: round(silent_s * rate_hz)] = 0
    return wave


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    paths = []
    for n, (seconds, rate_hz, suffix) in enumerate(
        [(3, 48_000, ".wav"), (12, 44_100, ".flac"), (0.5, 22_050, ".wav"), (25, 16_000, ".mp3")]
    ):
        paths.append(folder / f"{n}{suffix}")
        write_audio(paths[-1], call(seconds, seed=n, rate_hz=rate_hz), rate_hz)
    return paths


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / "0.png", folder / "1.jpg", folder / "2.png", folder / "3.png"]
    for n, (path, size) in enumerate(zip(paths, [(64, 64), (200, 90), (30, 300), (65, 70)], strict=True)):
        write_image(path, picture(*size, seed=n))
    return paths


def check(vectors: np.ndarray, n: int) -> None:
    assert vectors.shape == (n, 768)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def same(one: np.ndarray, other: np.ndarray) -> None:
    """Rows point the same way, and each is nearer to its own than to any other."""
    assert ((one * other).sum(1) >= 1 - 1e-6).all()
    assert ((one @ other.T).argmax(1) == np.arange(len(one))).all()


@pytest.mark.parametrize("window", WINDOWS)
def test_sounds_alone_and_in_batches_of_any_size_give_the_same_vectors(
    encoder: Any, sounds: list[Path], window: Any
) -> None:
    found = encoder.embed_audio(sounds, window=window)
    check(found, len(sounds))
    same(found, encoder.embed_audio(sounds, window=window, batch_size=3))
    same(found, np.concatenate([encoder.embed_audio([path], window=window) for path in sounds]))
    same(found[::-1], encoder.embed_audio(sounds[::-1], window=window))


def test_pictures_alone_and_in_batches_of_any_size_give_the_same_vectors(encoder: Any, pictures: list[Path]) -> None:
    found = encoder.embed_image(pictures)
    check(found, len(pictures))
    same(found, encoder.embed_image(pictures, batch_size=3))
    same(found, np.concatenate([encoder.embed_image([path]) for path in pictures]))
    same(found[::-1], encoder.embed_image(pictures[::-1]))


def test_names_alone_and_in_batches_of_any_size_give_the_same_vectors(encoder: Any) -> None:
    found = encoder.embed_text(NAMES)
    check(found, len(NAMES))
    same(found, encoder.embed_text(NAMES, batch_size=2))
    same(found, np.concatenate([encoder.embed_text([name]) for name in NAMES]))
    same(found[::-1], encoder.embed_text(NAMES[::-1]))


def test_the_same_files_twice_give_the_same_bits(encoder: Any, sounds: list[Path], pictures: list[Path]) -> None:
    assert (encoder.embed_audio(sounds) == encoder.embed_audio(sounds)).all()
    assert (encoder.embed_image(pictures) == encoder.embed_image(pictures)).all()
    assert (encoder.embed_text(NAMES) == encoder.embed_text(NAMES)).all()


def test_nothing_in_gives_nothing_out(encoder: Any) -> None:
    for found in (encoder.embed_audio([]), encoder.embed_image([]), encoder.embed_text([])):
        assert found.shape == (0, 768)
        assert found.dtype == np.float32


@pytest.mark.parametrize("window", WINDOWS)
def test_a_file_and_its_samples_give_the_same_vector(encoder: Any, tmp_path: Path, window: Any) -> None:
    wave = np.round(np.clip(call(23, rate_hz=24_000, silent_s=3), -0.5, 0.5) * 32_768) / 32_768
    write_audio(tmp_path / "call.flac", wave.astype(np.float32), 24_000)
    by_path = encoder.embed_audio([tmp_path / "call.flac"], window=window)
    by_text = encoder.embed_audio([str(tmp_path / "call.flac")], window=window)
    by_wave = encoder.embed_audio([(wave, 24_000)], window=window)
    assert (by_path == by_text).all()
    assert (by_path * by_wave).sum() >= 1 - 1e-6


def test_a_picture_and_its_file_give_the_same_vector(encoder: Any, pictures: list[Path]) -> None:
    by_path = encoder.embed_image(pictures)
    assert (by_path == encoder.embed_image([Image.open(path) for path in pictures])).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK", "LA", "1"])
def test_pictures_of_every_mode_are_taken(encoder: Any, mode: str) -> None:
    found = encoder.embed_image([Image.new(mode, (80, 70)), picture(64, 64)])
    check(found, 2)


def test_the_onset_window_begins_a_fifth_of_a_second_before_the_sound() -> None:
    wave = call(30, silent_s=7)
    (clip,) = clips_of((wave, SAMPLE_RATE_HZ), window="onset")
    start = round(6.8 * SAMPLE_RATE_HZ)
    first = int(np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())[0])
    assert first - start == pytest.approx(0.2 * SAMPLE_RATE_HZ, abs=50)
    start = first - round(0.2 * SAMPLE_RATE_HZ)
    assert (clip == wave[start : start + 10 * SAMPLE_RATE_HZ]).all()


@pytest.mark.parametrize("seconds", [4.0, 10.0, 17.0])
def test_the_centre_window_is_the_middle_ten_seconds(seconds: float) -> None:
    wave = call(seconds)
    (clip,) = clips_of((wave, SAMPLE_RATE_HZ), window="centre")
    spare = max(0, len(wave) - 10 * SAMPLE_RATE_HZ)
    assert (clip == wave[spare // 2 : spare // 2 + 10 * SAMPLE_RATE_HZ]).all()


@pytest.mark.parametrize(("seconds", "starts"), [(4.0, [0]), (10.0, [0]), (20.0, [0, 10]), (23.5, [0, 10, 13.5])])
def test_windows_cover_the_whole_recording_to_its_end(seconds: float, starts: list[float]) -> None:
    wave = call(seconds)
    clips = list(clips_of((wave, SAMPLE_RATE_HZ), window="windows"))
    assert len(clips) == len(starts)
    for clip, start_s in zip(clips, starts, strict=True):
        start = round(start_s * SAMPLE_RATE_HZ)
        assert (clip == wave[start : start + 10 * SAMPLE_RATE_HZ]).all()


def test_the_windows_vector_is_the_mean_over_the_windows(encoder: Any) -> None:
    wave = call(27)
    found = encoder.embed_audio([(wave, SAMPLE_RATE_HZ)], window="windows", batch_size=2)[0]
    parts = [(wave[start : start + 480_000], SAMPLE_RATE_HZ) for start in (0, 480_000, 17 * SAMPLE_RATE_HZ)]
    mean = encoder.embed_audio(parts, window="centre").mean(0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_maximum_over_the_windows_is_taken_number_by_number(encoder: Any) -> None:
    wave = call(27)
    found = encoder.embed_audio([(wave, SAMPLE_RATE_HZ)], window="windows", pool="max")[0]
    parts = [(wave[start : start + 480_000], SAMPLE_RATE_HZ) for start in (0, 480_000, 17 * SAMPLE_RATE_HZ)]
    vectors = encoder.embed_audio(parts, window="centre")
    most = np.array([max(column) for column in vectors.T])
    np.testing.assert_allclose(found, most / np.linalg.norm(most), atol=1e-5)
    mean = encoder.embed_audio([(wave, SAMPLE_RATE_HZ)], window="windows")[0]
    assert found @ mean < 1 - 1e-6


@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 16_000])
def test_a_long_recording_read_in_stretches_is_the_same_as_read_at_once(tmp_path: Path, rate_hz: int) -> None:
    """13 windows and a bit take two stretches; each clip must be that piece of the whole."""
    path = tmp_path / "long.flac"
    write_audio(path, call(133.7, rate_hz=rate_hz), rate_hz)
    whole = read_audio(path)
    clips = list(clips_of(path, window="windows"))
    starts = [*range(0, 130, 10), 123.7]
    assert len(clips) == len(starts)
    for start_s, clip in zip(starts, clips, strict=True):
        start = round(start_s * SAMPLE_RATE_HZ)
        np.testing.assert_allclose(clip, whole[start : start + 480_000], atol=1e-6)


def test_windows_of_a_recording_are_read_only_as_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    write_audio(path, call(600, rate_hz=8_000), 8_000)
    seconds_read = []

    def read(path: Path, *, start_s: float, duration_s: float) -> np.ndarray:
        seconds_read.append(duration_s)
        return read_audio(path, start_s=start_s, duration_s=duration_s)

    monkeypatch.setattr(pieces, "read_audio", read)
    clips = clips_of(path, window="windows")
    assert len(next(clips)) == 480_000
    assert seconds_read == [120]
    assert len(list(clips)) == 59
    assert seconds_read == [120] * 5


def stream(encoder: Encoder, items: list[Any], **how: Any) -> list[list[Any]]:
    return list(encoder.stream(items, **how))


def test_a_stream_gives_every_thing_its_vectors_or_the_reason(
    encoder: Any, sounds: list[Path], pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "page.wav").write_text("<html></html>")
    refused = MediaError("silent", "by the check")
    items = [
        ("audio", sounds[0]), ("image", pictures[0]), ("audio", tmp_path / "page.wav"), ("text", "owl"), refused,
        ("image", tmp_path / "missing.png"), ("audio", sounds[3]), ("text", "a longer name"), ("image", pictures[1]),
    ]  # fmt: skip
    (found,) = stream(encoder, items, window="windows")
    assert [item.reason if isinstance(item, MediaError) else item.modality for item in found] == [
        "audio", "image", "corrupt", "text", "silent", "unreadable", "audio", "text", "image",
    ]  # fmt: skip
    rows = np.concatenate([item.vectors for item in found if not isinstance(item, MediaError)])
    expected = [
        *encoder.embed_audio([sounds[0]], window="windows"), *encoder.embed_image([pictures[0]]),
        *encoder.embed_text(["owl"]), *encoder.embed_audio([sounds[3]], window="windows"),
        *encoder.embed_text(["a longer name"]), *encoder.embed_image([pictures[1]]),
    ]  # fmt: skip
    np.testing.assert_allclose(rows, expected, atol=2e-6)


def test_a_stream_without_pooling_gives_every_window_and_its_seconds(encoder: Any) -> None:
    wave = call(73.5)
    ((found,),) = stream(encoder, [("audio", (wave, SAMPLE_RATE_HZ))], window="windows", pool=None)
    starts = [0, 10, 20, 30, 40, 50, 60, 63.5]
    assert found.spans == [(start, start + 10) for start in starts]
    parts = [(clip, SAMPLE_RATE_HZ) for clip in clips_of((wave, SAMPLE_RATE_HZ), window="windows")]
    np.testing.assert_allclose(found.vectors, encoder.embed_audio(parts, window="centre"), atol=2e-6)


def test_a_long_recording_that_breaks_off_in_the_middle_is_refused_as_a_whole(
    encoder: Any, sounds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = call(100)
    wave[70 * SAMPLE_RATE_HZ] = np.nan
    items = [("audio", sounds[1]), ("audio", (wave, SAMPLE_RATE_HZ)), ("audio", sounds[2])]
    (found,) = stream(encoder, items, window="windows")
    assert isinstance(found[1], MediaError)
    rows = np.concatenate([found[0].vectors, found[2].vectors])
    np.testing.assert_allclose(rows, encoder.embed_audio([sounds[1], sounds[2]], window="windows"), atol=2e-6)


def test_who_begins_again_at_a_block_gets_the_same_bits(
    encoder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", 5)
    items: list[Any] = [("audio", (call(8 * n + 1, seed=n), SAMPLE_RATE_HZ)) for n in range(5)]
    items += [("image", picture(64 + n, 70, seed=n)) for n in range(4)] + [("text", "word " * n) for n in range(9)]
    items.insert(3, MediaError("silent"))
    items.insert(13, ("image", tmp_path / "missing.png"))
    whole = stream(encoder, items, window="windows", batch_size=3)
    assert sum(map(len, whole)) == len(items)
    assert len(whole) > 3
    begin = 0
    for n, block in enumerate(whole):
        again = stream(encoder, items[begin:], window="windows", batch_size=3, workers=1 + n % 3)
        assert len(again) == len(whole) - n
        for one, other in zip(block, again[0], strict=True):
            same_kind = isinstance(one, MediaError) and isinstance(other, MediaError) and one.reason == other.reason
            assert same_kind or (one.vectors == other.vectors).all()
        begin += len(block)


def test_a_vector_that_is_not_finite_is_refused(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        vectors = torch.ones(len(pixels), 768) / 768**0.5
        vectors[1] = torch.nan
        return vectors

    monkeypatch.setattr(BioVitaModel, "image_vectors", overflow)
    (found,) = stream(encoder, [("image", picture(64, 64)) for _ in range(3)])
    assert [isinstance(item, MediaError) and item.reason for item in found] == [False, "non_finite", False]


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(
    new_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = new_encoder()
    items = [picture(64 + n, 64, seed=n) for n in range(23)]
    expected = encoder.embed_image(items)
    sizes: list[int] = []
    original = BioVitaModel.image_vectors

    def narrow(model: BioVitaModel, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("no room")
        return original(model, pixels)

    monkeypatch.setattr(BioVitaModel, "image_vectors", narrow)
    np.testing.assert_allclose(encoder.embed_image(items, batch_size=16), expected, atol=2e-6)
    assert sizes == [16, 8, 4, 4, 8, 4, 4, 4, 3]
    sizes.clear()
    np.testing.assert_allclose(encoder.embed_image(items), expected, atol=2e-6)
    assert max(sizes) == 4


def test_a_device_with_no_room_for_one_item_is_an_error_that_says_so(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(BioVitaModel, "image_vectors", no_room)
    with pytest.raises(ModelError, match="no room for a single image item"):
        encoder.embed_image([picture(64, 64)] * 3)
    encoder.room.clear()


@pytest.mark.parametrize("window", WINDOWS)
def test_a_recording_as_wav_and_as_flac_gives_the_same_vector(encoder: Any, tmp_path: Path, window: Any) -> None:
    wave = call(31, rate_hz=44_100, silent_s=2)
    for suffix in (".wav", ".flac"):
        write_audio(tmp_path / f"call{suffix}", wave, 44_100)
    one, other = encoder.embed_audio([tmp_path / "call.wav", tmp_path / "call.flac"], window=window)
    assert one @ other >= 1 - 1e-6


def test_the_fingerprint_tells_windows_and_precisions_apart(encoder: Encoder) -> None:
    prints = {encoder.fingerprint(window) for window in WINDOWS} | {
        replace(encoder, precision="bf16").fingerprint("onset")
    }
    assert len(prints) == 4


def test_a_short_sound_is_repeated_or_followed_by_silence_as_the_model_says(encoder: Any) -> None:
    wave = call(3)
    assert encoder.processor.repeats
    longer = np.resize(wave, 480_000)
    one, other = encoder.embed_audio([(wave, SAMPLE_RATE_HZ), (longer, SAMPLE_RATE_HZ)])
    assert one @ other >= 1 - 1e-6
    encoder.processor.feature_extractor.padding = "pad"
    try:
        one, other = encoder.embed_audio([(wave, SAMPLE_RATE_HZ), (np.pad(wave, (0, 336_000)), SAMPLE_RATE_HZ)])
        assert one @ other >= 1 - 1e-6
        assert one @ encoder.embed_audio([(longer, SAMPLE_RATE_HZ)])[0] < 1 - 1e-5
    finally:
        encoder.processor.feature_extractor.padding = "repeat"


BAD_SOUNDS = {
    "page.mp3": b"<html>not found</html>" * 100,
    "cut.wav": b"RIFF\x00\x00\x00\x00WAVE",
    "empty.flac": b"",
    "noise.m4a": bytes(range(256)) * 20,
    "missing.wav": None,
    "missing.m4a": None,
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", BAD_SOUNDS)
def test_a_sound_that_does_not_decode_is_refused_by_name(
    encoder: Any, sounds: list[Path], tmp_path: Path, name: str, window: Any
) -> None:
    if (content := BAD_SOUNDS[name]) is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError) as error:
        encoder.embed_audio([sounds[0], tmp_path / name, sounds[2]], window=window)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.full(48_000, np.nan, np.float32)], ids=["empty", "nan"])
def test_samples_that_are_no_sound_never_become_a_vector(encoder: Any, wave: np.ndarray, window: Any) -> None:
    with pytest.raises(MediaError):
        encoder.embed_audio([(call(1), SAMPLE_RATE_HZ), (wave, SAMPLE_RATE_HZ)], window=window)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_file_without_samples_never_becomes_a_vector(encoder: Any, tmp_path: Path, window: Any) -> None:
    write_audio(tmp_path / "none.wav", np.zeros(0, np.float32), 48_000)
    with pytest.raises(MediaError, match=r"none\.wav"):
        encoder.embed_audio([tmp_path / "none.wav"], window=window)


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\x89PNG\r\n\x1a\n cut off", None])
def test_a_picture_that_does_not_decode_is_refused_by_name(
    encoder: Any, pictures: list[Path], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=r"bad\.png"):
        encoder.embed_image([pictures[0], path])


def test_audio_reads_alike_from_start_and_inside(sounds: list[Path]) -> None:
    """`windows` reads each window by itself; the last one must be that stretch of the whole."""
    whole = read_audio(sounds[1])
    *_, clip = clips_of(sounds[1], window="windows")
    np.testing.assert_allclose(clip, whole[len(whole) - len(clip) :], atol=2e-3)


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9), st.integers(1, 5))
def test_batches_and_prefetch_keep_everything_in_order(things: list[int], size: int, n_threads: int) -> None:
    batches = list(in_batches(things, size))
    assert [thing for batch in batches for thing in batch] == things
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)
    assert list(prefetch(lambda n: n * 2, things, n_threads=n_threads)) == [n * 2 for n in things]


def test_prefetch_works_only_a_little_ahead_and_stops_when_its_reader_does() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(n: int) -> int:
        with lock:
            begun.append(n)
        return n

    reader = prefetch(work, range(10_000), n_threads=2)
    assert [next(reader) for _ in range(5)] == list(range(5))
    reader.close()
    assert len(begun) < 50


def test_an_error_in_prefetch_reaches_the_reader_at_its_place() -> None:
    def work(n: int) -> int:
        return 10 // (n - 3)

    reader = prefetch(work, range(6), n_threads=2)
    assert [next(reader) for _ in range(3)] == [10 // -3, 10 // -2, 10 // -1]
    with pytest.raises(ZeroDivisionError):
        next(reader)
