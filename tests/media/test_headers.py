"""Time, place and device from headers that recorders and cameras write: real ones, made here, and damaged ones."""

import struct
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import guano
import numpy as np
import pytest
from PIL import ExifTags, Image

from biovita.media.audio import write_audio
from biovita.media.headers import Header, name_header, read_header, riff_text

COMMENT = (
    "Recorded at 21:15:00 05/06/2021 (UTC+2) by AudioMoth 24F319055FDF2F5B at medium gain setting "
    "while battery state was 4.2V and temperature was 18.5C."
)


def wav(folder: Path, name: str = "call.wav") -> Path:
    path = folder / name
    write_audio(path, np.sin(np.arange(4800) / 5), 48_000)
    return path


def with_chunk(path: Path, name: bytes, content: bytes) -> Path:
    """Add a RIFF chunk behind the samples."""
    padded = content + b"\0" * (len(content) % 2)
    data = path.read_bytes() + name + struct.pack("<I", len(content)) + padded
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    return path


def with_comment(path: Path, text: str) -> Path:
    """Add an INFO list with a comment, as an AudioMoth does."""
    content = text.encode() + b"\0"
    entry = b"ICMT" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return with_chunk(path, b"LIST", b"INFO" + entry)


def with_guano(path: Path, **fields: object) -> Path:
    """Let the reference implementation write GUANO."""
    file = guano.GuanoFile(str(path))
    for key, value in fields.items():
        file[key.replace("_", " ")] = value
    file.write(make_backup=False)
    return path


def jpeg(folder: Path, *, tags: dict[int, object], gps: dict[int, object] | None = None, name: str = "a.jpg") -> Path:
    exif = Image.Exif()
    details = {}
    for tag, value in tags.items():
        if tag in (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.DateTime):
            exif[tag] = value
        else:
            details[tag] = value
    exif.get_ifd(ExifTags.IFD.Exif).update(details)
    if gps:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    Image.new("RGB", (32, 32), "green").save(folder / name, exif=exif)
    return folder / name


def test_guano_gives_time_with_its_zone_place_and_device(tmp_path: Path) -> None:
    at = datetime(2024, 5, 31, 4, 30, 0, tzinfo=timezone(timedelta(hours=-7)))
    path = with_guano(
        wav(tmp_path), Timestamp=at, Loc_Position=(45.5, -122.25), Make="Wildlife Acoustics", Model="SM4", Serial="S4U1"
    )
    assert read_header(path, "audio") == Header(
        recorded_at=datetime(2024, 5, 31, 11, 30, tzinfo=UTC),
        time_text="2024-05-31T04:30:00-07:00",
        time_rule="GUANO: zone stated",
        latitude_deg=45.5,
        longitude_deg=-122.25,
        device="Wildlife Acoustics SM4 S4U1",
    )


def test_a_clock_without_zone_is_taken_as_the_zone_that_the_user_names(tmp_path: Path) -> None:
    path = with_guano(wav(tmp_path), Timestamp=datetime(2024, 5, 31, 4, 30))  # noqa: DTZ001
    plain = read_header(path, "audio")
    assert (plain.recorded_at, plain.time_rule) == (
        datetime(2024, 5, 31, 4, 30, tzinfo=UTC),
        "GUANO: no zone, taken as UTC",
    )
    summer = read_header(path, "audio", zone=ZoneInfo("Europe/Berlin"))
    assert summer.recorded_at == datetime(2024, 5, 31, 2, 30, tzinfo=UTC)
    assert summer.time_rule == "GUANO: no zone, taken as Europe/Berlin"
    assert summer.time_text == "2024-05-31T04:30:00"


def test_an_audiomoths_comment_gives_time_zone_and_number(tmp_path: Path) -> None:
    found = read_header(with_comment(wav(tmp_path), COMMENT), "audio", zone=ZoneInfo("Asia/Tokyo"))
    assert found.recorded_at == datetime(2021, 6, 5, 19, 15, tzinfo=UTC)
    assert found.time_rule == "AudioMoth: zone stated"
    assert found.time_text == COMMENT
    assert found.device == "AudioMoth 24F319055FDF2F5B"


