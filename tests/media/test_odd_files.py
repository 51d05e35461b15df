"""Odd but valid files are kept, and the verdict and the readers say of them what is known to be in them."""

import json
import os
import runpy
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import NamedTuple

import av
import numpy as np
import pytest
import soundfile
import soxr
from PIL import Image, ImageChops

from biovita.media.audio import SAMPLE_RATE_HZ, audio_info, read_audio, write_audio
from biovita.media.check import CHILD_ENVIRONMENT, Limits, Verdict, check_files
from biovita.media.image import read_image

MUTANTS = Path(__file__).parents[2] / "benchmarks" / "mutants.py"


def channels(n_channels: int, rate_hz: int, duration_s: float = 1.0) -> np.ndarray:
    """Tones [n, n_channels] of different loudness and pitch, so that each counts in the mean."""
    t = np.arange(round(rate_hz * duration_s)) / rate_hz
    tones = [(0.1 + 0.02 * i) * np.sin(2 * np.pi * (300 + 40 * i) * t) for i in range(n_channels)]
    return np.stack(tones, axis=1)


class Sound(NamedTuple):
    """An odd file: its bytes, and what is known of it."""

    data: bytes
    wave: np.ndarray
    rate_hz: int
    flags: frozenset[str] = frozenset()
    tolerance: float = 2e-3
    """of a sample; a lossy sound is held to its loudness instead"""
    slack_s: float = 0.0


