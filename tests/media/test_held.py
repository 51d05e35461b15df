"""Sounds and pictures whose bytes lie inside another file read as if they lay alone."""

from pathlib import Path

import numpy as np
import pytest

from biovita.errors import MediaError
from biovita.media.audio import read_audio, write_audio
from biovita.media.held import Held, as_file
from biovita.media.image import read_image


def held(path: Path) -> Held:
    return Held(f"shard.tar/{path.name}", path.read_bytes())


@pytest.mark.parametrize("window", [(0.0, None), (0.0, 1.0), (2.3, 0.7), (2.9, 5.0), (9.0, 1.0)])
@pytest.mark.parametrize("rate_hz", [22_050, 48_000])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".m4a"])
def test_a_sound_reads_the_same_from_bytes(
    suffix: str, rate_hz: int, window: tuple[float, float | None], tmp_path: Path
) -> None:
    path = tmp_path / f"noise{suffix}"
    write_audio(path, np.random.default_rng(5).normal(0, 0.1, 3 * rate_hz), rate_hz)
    alone = read_audio(path, start_s=window[0], duration_s=window[1])
    assert len(alone) > 0 or window[0] > 3
    assert np.array_equal(read_audio(held(path), start_s=window[0], duration_s=window[1]), alone)


def test_an_mp3_that_states_no_length_reads_the_same_from_bytes(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp3"
    write_audio(path, np.random.default_rng(5).normal(0, 0.1, 5 * 44_100), 44_100)
    frames = path.read_bytes()
    at = max(frames.find(b"Xing", 0, 2000), frames.find(b"Info", 0, 2000))
    assert at > 0
    path.write_bytes(frames[:at] + b"none" + frames[at + 4 :])
    for window in ((0.0, None), (1.0, 2.0)):
        alone = read_audio(path, start_s=window[0], duration_s=window[1])
        assert len(alone) > 90_000
        assert np.array_equal(read_audio(held(path), start_s=window[0], duration_s=window[1]), alone)


def test_every_picture_of_the_dataset_reads_the_same_from_bytes(made_up: Path) -> None:
    paths = [path for path in (made_up / "media").rglob("*") if path.suffix in (".jpg", ".png")]
    assert {path.suffix for path in paths} == {".jpg", ".png"}
    for path in paths[:20]:
        assert np.array_equal(np.asarray(read_image(held(path))), np.asarray(read_image(path)))


@pytest.mark.parametrize(("name", "reason"), [("a.flac", "corrupt"), ("a.m4a", "corrupt"), ("a.mp3", "corrupt")])
def test_bytes_that_are_no_sound_are_an_error_with_their_name(name: str, reason: str) -> None:
    with pytest.raises(MediaError, match=rf"{reason}: shard\.tar/{name}"):
        read_audio(Held(f"shard.tar/{name}", b"<html>" * 100))


def test_bytes_that_are_no_picture_are_an_error_with_their_name() -> None:
    with pytest.raises(MediaError, match=r"unsupported_format: shard\.tar/a\.jpg"):
        read_image(Held("shard.tar/a.jpg", b"<html>"))


def test_a_string_is_a_path_and_bytes_stay_what_they_are() -> None:
    assert as_file("a/b.wav") == Path("a/b.wav")
    whole = Held("x.tar/a.wav", b"1")
    assert as_file(whole) is whole
    assert "1" not in repr(whole).removeprefix("Held(name='x.tar/a.wav'")