def test_guano_is_believed_before_the_comment_and_the_comment_before_the_name(tmp_path: Path) -> None:
    path = with_comment(with_guano(wav(tmp_path, "20200101_000000.wav"), Loc_Position=(1.5, 2.5)), COMMENT)
    both = read_header(path, "audio")
    assert (both.latitude_deg, both.time_rule) == (1.5, "AudioMoth: zone stated")
    stated = with_guano(wav(tmp_path, "20200101_000001.wav"), Timestamp=datetime(2024, 5, 31, tzinfo=UTC))
    assert read_header(with_comment(stated, COMMENT), "audio").time_rule == "GUANO: zone stated"
    assert read_header(wav(tmp_path, "x_20200101_000000.wav"), "audio").recorded_at == datetime(2020, 1, 1, tzinfo=UTC)


def test_exif_gives_time_with_offset_place_and_camera(tmp_path: Path) -> None:
    base, gps = ExifTags.Base, ExifTags.GPS
    path = jpeg(
        tmp_path,
        tags={
            base.Make: "RECONYX",
            base.Model: "RECONYX HYPERFIRE 2",
            base.DateTimeOriginal: "2023:12:24 18:00:05",
            base.OffsetTimeOriginal: "+01:00",
            base.BodySerialNumber: "H2X1",
        },
        gps={
            gps.GPSLatitudeRef: "S",
            gps.GPSLatitude: (33.0, 51.0, 36.0),
            gps.GPSLongitudeRef: "E",
            gps.GPSLongitude: (151.0, 12.0, 0.0),
        },
    )
    found = read_header(path, "image")
    assert found.recorded_at == datetime(2023, 12, 24, 17, 0, 5, tzinfo=UTC)
    assert (found.time_text, found.time_rule) == ("2023:12:24 18:00:05 +01:00", "EXIF: zone stated")
    assert found.latitude_deg == pytest.approx(-33.86)
    assert found.longitude_deg == pytest.approx(151.2)
    assert found.device == "RECONYX HYPERFIRE 2 H2X1"


def test_exif_without_offset_is_the_cameras_own_time(tmp_path: Path) -> None:
    path = jpeg(tmp_path, tags={ExifTags.Base.DateTime: "2023:07:01 12:00:00"})
    found = read_header(path, "image", zone=ZoneInfo("America/New_York"))
    assert found.recorded_at == datetime(2023, 7, 1, 16, tzinfo=UTC)
    assert found.time_rule == "EXIF: no zone, taken as America/New_York"


@pytest.mark.parametrize(
    ("name", "expected", "rule"),
    [
        ("20240131_053000.WAV", "2024-01-31T05:30:00", "no zone"),
        ("SITE7_20240131_053000.flac", "2024-01-31T05:30:00", "no zone"),
        ("SM4-1_0+1_20240131$053000.wav", None, ""),
        ("2024-01-31T05-30-00Z.flac", "2024-01-31T05:30:00", "zone stated"),
        ("20240131T053000+0100.wav", "2024-01-31T04:30:00", "zone stated"),
        ("20240131T053000-0330.wav", "2024-01-31T09:00:00", "zone stated"),
        ("2024-01-31 05.30.00.jpg", "2024-01-31T05:30:00", "no zone"),
        ("5A6F2B00.WAV", "2018-01-29T14:09:04", "AudioMoth's seconds"),
        ("20240131.wav", None, ""),
        ("20241331_053000.wav", None, ""),
        ("20240131_256100.wav", None, ""),
        ("120240131_0530001.wav", None, ""),
        ("IMG_0001.jpg", None, ""),
        ("blackbird.mp3", None, ""),
    ],
)
def test_a_file_name_may_hold_the_time(name: str, expected: str | None, rule: str) -> None:
    found = name_header(name)
    assert (found.recorded_at.strftime("%Y-%m-%dT%H:%M:%S") if found.recorded_at else None) == expected
    assert rule in (found.time_rule or "")
    assert (found.time_text is None) == (expected is None)