def written(tmp: Path, name: str, wave: np.ndarray, rate_hz: int, **options: str) -> bytes:
    with soundfile.SoundFile(tmp / name, "w", rate_hz, wave.shape[1], **options) as file:
        for block in np.array_split(wave, max(1, len(wave) // 4096)):  # one large write crashes libsndfile's Vorbis
            file.write(block)
    return (tmp / name).read_bytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def riff(*chunks: bytes, n_bytes: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if n_bytes is None else n_bytes) + body


def pcm(wave: np.ndarray, rate_hz: int, bits: int = 16) -> tuple[bytes, bytes]:
    """The bodies of the two chunks that a WAV needs."""
    width = bits // 8 * wave.shape[1]
    samples = np.round(wave * (2.0 ** (bits - 1) - 1)).astype(f"<i{bits // 8}")
    return struct.pack("<HHIIHH", 1, wave.shape[1], rate_hz, rate_hz * width, width, bits), samples.tobytes()


def apple(tmp: Path, wave: np.ndarray, rate_hz: int, bits: int) -> bytes:
    layout, kind = {1: "mono", 2: "stereo"}[wave.shape[1]], "s16p" if bits == 16 else "s32p"
    samples = np.ascontiguousarray((wave.T * (2.0**31 - 1)).astype(np.int32))
    samples = (samples >> 16).astype(np.int16) if bits == 16 else samples
    with av.open(str(tmp / "alac.m4a"), "w", format="ipod") as box:
        stream = box.add_stream("alac", rate=rate_hz, layout=layout)
        stream.format = kind
        for begin in range(0, samples.shape[1], 4096):
            part = np.ascontiguousarray(samples[:, begin : begin + 4096])
            frame = av.AudioFrame.from_ndarray(part, format=kind, layout=layout)
            frame.rate, frame.pts = rate_hz, begin
            box.mux(stream.encode(frame))
        box.mux(stream.encode(None))
    return (tmp / "alac.m4a").read_bytes()


def flac_claiming(flac: bytes, n_samples: int) -> bytes:
    start, end = 18, 26  # of the eight bytes whose last 36 bits are the number of samples
    fields = int.from_bytes(flac[start:end], "big") >> 36 << 36 | n_samples
    return flac[:start] + fields.to_bytes(8, "big") + flac[end:]


def mp3_without_length(mp3: bytes) -> bytes:
    """Drop the first frame, which holds the Xing header."""
    kbit_s = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[mp3[2] >> 4]
    rate_hz = (44_100, 48_000, 32_000)[mp3[2] >> 2 & 3]
    return mp3[144_000 * kbit_s // rate_hz + (mp3[2] >> 1 & 1) :]


def odd_sounds(tmp: Path) -> dict[str, Sound]:
    one, two, eight, rate_hz = channels(1, 44_100), channels(2, 44_100), channels(8, 44_100), 44_100
    fmt, data = pcm(two, rate_hz)
    fmt_chunk, data_chunk = chunk(b"fmt ", fmt), chunk(b"data", data)
    fmt_64, data_64 = pcm(one, rate_hz, 64)
    mp3 = written(tmp, "plain.mp3", channels(1, rate_hz, 2), rate_hz)
    half_mp3 = written(tmp, "low.mp3", channels(1, 22_050), 22_050)
    flac = written(tmp, "plain.flac", two, rate_hz, subtype="PCM_24")
    id3 = b"ID3\4\0\0\0\0\2\0" + bytes(256)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 43, 1, 0x80000000) + bytes(8)
    ape = struct.pack("<II", 1, 0) + b"k\0v" + ape + b"TAG" + bytes(125)
    latin_1 = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"M\xe4rz M\xfc"))
    lossy, long = {"tolerance": 0.06}, channels(1, rate_hz, 2)
    sounds = {
        f"{subtype}.wav": Sound(written(tmp, "a.wav", two, rate_hz, subtype=subtype), two, rate_hz, tolerance=tolerance)
        for subtype, tolerance in (
            ("PCM_U8", 0.02), ("PCM_16", 1e-3), ("PCM_24", 1e-5), ("PCM_32", 1e-5), ("FLOAT", 1e-5), ("DOUBLE", 1e-5),
        )
    }  # fmt: skip
    for odd_hz in (2_000, 11_025, 250_000, 384_000):
        wave = channels(1, odd_hz)
        sounds[f"{odd_hz}.wav"] = Sound(written(tmp, "a.wav", wave, odd_hz), wave, odd_hz)
    wave = channels(1, 384_000)
    sounds["384.flac"] = Sound(written(tmp, "a.flac", wave, 384_000), wave, 384_000)
    bad = frozenset({"bad_length"})
    return sounds | {
        "64 bit.wav": Sound(riff(chunk(b"fmt ", fmt_64), chunk(b"data", data_64)), one, rate_hz),
        "8 channels.wav": Sound(written(tmp, "a.wav", eight, rate_hz, format="WAVEX"), eight, rate_hz),
        "8 channels.flac": Sound(written(tmp, "a.flac", eight, rate_hz), eight, rate_hz),
        "chunks.wav": Sound(
            riff(chunk(b"bext", b"x" * 603), fmt_chunk, chunk(b"cue ", bytes(5)), data_chunk, latin_1), two, rate_hz,
            frozenset({"tag_encoding"}),
        ),
        "size 0.wav": Sound(riff(fmt_chunk, data_chunk, n_bytes=0), two, rate_hz, bad),
        "size ones.wav": Sound(riff(fmt_chunk, data_chunk, n_bytes=2**32 - 1), two, rate_hz, bad),
        "data 0.wav": Sound(riff(fmt_chunk, b"data" + bytes(4) + data, n_bytes=0), two, rate_hz, bad),
        "data ones.wav": Sound(riff(fmt_chunk, b"data" + b"\xff" * 4 + data, n_bytes=0), two, rate_hz, bad),
        "rf64.wav": Sound(written(tmp, "a.wav", two, rate_hz, format="RF64"), two, rate_hz),
        "24 bit.flac": Sound(flac, two, rate_hz, tolerance=1e-5),
        "no length.flac": Sound(flac_claiming(flac, 0), two, rate_hz),
        "24 bit.aiff": Sound(written(tmp, "a.aiff", two, rate_hz, subtype="PCM_24"), two, rate_hz, tolerance=1e-5),
        "8 bit.aiff": Sound(written(tmp, "a.aiff", two, rate_hz, subtype="PCM_S8"), two, rate_hz, tolerance=0.02),
        "floats.aifc": Sound(written(tmp, "a.aiff", two, rate_hz, subtype="FLOAT"), two, rate_hz, tolerance=1e-5),
        "16 bit.m4a": Sound(apple(tmp, two, rate_hz, 16), two, rate_hz),
        "24 bit.m4a": Sound(apple(tmp, channels(1, 48_000), 48_000, 24), channels(1, 48_000), 48_000, tolerance=1e-5),
        "opus.opus": Sound(
            written(tmp, "a.ogg", channels(2, 48_000), 48_000, format="OGG", subtype="OPUS"), channels(2, 48_000),
            48_000, **lossy,
        ),
        "vorbis.oga": Sound(written(tmp, "a.ogg", two, rate_hz), two, rate_hz, slack_s=0.03, **lossy),
        "8 channels.ogg": Sound(
            written(tmp, "a.ogg", channels(8, 48_000), 48_000), channels(8, 48_000), 48_000, slack_s=0.03, **lossy
        ),
        "tags.mp3": Sound(id3 + mp3 + ape, long, rate_hz, frozenset({"trailing_garbage"}), **lossy),
        "11025.mp3": Sound(written(tmp, "a.mp3", channels(1, 11_025), 11_025), channels(1, 11_025), 11_025, **lossy),
        "no length.mp3": Sound(mp3_without_length(mp3), long, rate_hz, slack_s=0.07, **lossy),
        "zeros before.mp3": Sound(
            bytes(700) + mp3, long, rate_hz, frozenset({"leading_garbage"}), slack_s=0.07, **lossy
        ),
        "half the rate behind.mp3": Sound(
            mp3 + half_mp3, long, rate_hz, frozenset({"trailing_garbage"}), slack_s=0.07, **lossy
        ),
        "twice.mp3": Sound(mp3 * 2, long, rate_hz, bad, slack_s=0.07, **lossy),
    }  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Sound, Path, Verdict]]:
    folder = tmp_path_factory.mktemp("sounds")
    made = odd_sounds(tmp_path_factory.mktemp("scratch"))
    paths = [folder / name for name in made]
    for path in paths:
        path.write_bytes(made[path.name].data)
    verdicts = check_files(paths, limits=Limits(seconds=30))
    return {path.name: (made[path.name], path, verdict) for path, verdict in zip(paths, verdicts, strict=True)}


