"""Every hostile kind of file gets its reason, every good one passes, and nothing a file does reaches the parent."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from biovita.media.audio import write_audio
from biovita.media.check import Limits, Verdict, check_files
from biovita.media.image import write_image
from biovita.media.reasons import REASONS

RATE_HZ = 22_050
RNG = np.random.default_rng(0)


def tone(duration_s: float = 1.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(rate_hz * duration_s)) * 0.1)).astype(np.float32)


def photo(width_px: int = 96, height_px: int = 64) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 255, (height_px, width_px, 3), np.uint8))


def check(*paths: Path, limits: Limits | None = None) -> list[Verdict]:
    return list(check_files(paths, limits=limits))


def sound_bytes(tmp: Path, suffix: str, wave: np.ndarray | None = None, rate_hz: int = RATE_HZ) -> bytes:
    path = tmp / f"made{suffix}"
    write_audio(path, tone() if wave is None else wave, rate_hz)
    return path.read_bytes()


def float_wav(tmp: Path, wave: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    soundfile.write(tmp / "float.wav", wave, rate_hz, subtype="FLOAT")
    return (tmp / "float.wav").read_bytes()


def image_bytes(tmp: Path, image: Image.Image, suffix: str = ".jpg", **options: object) -> bytes:
    image.save(tmp / f"made{suffix}", **options)
    return (tmp / f"made{suffix}").read_bytes()


def spoiled(value: float) -> np.ndarray:
    wave = tone()
    wave[500] = value
    return wave


def png_claiming(width_px: int, height_px: int) -> bytes:
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


def wav_header(n_channels: int = 1, rate_hz: int = RATE_HZ, codec: int = 1, n_bytes: int = 20_000) -> bytes:
    fmt = struct.pack("<HHIIHH", codec, n_channels, rate_hz, min(rate_hz * 2, 2**32 - 1), 2, 16)
    body = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", n_bytes)
    return b"RIFF" + struct.pack("<I", 4 + len(body) + n_bytes) + b"WAVE" + body


def with_title(wav: bytes, title: bytes) -> bytes:
    info = b"INFOINAM" + struct.pack("<I", len(title)) + title
    body = wav[8:] + b"LIST" + struct.pack("<I", len(info)) + info
    return b"RIFF" + struct.pack("<I", len(body)) + body


Make = Callable[[Path], bytes]
BAD: dict[str, tuple[str, str, Make]] = {
    # what: (name, reason, bytes)
    "nothing": ("a.mp3", "empty_file", lambda t: b""),
    "page": ("a.mp3", "html_document", lambda t: b"<!DOCTYPE html><html><body>404</body></html>"),
    "large page": ("a.mp3", "html_document", lambda t: b"\n <html>" + b"<p>\xff\xfb\x90d</p>" * 50_000),
    "api error": ("a.jpg", "json_document", lambda t: b'{"error": "rate limit"}'),
    "text": ("a.wav", "text_document", lambda t: b"Der Kuckuck und der Esel\n" * 9),
    "text BM": ("a.bmp", "text_document", lambda t: b"BMW drivers hear no birds\n"),
    "utf-16 text": ("a.wav", "text_document", lambda t: "Guten Tag".encode("utf-16")),
    "random": ("a.mp3", "not_media", lambda t: np.random.default_rng(1).bytes(50_000)),
    "zeros": ("a.flac", "not_media", lambda t: bytes(50_000)),
    "midi": ("a.wav", "unsupported_format", lambda t: b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk"),
    "zip": ("a.wav", "unsupported_format", lambda t: b"PK\3\4" + bytes(500)),
    "gzip": ("a.mp3", "unsupported_format", lambda t: b"\x1f\x8b\x08" + bytes(500)),
    "svg": ("a.png", "unsupported_format", lambda t: b'<?xml version="1.0"?><svg onload="x()"/>'),
    "eps": ("a.jpg", "unsupported_format", lambda t: b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    "heic": ("a.jpg", "unsupported_format", lambda t: b"\0\0\0\x18ftypheic" + bytes(100)),
    "picture as sound": ("a.mp3", "wrong_modality", lambda t: image_bytes(t, photo())),
    "sound as picture": ("a.jpg", "wrong_modality", lambda t: sound_bytes(t, ".wav")),
    "hls": ("a.mp3", "external_reference", lambda t: b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n"),
    "ffconcat": ("a.wav", "external_reference", lambda t: b"ffconcat version 1.0\nfile '/etc/hosts'\n"),
    "sdp": ("a.wav", "external_reference", lambda t: b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n"),
    "dash": ("a.mp4", "external_reference", lambda t: b'<?xml version="1.0"?><MPD><BaseURL>http://x/</BaseURL></MPD>'),
    "half wav": ("a.wav", "truncated", lambda t: sound_bytes(t, ".wav")[:22_000]),
    "half flac": ("a.flac", "truncated", lambda t: sound_bytes(t, ".flac", RNG.uniform(-0.5, 0.5, RATE_HZ))[:20_000]),
    "half mp3": ("a.mp3", "truncated", lambda t: sound_bytes(t, ".mp3", tone(3))[:4_000]),
    "half m4a": ("a.m4a", "truncated", lambda t: sound_bytes(t, ".m4a")[:9_000]),
    "half jpeg": ("a.jpg", "truncated", lambda t: image_bytes(t, photo(640, 480))[:30_000]),
    "half png": ("a.png", "truncated", lambda t: image_bytes(t, photo(), ".png")[:9_000]),
    "jpeg header only": ("a.jpg", "bad_header", lambda t: image_bytes(t, photo())[:20]),
    "wav of no seconds": ("a.wav", "no_samples", lambda t: sound_bytes(t, ".wav", np.zeros(0, np.float32))),
    "id3 tag alone": ("a.mp3", "no_samples", lambda t: b"ID3\4\0\0\0\0\1\0" + bytes(128)),
    "ten samples": ("a.wav", "too_short", lambda t: sound_bytes(t, ".wav", tone()[:10])),
    "long in few bytes": ("a.flac", "too_long", lambda t: sound_bytes(t, ".flac", np.zeros(2_000 * 7_300), 2_000)),
    "rate 1 Hz": ("a.wav", "bad_sample_rate", lambda t: wav_header(rate_hz=1) + bytes(20_000)),
    "rate 2^32-1": ("a.wav", "bad_sample_rate", lambda t: wav_header(rate_hz=2**32 - 1) + bytes(20_000)),
    "65535 channels": ("a.wav", "bad_channels", lambda t: wav_header(n_channels=65_535) + bytes(20_000)),
    "0 channels": ("a.wav", "bad_channels", lambda t: wav_header(n_channels=0) + bytes(20_000)),
    "adpcm": ("a.wav", "unsupported_codec", lambda t: wav_header(codec=0x11) + bytes(20_000)),
    "one NaN": ("a.wav", "non_finite", lambda t: float_wav(t, spoiled(np.nan))),
    "one infinity, right": (
        "a.wav", "non_finite", lambda t: float_wav(t, np.stack([tone(), spoiled(-np.inf)], axis=1))
    ),
    "huge": ("a.wav", "out_of_range", lambda t: float_wav(t, spoiled(1e6))),
    "silence": ("a.wav", "silent", lambda t: sound_bytes(t, ".wav", np.zeros(RATE_HZ))),
    "an offset only": ("a.wav", "silent", lambda t: sound_bytes(t, ".wav", np.full(RATE_HZ, 0.3))),
    "antiphase": ("a.wav", "silent", lambda t: sound_bytes(t, ".wav", np.stack([tone(), -tone()], axis=1))),
    "gigapixels": ("a.png", "too_many_pixels", lambda t: png_claiming(60_000, 60_000)),
    "100 megapixels": ("a.png", "too_many_pixels", lambda t: png_claiming(10_000, 10_000)),
    "a long strip": ("a.png", "too_many_pixels", lambda t: png_claiming(30_001, 20)),
    "an icon": ("a.png", "too_small", lambda t: image_bytes(t, photo(15, 40), ".png")),
    "a strip": ("a.png", "bad_aspect", lambda t: image_bytes(t, photo(1_700, 30), ".png")),
    "white": ("a.jpg", "blank", lambda t: image_bytes(t, Image.new("RGB", (64, 64), "white"))),
    "clear": ("a.png", "blank", lambda t: image_bytes(t, Image.new("RGBA", (64, 64), (200, 0, 0, 0)), ".png")),
}  # fmt: skip

GOOD: dict[str, tuple[str, set[str], Make]] = {
    # what: (name, flags, bytes)
    "wav": ("a.wav", set(), lambda t: sound_bytes(t, ".wav")),
    "flac": ("a.flac", set(), lambda t: sound_bytes(t, ".flac")),
    "mp3": ("a.mp3", set(), lambda t: sound_bytes(t, ".mp3")),
    "m4a": ("a.m4a", set(), lambda t: sound_bytes(t, ".m4a")),
    "wav named mp3": ("a.mp3", {"extension_mismatch"}, lambda t: sound_bytes(t, ".wav")),
    "mp3 and a page": ("a.mp3", {"trailing_garbage"}, lambda t: sound_bytes(t, ".mp3") + b"<html>gone</html>" * 99),
    "wav and a page": ("a.wav", {"trailing_garbage"}, lambda t: sound_bytes(t, ".wav") + b"<html>gone</html>" * 99),
    "wav of unknown length": (
        "a.wav", {"bad_length"}, lambda t: wav_header(n_bytes=2**32 - 1 - 36)[:-4] + b"\xff" * 4 + tone().tobytes()
    ),
    "ultrasound": ("a.wav", set(), lambda t: sound_bytes(t, ".wav", tone(0.5, 384_000), 384_000)),
    "8 channels": ("a.wav", set(), lambda t: sound_bytes(t, ".wav", np.stack([tone()] * 8, axis=1))),
    "64-bit floats": ("a.wav", set(), lambda t: float_wav(t, tone().astype(np.float64))),
    "umlaut in Latin-1": (
        "a.wav", {"tag_encoding"},
        lambda t: with_title(sound_bytes(t, ".wav"), b"M\xe4rz M\xfc\0"),
    ),
    "jpeg": ("a.jpeg", set(), lambda t: image_bytes(t, photo(), ".jpg")),
    "png named jpg": ("a.jpg", {"extension_mismatch"}, lambda t: image_bytes(t, photo(), ".png")),
    "webp": ("a.webp", set(), lambda t: image_bytes(t, photo(), ".webp")),
    "tiff": ("a.tif", set(), lambda t: image_bytes(t, photo(), ".tif")),
    "bmp": ("a.bmp", set(), lambda t: image_bytes(t, photo(), ".bmp")),
    "avif": ("a.avif", set(), lambda t: image_bytes(t, photo(), ".avif")),
    "cmyk": ("a.jpg", set(), lambda t: image_bytes(t, photo().convert("CMYK"))),
    "16 bit": (
        "a.png", set(), lambda t: image_bytes(t, Image.fromarray(RNG.integers(0, 2**16, (64, 64), np.uint16)), ".png")
    ),
    "16 bit, large": (
        "a.png", set(),
        lambda t: image_bytes(t, Image.fromarray(RNG.integers(0, 2**16, (1200, 1800), np.uint16)), ".png"),
    ),
    "moving": (
        "a.gif", {"animated"}, lambda t: image_bytes(t, photo(), ".gif", save_all=True, append_images=[photo()])
    ),
    "jpeg and code": ("a.jpg", {"trailing_garbage"}, lambda t: image_bytes(t, photo()) + b"<?php system(1); ?>"),
}  # fmt: skip


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    folder = tmp_path_factory.mktemp("files")
    scratch = tmp_path_factory.mktemp("scratch")
    paths = {}
    for i, (what, (name, _, make)) in enumerate([*BAD.items(), *GOOD.items()]):
        paths[what] = folder / str(i) / name
        paths[what].parent.mkdir()
        paths[what].write_bytes(make(scratch))
    # one child, so that a file that harms it would show in the ones that follow
    found = dict(zip(paths, check(*paths.values(), limits=Limits(seconds=30)), strict=True))
    assert [v.path for v in found.values()] == [str(path) for path in paths.values()]
    return found


@pytest.mark.parametrize("what", BAD)
def test_bad_content_gets_its_reason(verdicts: dict[str, Verdict], what: str) -> None:
    verdict = verdicts[what]
    assert (verdict.verdict, verdict.reason) == ("reject", BAD[what][1]), verdict
    assert verdict.reason in REASONS
    assert verdict.elapsed_s < 5


@pytest.mark.parametrize("what", GOOD)
def test_good_content_passes_with_its_flags(verdicts: dict[str, Verdict], what: str) -> None:
    verdict = verdicts[what]
    assert (verdict.verdict, verdict.reason) == ("ok", None), verdict
    assert set(verdict.flags) == GOOD[what][1]
    assert len(verdict.sha256 or "") == 64
    assert verdict.fingerprint is not None
    if verdict.modality == "audio":
        assert verdict.size is None
        assert verdict.duration_s is not None
        assert 0.4 < verdict.duration_s < 2.1
    else:
        assert verdict.size in {(96, 64), (64, 64), (1800, 1200)}
        assert verdict.duration_s is None


def test_a_turned_picture_has_its_turned_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(tmp_path / "a.jpg", exif=exif)
    [verdict] = check(tmp_path / "a.jpg")
    assert (verdict.size, verdict.flags) == ((64, 96), ("exif_rotated",))


def test_what_is_no_regular_file_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    write_audio(tmp_path / "good.wav", tone(), RATE_HZ)
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "good.wav")
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.wav"))
        names = ("fifo.wav", "link.wav", "broken.wav", "s.wav", "gone.wav", "", "good.wav")
        found = check(*(tmp_path / name for name in names), Path("/dev/zero"))
    assert [v.reason for v in found] == [
        "not_regular_file", "symlink", "symlink", "not_regular_file", "unreadable", "not_regular_file", None,
        "not_regular_file",
    ]  # fmt: skip


def test_odd_names_are_only_names(tmp_path: Path) -> None:
    names = [b"-rf.wav", b"new\nline.wav", b"not \xff utf-8.wav", "ä\u202eö.wav".encode(), b"%d *?.wav", b"a.m3u8"]
    paths = [tmp_path / os.fsdecode(name) for name in names]
    data = sound_bytes(tmp_path, ".wav")
    for path in paths:
        path.write_bytes(data)
    found = check(*paths)
    assert [v.verdict for v in found] == ["ok"] * len(names)
    assert [v.path for v in found] == [str(path) for path in paths]
    assert [v.flags for v in found] == [(), ("odd_name",), ("odd_name",), ("odd_name",), (), ("extension_mismatch",)]


def test_verdicts_do_not_depend_on_workers_or_order(tmp_path: Path) -> None:
    paths = []
    for i in range(12):
        paths.append(tmp_path / f"{i}.flac")
        write_audio(paths[-1], tone(0.2 + 0.1 * i), RATE_HZ)
    paths.insert(5, tmp_path / "gone.wav")

    def rows(order: list[Path], workers: int) -> list[dict[str, object]]:
        found = sorted(check_files(order, workers=workers), key=lambda v: v.path)
        return [{**v.row(), "elapsed_s": 0} for v in found]

    assert rows(paths, 1) == rows(paths[::-1], 3)


def test_a_lost_child_is_a_verdict_and_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that kills itself, or sleeps, on certain names stands for a decoder that does."""
    (tmp_path / "bad_child.py").write_text(
        "import os, sys, time, json\n"
        "from biovita.media import check_child\n"
        "real = check_child.judge\n"
        "def judge(path, limits):\n"
        "    if path.endswith('die.wav'): os.kill(os.getpid(), 11)\n"
        "    if path.endswith('hang.wav'): time.sleep(60)\n"
        "    return real(path, limits)\n"
        "check_child.judge = judge\n"
        "pipe = os.fdopen(os.dup(1), 'wb', buffering=0)\n"
        "check_child.main(check_child.Limits(**json.loads(sys.argv[1])), sys.stdin.buffer, pipe)\n"
    )
    real = subprocess.Popen

    def start(command: list[str], **options: object) -> object:
        return real([sys.executable, str(tmp_path / "bad_child.py"), command[-1]], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    write_audio(tmp_path / "good.wav", tone(), RATE_HZ)
    names = ("good.wav", "die.wav", "good.wav", "hang.wav", "good.wav")
    found = check(*(tmp_path / name for name in names), limits=Limits(seconds=1.0))
    assert [v.reason for v in found] == [None, "corrupt", None, "unreadable", None]
    assert "SIGSEGV" in found[1].detail
    assert found[3].elapsed_s < 3


def test_memory_and_processor_time_of_a_child_are_limited(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom biovita.media import check_child\nfrom biovita.media.check import Limits\n"
        "limits = Limits(seconds=1)\ncheck_child.restrict(limits)\ncheck_child.renew_cpu_time(limits)\n"
        "if sys.argv[1] == 'memory':\n    bytearray(900_000_000)\n"
        "if sys.argv[1] == 'write':\n    open(sys.argv[2], 'wb', buffering=0).write(b'x')\n"
        "while True: pass\n"
    )
    for what, code in (("memory", 1), ("write", 1), ("time", -signal.SIGXCPU)):
        command = [sys.executable, "-c", script, what, str(tmp_path / "x")]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == code, (what, done)
        assert what != "write" or b"File too large" in done.stderr


def test_no_thread_and_no_process_is_left_when_the_caller_stops_early(tmp_path: Path) -> None:
    for i in range(20):
        write_audio(tmp_path / f"{i}.wav", tone(), RATE_HZ)
    n_threads = threading.active_count()
    stream = check_files(sorted(tmp_path.iterdir()), workers=2)
    next(stream)
    stream.close()
    assert threading.active_count() == n_threads
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children if Path(f"/proc/{pid}").exists()]
    assert not [name for name in names if b"check_child" in name]


def test_the_child_loads_no_learning_library(tmp_path: Path) -> None:
    script = "import sys, biovita.media.check_child; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert not loaded & {"torch", "transformers", "polars", "pyarrow", "sklearn", "matplotlib"}


def test_a_verdict_survives_json(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo())
    [verdict] = check(tmp_path / "a.png")
    assert Verdict.from_row(json.loads(json.dumps(verdict.row()))) == verdict
    assert verdict.expecting("image") == verdict
    assert verdict.expecting("audio").reason == "wrong_modality"