def test_no_place_is_better_than_one_off_the_coast_of_africa(tmp_path: Path) -> None:
    assert read_header(with_guano(wav(tmp_path), Loc_Position=(0.0, 0.0)), "audio").latitude_deg is None
    assert read_header(with_guano(wav(tmp_path, "b.wav"), Loc_Position=(95.0, 10.0)), "audio").latitude_deg is None


BAD_GUANO = (
    b"",
    b"\xff\xfe\x00",
    b"no colon at all",
    b"Timestamp: yesterday\nLoc Position: north\n",
    b"Timestamp: 2024-05-31T04:30:00+99:99\n",
    b"Timestamp: 0001-01-01T00:00:00+14:00\n",
    b"Loc Position: nan inf\n",
    b"Loc Position: 1\n",
    b":\n::\n|:\n" * 2000,
)


@pytest.mark.parametrize("content", BAD_GUANO)
def test_a_damaged_header_counts_as_none_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = with_chunk(wav(tmp_path), b"guan", content)
    assert read_header(path, "audio") == Header()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "comment",
    [
        "AudioMoth",
        COMMENT.replace("05/06/2021", "45/06/2021"),
        COMMENT.replace("UTC+2", "UTC+99"),
        COMMENT.replace("24F319055FDF2F5B", "?" * 16),
        "Recorded at noon by AudioMoth" * 1000,
    ],
)
def test_a_damaged_comment_counts_as_none(tmp_path: Path, comment: str) -> None:
    assert read_header(with_comment(wav(tmp_path), comment), "audio") == Header()


def test_broken_riff_sizes_and_bytes_end_the_search_in_peace(tmp_path: Path) -> None:
    whole = with_guano(with_comment(wav(tmp_path), COMMENT), Timestamp=datetime(2024, 5, 31, tzinfo=UTC)).read_bytes()
    draw = np.random.default_rng(0)
    path = tmp_path / "broken.wav"
    for _ in range(200):
        broken = bytearray(whole)
        for at in draw.integers(0, len(whole), 8):
            broken[at] = draw.integers(256)
        path.write_bytes(broken[: draw.integers(1, len(broken))] if draw.random() < 0.5 else broken)
        read_header(path, "audio")
    path.write_bytes(b"RIFF\xff\xff\xff\xffWAVE" + b"guan\xff\xff\xff\xff")
    assert riff_text(path, b"guan") is None
    path.write_bytes(b"RIFF\x10\0\0\0WAVE" + b"junk\0\0\0\0" * 100 + b"guan\x01\0\0\0x\0")
    assert riff_text(path, b"guan") is None  # behind more chunks than are looked at


def test_broken_exif_bytes_end_the_search_in_peace(tmp_path: Path) -> None:
    tags = {ExifTags.Base.DateTimeOriginal: "2023:12:24 18:00:05", ExifTags.Base.OffsetTimeOriginal: "+01:00"}
    gps = {ExifTags.GPS.GPSLatitude: (33.0, 51.0, 36.0), ExifTags.GPS.GPSLongitude: (0.0, 0.0, 0.0)}
    whole = jpeg(tmp_path, tags=dict(tags), gps=dict(gps)).read_bytes()
    draw = np.random.default_rng(0)
    path = tmp_path / "broken.jpg"
    for _ in range(200):
        broken = bytearray(whole)
        for at in draw.integers(20, 300, 4):
            broken[at] = draw.integers(256)
        path.write_bytes(broken)
        read_header(path, "image")
    for value in ("0000:00:00 00:00:00", "soon", "2023:12:24"):
        odd = jpeg(tmp_path, tags={ExifTags.Base.DateTimeOriginal: value}, name="odd.jpg")
        assert read_header(odd, "image").recorded_at is None


def test_media_without_headers_say_nothing(tmp_path: Path) -> None:
    assert read_header(wav(tmp_path), "audio") == Header()
    Image.new("RGB", (32, 32)).save(tmp_path / "plain.png")
    assert read_header(tmp_path / "plain.png", "image") == Header()
    write_audio(tmp_path / "plain.flac", np.sin(np.arange(4800) / 5), 48_000)
    assert read_header(tmp_path / "plain.flac", "audio") == Header()