def test_odd_sounds_are_kept_with_their_length_rate_channels_and_flags(
    sounds: dict[str, tuple[Sound, Path, Verdict]],
) -> None:
    for name, (sound, _, verdict) in sounds.items():
        n_samples, n_channels = sound.wave.shape
        assert (verdict.verdict, verdict.reason, set(verdict.flags)) == ("ok", None, sound.flags), verdict
        assert (verdict.sample_rate_hz, verdict.n_channels) == (sound.rate_hz, n_channels), name
        assert verdict.duration_s == pytest.approx(n_samples / sound.rate_hz, abs=sound.slack_s + 1e-6), name


def test_odd_sounds_are_read_as_the_mean_of_their_channels(sounds: dict[str, tuple[Sound, Path, Verdict]]) -> None:
    """The verdict's suffix is the one under which a dataset keeps the file."""
    for name, (sound, path, verdict) in sounds.items():
        kept = path.rename(path.with_suffix(verdict.suffix or ""))
        mono = sound.wave.mean(axis=1).astype(np.float32)
        expected = soxr.resample(mono, sound.rate_hz, SAMPLE_RATE_HZ, quality="HQ")
        wave, info = read_audio(kept), audio_info(kept)
        assert len(wave) == pytest.approx(len(expected), abs=sound.slack_s * SAMPLE_RATE_HZ + 1), name
        assert (info.sample_rate_hz, info.n_channels) == (sound.rate_hz, sound.wave.shape[1]), name
        assert info.duration_s == pytest.approx(len(mono) / sound.rate_hz, abs=sound.slack_s + 0.01), name
        middle = slice(SAMPLE_RATE_HZ // 4, SAMPLE_RATE_HZ * 3 // 4)
        if sound.tolerance < 0.05:
            assert np.abs(wave[middle] - expected[middle]).max() < sound.tolerance, name
        else:
            assert np.std(wave[middle]) == pytest.approx(np.std(expected[middle]), rel=sound.tolerance), name
        window = read_audio(kept, start_s=0.4, duration_s=0.3)
        start = round(0.4 * SAMPLE_RATE_HZ)
        assert np.abs(window - wave[start : start + len(window)]).max() < 2e-3, name
        kept.rename(path)


def test_sounds_in_a_chain_are_refused(tmp_path: Path) -> None:
    """soundfile reads the first of them and FFmpeg all, while the header knows the last."""
    wave = channels(1, 48_000)
    (tmp_path / "a.ogg").write_bytes(written(tmp_path, "one.ogg", wave, 48_000, format="OGG", subtype="OPUS") * 2)
    [verdict] = check_files([tmp_path / "a.ogg"])
    assert (verdict.reason, "chain" in verdict.detail) == ("corrupt", True)


def test_what_one_hears_of_a_sound_is_flagged(tmp_path: Path) -> None:
    tone = channels(1, 22_050)[:, 0]
    write_audio(tmp_path / "clipped.wav", np.clip(20 * tone, -1, 1), 22_050)
    write_audio(tmp_path / "dc_offset.wav", tone + 0.2, 22_050)
    write_audio(tmp_path / "antiphase.wav", np.stack([tone, -0.99 * tone], axis=1), 22_050)
    write_audio(tmp_path / "a\u202eb.wav", tone, 22_050)
    found = {Path(v.path).stem: v for v in check_files(sorted(tmp_path.iterdir()))}
    assert {(v.verdict, v.reason) for v in found.values()} == {("ok", None)}
    assert {name: set(v.flags) for name, v in found.items()} == {
        "clipped": {"clipped"}, "dc_offset": {"dc_offset"}, "antiphase": {"antiphase"}, "a\u202eb": {"odd_name"},
    }  # fmt: skip


# Pictures: four quarters of known colours
WIDTH, HEIGHT = 60, 40
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90))  # top left and right, bottom left and right
GREYS = tuple((round(0.299 * r + 0.587 * g + 0.114 * b),) * 3 for r, g, b in COLOURS)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class Picture(NamedTuple):
    """An odd file: its bytes, the colours of its quarters as seen, its flags, and its size as seen."""

    data: bytes
    quarters: tuple[tuple[int, int, int], ...] = COLOURS
    flags: frozenset[str] = frozenset()
    size: tuple[int, int] = (WIDTH, HEIGHT)


def quarters() -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        pixels[i // 2 * 20 : i // 2 * 20 + 20, i % 2 * 30 : i % 2 * 30 + 30] = colour
    return pixels


def saved(tmp: Path, suffix: str, image: Image.Image, **options: object) -> bytes:
    image.save(tmp / f"made{suffix}", **options)
    return (tmp / f"made{suffix}").read_bytes()


def png(depth: int, colour_type: int, rows: bytes, *, is_interlaced: bool = False) -> bytes:
    """Write a PNG of kinds that Pillow only reads; each row begins with a zero."""

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, is_interlaced)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def rows_of(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def without_adobe(jpeg: bytes) -> bytes:
    """Drop the marker that says how colours are to be read."""
    start = jpeg.index(b"Adobe") - 4
    (length,) = struct.unpack_from(">H", jpeg, start + 2)
    return jpeg[:start] + jpeg[start + 2 + length :]


def odd_pictures(tmp: Path) -> dict[str, Picture]:
    pixels = quarters()
    image, other = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    grey = image.convert("L")
    levels, bits = np.asarray(grey), grey.point(lambda level: 255 * (level > 85)).convert("1")
    fine = {"quality": 98, "subsampling": 0}
    cmyk = image.convert("CMYK")
    left_only = np.repeat(np.where(np.arange(WIDTH) < WIDTH // 2, 255, 0).astype(np.uint8)[None], HEIGHT, axis=0)
    fading = Image.merge("LA", (grey, Image.fromarray(left_only)))
    faded = (GREYS[0], WHITE, GREYS[2], WHITE)
    deep_fading = np.stack([levels, left_only], axis=2).astype(">u2") * 257
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    interlaced = b"".join(rows_of(pixels[y::down, x::across]) for x, y, across, down in passes)
    palette = image.quantize(4)
    clear = palette.getpixel((0, 0))
    more = {"save_all": True, "append_images": [other]}
    one_bit = (BLACK, WHITE, BLACK, WHITE)
    alpha, moving, pages = frozenset({"alpha"}), frozenset({"animated"}), frozenset({"multipage"})
    far = (
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\xff\xff\xff\x7f"  # the next table is nowhere
    )
    pictures = {
        "cmyk.jpg": Picture(saved(tmp, ".jpg", cmyk, **fine)),
        "cmyk without adobe.jpg": Picture(without_adobe(saved(tmp, ".jpg", ImageChops.invert(cmyk), **fine))),
        "cmyk.tif": Picture(saved(tmp, ".tif", cmyk)),
        "lab.tif": Picture(saved(tmp, ".tif", image.convert("LAB"))),
        "16-bit grey.png": Picture(saved(tmp, ".png", Image.fromarray(levels.astype(np.uint16) * 257)), GREYS),
        "16-bit grey.tif": Picture(saved(tmp, ".tif", Image.fromarray(levels.astype(np.uint16) * 257)), GREYS),
        "32-bit grey.tif": Picture(saved(tmp, ".tif", Image.fromarray(levels.astype(np.int32) * 257)), GREYS),
        "floats to 1.tif": Picture(saved(tmp, ".tif", Image.fromarray(levels.astype(np.float32) / 255)), GREYS),
        "floats to 255.tif": Picture(saved(tmp, ".tif", Image.fromarray(levels.astype(np.float32))), GREYS),
        "16-bit colour.png": Picture(png(16, 2, rows_of(pixels.astype(">u2") * 257))),
        "16-bit grey with alpha.png": Picture(png(16, 4, rows_of(deep_fading)), faded, alpha),
        "interlaced.png": Picture(png(8, 2, interlaced, is_interlaced=True)),
        "palette.png": Picture(saved(tmp, ".png", palette)),
        "palette.gif": Picture(saved(tmp, ".gif", palette)),
        "clear.png": Picture(saved(tmp, ".png", palette, transparency=clear), (WHITE, *COLOURS[1:]), alpha),
        "1 bit.png": Picture(saved(tmp, ".png", bits), one_bit),
        "1 bit.tif": Picture(saved(tmp, ".tif", bits), one_bit),
        "1 bit.bmp": Picture(saved(tmp, ".bmp", bits), one_bit),
        "la.png": Picture(saved(tmp, ".png", fading), faded, alpha),
        "la.tif": Picture(saved(tmp, ".tif", fading), faded, alpha),
        "apng.png": Picture(saved(tmp, ".png", image, **more), flags=moving),
        "moving.webp": Picture(saved(tmp, ".webp", image, lossless=True, **more), flags=moving),
        "pages.tif": Picture(saved(tmp, ".tif", image, **more), flags=pages),
        "mpo.jpg": Picture(saved(tmp, ".mpo", image, **more, **fine), flags=pages),
        "illegal turn.jpg": Picture(saved(tmp, ".jpg", image, exif=turn_tag(9), **fine), flags=frozenset({"bad_exif"})),
        "far exif.jpg": Picture(
            saved(tmp, ".jpg", image, exif=far, **fine), seen(6), frozenset({"exif_rotated"}), (HEIGHT, WIDTH)
        ),
        "no exif.png": Picture(saved(tmp, ".png", image, exif=b"Exif\0\0no TIFF"), flags=frozenset({"bad_exif"})),
        "no exif.webp": Picture(
            saved(tmp, ".webp", image, exif=b"no TIFF", lossless=True), flags=frozenset({"bad_exif"})
        ),
        "no profile.jpg": Picture(saved(tmp, ".jpg", image, icc_profile=b"nothing" * 9, **fine)),
    }  # fmt: skip
    for orientation in range(1, 9):
        flags = frozenset({"exif_rotated"} if orientation > 1 else ())
        size = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
        for suffix, options in ((".jpg", fine), (".png", {}), (".webp", {"lossless": True}), (".tif", {})):
            data = saved(tmp, suffix, image, exif=turn_tag(orientation), **options)
            pictures[f"turned {orientation}{suffix}"] = Picture(data, seen(orientation), flags, size)
    return pictures


def turn_tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def seen(orientation: int) -> tuple[tuple[int, int, int], ...]:
    """Say which quarters an orientation shows top left and right, bottom left and right (EXIF 2.32, tag 0x0112)."""
    order = {1: "0123", 2: "1032", 3: "3210", 4: "2301", 5: "0213", 6: "2031", 7: "3120", 8: "1302"}[orientation]
    return tuple(COLOURS[int(i)] for i in order)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Picture, Path, Verdict]]:
    folder = tmp_path_factory.mktemp("pictures")
    made = odd_pictures(tmp_path_factory.mktemp("scratch"))
    paths = [folder / name for name in made]
    for path in paths:
        path.write_bytes(made[path.name].data)
    return {path.name: (made[path.name], path, v) for path, v in zip(paths, check_files(paths), strict=True)}


def test_odd_pictures_are_kept_with_their_size_as_seen_and_their_flags(
    pictures: dict[str, tuple[Picture, Path, Verdict]],
) -> None:
    for picture, _, verdict in pictures.values():
        assert (verdict.verdict, verdict.reason, set(verdict.flags)) == ("ok", None, picture.flags), verdict
        assert verdict.size == picture.size, verdict


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_odd_pictures_are_read_with_the_colours_they_have(pictures: dict[str, tuple[Picture, Path, Verdict]]) -> None:
    for name, (picture, path, _) in pictures.items():
        pixels = np.asarray(read_image(path), int)
        width, height = picture.size
        assert pixels.shape == (height, width, 3), name
        for i, colour in enumerate(picture.quarters):
            top, left = i // 2 * height // 2, i % 2 * width // 2
            inner = pixels[top + 4 : top + height // 2 - 4, left + 4 : left + width // 2 - 4]
            tolerance = 14 if name.startswith("lab") else 3  # 8 bits of Lab are coarse
            assert np.abs(inner.mean(axis=(0, 1)) - colour).max() <= tolerance, (name, i, inner.mean(axis=(0, 1)))


def test_a_picture_too_large_for_the_memory_is_refused_and_the_next_one_kept(tmp_path: Path) -> None:
    image = Image.effect_noise((4000, 3000), 80).convert("RGBA")
    image.save(tmp_path / "a.png", compress_level=1)
    image.resize((300, 200)).save(tmp_path / "b.png")
    found = list(check_files(sorted(tmp_path.iterdir()), limits=Limits(memory_bytes=160_000_000)))
    assert [v.reason for v in found] == ["too_many_pixels", None]


def test_mutants_of_every_format_get_verdicts_in_time_and_kill_no_child(tmp_path: Path) -> None:
    """A few of the ten thousand of benchmarks/mutants.py."""
    page = runpy.run_path(str(MUTANTS))
    (tmp_path / "parents").mkdir()
    parents, draw = page["parents"](tmp_path / "parents"), Random(7)
    paths = [tmp_path / f"{n}-{draw.choice(list(parents))}" for n in range(300)]
    for path in paths:
        path.write_bytes(page["mutate"](parents[path.name.split("-", 1)[1]], list(parents.values()), draw))
    verdicts = list(check_files(paths))
    assert [v.path for v in verdicts] == [str(path) for path in paths]
    assert [v for v in verdicts if v.elapsed_s > 5 or "no verdict" in v.detail or "died" in v.detail] == []
    assert {v.verdict for v in verdicts} == {"ok", "reject"}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed, so system calls cannot be seen")
def test_no_bytes_make_the_child_connect_start_a_program_or_open_another_file(tmp_path: Path) -> None:
    page = runpy.run_path(str(MUTANTS))
    (tmp_path / "in").mkdir()
    page["parents"](tmp_path / "in")
    for name, text in {
        "a.m3u8": "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        "b.wav": "#EXTM3U\n#EXTINF:1,\n/etc/hosts\n",
        "c.mp3": f"ffconcat version 1.0\nfile '{tmp_path}/in/a.wav'\n",
        "d.wav": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n",
        "e.mp4": '<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
        "f.svg": '<?xml version="1.0"?><svg><image href="http://127.0.0.1:9/a.png"/></svg>',
        "g.jpg": "%!PS-Adobe-3.0 EPSF-3.0\n(/etc/hosts) run\n",
    }.items():
        (tmp_path / "in" / name).write_text(text)
    for folder, made in (("sounds", odd_sounds(tmp_path)), ("pictures", odd_pictures(tmp_path))):
        for name, odd in made.items():
            (tmp_path / "in" / f"{folder} {name}").write_bytes(odd.data)
    paths = sorted((tmp_path / "in").iterdir())
    child = [sys.executable, "-P", "-m", "biovita.media.check_child", json.dumps(asdict(Limits(seconds=60)))]
    calls = "%network,execve,execveat,open,openat,openat2,creat,write"
    traced = subprocess.run(
        ["strace", "-f", "-qq", "-s", "4096", "-e", f"trace={calls}", "-o", str(tmp_path / "log"), *child],
        input="".join(json.dumps(str(path)) + "\n" for path in paths), text=True, capture_output=True, check=False,
        env={**os.environ, **CHILD_ENVIRONMENT}, cwd=tmp_path,
    )  # fmt: skip
    if "ptrace" in traced.stderr and "ready" not in traced.stdout:
        pytest.skip("strace may not trace here")
    assert len(traced.stdout.splitlines()) == 1 + len(paths)
    log = (tmp_path / "log").read_text().splitlines()
    ready = next(i for i, line in enumerate(log) if "ready" in line)
    after = [line.split(maxsplit=1)[1] for line in log[ready + 1 :]]
    opened = [line.split('"')[1] for line in after if line.startswith(("open", "creat"))]
    assert len(opened) >= len(paths)
    libraries = tuple({sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "src"), "/usr/lib", "/lib"})
    assert [path for path in opened if Path(path) not in paths and not path.startswith(libraries)] == []
    assert [line for line in after if not line.startswith(("open", "write(", "+++", "---"))] == []
