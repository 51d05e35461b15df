"""Time, place and device of a file, from what recorders and cameras write into it or into its name.

Read from files that passed the check. The first source that knows a thing is believed: GUANO, then the AudioMoth's
comment, then the file's name for recordings; EXIF, then the name for pictures. Clocks in the field seldom say their
time zone, so every time comes with the text it was read from and the rule by which its zone was known.
"""

import re
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import guano
from metamoth.parsing import MessageFormatError, parse_comment
from PIL import ExifTags

from biovita.media.held import Held, as_file
from biovita.media.image import open_image

guano.log.disabled = True  # it prints what it cannot read; we leave that out

MAX_CHUNKS, MAX_CHUNK_BYTES = 64, 1_000_000  # of a RIFF file; headers are small
YEARS = (1900, 2200)
SPLIT_TIME = re.compile(
    r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)[T_ -](\d\d)[-:.h]?(\d\d)[-:.m]?(\d\d)(?:\.\d+)?\s?(Z|[+-]\d\d:?\d\d)?(?!\d)"
)
HEX_TIME = re.compile(r"[0-9A-F]{8}")  # the first AudioMoths name a file by the seconds since 1970
HEX_SINCE, HEX_UNTIL = datetime(2014, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself; null where it says nothing that can be read.

    Attributes:
        recorded_at: UTC.
        time_text: the time as it was written.
        time_rule: how its time zone was known.
        device: maker, model and serial number, as far as stated.
    """

    recorded_at: datetime | None = None
    time_text: str | None = None
    time_rule: str | None = None
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    device: str | None = None

    def or_else(self, other: "Header") -> "Header":
        """Fill what is missing from another source; a time comes whole, and so does a place."""
        filled = self
        for group in (("recorded_at", "time_text", "time_rule"), ("latitude_deg", "longitude_deg"), ("device",)):
            if getattr(self, group[0]) is None:
                filled = replace(filled, **{name: getattr(other, name) for name in group})
        return filled


def read_header(path: Path | Held, modality: str, *, zone: tzinfo = UTC) -> Header:
    """Read time, place and device; a header that is damaged counts as none.

    Args:
        path: a file that passed the check.
        modality: audio or image.
        zone: of clocks that do not say theirs.
    """
    found = Header()
    for read in (_guano, _audiomoth) if modality == "audio" else (_exif,):
        found = found.or_else(_quietly(read, path, zone))
    return found.or_else(name_header(PurePath(str(path)).name, zone=zone))


def name_header(name: str, *, zone: tzinfo = UTC) -> Header:
    """Read the time in a file name: `20240131_053000`, `2024-01-31T05-30-00Z`, or an AudioMoth's hexadecimal one."""
    stem = PurePath(name).stem
    if HEX_TIME.fullmatch(stem):
        at = datetime.fromtimestamp(int(stem, 16), UTC)
        if HEX_SINCE <= at < HEX_UNTIL:
            return Header(recorded_at=at, time_text=stem, time_rule="file name: AudioMoth's seconds, UTC")
    for found in SPLIT_TIME.finditer(stem):
        *parts, offset = found.groups()
        try:
            at = datetime.strptime("".join(parts), "%Y%m%d%H%M%S")  # noqa: DTZ007
            stated = _offset(offset) if offset else None
        except ValueError:
            continue
        return _timed(at, found.group(), "file name", stated, zone)
    return Header()


def _quietly(read: Callable[[Path | Held, tzinfo], Header], path: Path | Held, zone: tzinfo) -> Header:
    try:
        return read(path, zone)
    except (OSError, SyntaxError, ValueError, OverflowError, ArithmeticError, KeyError, TypeError, IndexError):
        return Header()  # strangers' headers hold anything


def _timed(at: datetime, text: str, source: str, stated: tzinfo | None, zone: tzinfo) -> Header:
    """Bring a clock's time to UTC, and say how its zone was known."""
    rule = f"{source}: zone stated" if stated else f"{source}: no zone, taken as {zone}"
    at = at.replace(tzinfo=stated or zone).astimezone(UTC)
    if not YEARS[0] <= at.year <= YEARS[1]:
        return Header()
    return Header(recorded_at=at, time_text=text, time_rule=rule)


def _offset(text: str) -> tzinfo:
    """Read `Z`, `+0100` or `-05:30`."""
    if text == "Z":
        return UTC
    sign = -1 if text[0] == "-" else 1
    digits = text[1:].replace(":", "")
    return timezone(sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:4])))


def _place(latitude: float, longitude: float) -> dict[str, float]:
    """Take a place on Earth; 0, 0 is what receivers write that found none."""
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180) or latitude == longitude == 0:
        return {}
    return {"latitude_deg": float(latitude), "longitude_deg": float(longitude)}


def _guano(path: Path | Held, zone: tzinfo) -> Header:
    text = riff_text(path, b"guan")
    if text is None:
        return Header()
    lines = "\n".join(line for line in text.splitlines() if ":" in line)
    stored = guano.GuanoFile.from_string(lines)
    header = Header()
    at = stored.get("Timestamp")
    if isinstance(at, datetime):
        written = next((line for line in lines.splitlines() if line.startswith("Timestamp")), "")
        stated = timezone(at.utcoffset() or timedelta()) if at.tzinfo else None
        header = _timed(at.replace(tzinfo=None), written.partition(":")[2].strip(), "GUANO", stated, zone)
    place = stored.get("Loc Position")
    if isinstance(place, tuple) and len(place) == 2:
        header = replace(header, **_place(*place))
    return replace(header, device=_joined(stored.get(key) for key in ("Make", "Model", "Serial")))


def _audiomoth(path: Path | Held, zone: tzinfo) -> Header:
    text = riff_text(path, b"ICMT")
    if text is None or "AudioMoth" not in text:
        return Header()
    try:
        comment = parse_comment(text)
    except MessageFormatError:
        return Header()
    header = _timed(comment["datetime"], text, "AudioMoth", comment["timezone"], zone)
    return replace(header, device=_joined(["AudioMoth", comment["audiomoth_id"]]))


def riff_text(path: Path | Held, name: bytes) -> str | None:
    """Find a chunk of a WAV file, or an entry of its INFO list, and return its text; None where there is none."""
    with as_file(path).open("rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
            return None
        for chunk, content in _chunks(file):
            if chunk == b"LIST" and content[:4] == b"INFO":
                content = dict(_entries(content[4:])).get(name, b"")
            elif chunk != name:
                continue
            if content:
                return content.rstrip(b"\0 ").decode("utf-8", errors="replace")
    return None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Walk over a RIFF file's chunks; the content of large ones is left out."""
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        name, size = struct.unpack("<4sI", head)
        is_small = size <= MAX_CHUNK_BYTES
        yield name, file.read(size) if is_small else b""
        file.seek(size % 2 if is_small else size + size % 2, 1)


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        yield name, content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _exif(path: Path | Held, zone: tzinfo) -> Header:
    quiet = warnings.catch_warnings(action="ignore")  # of Pillow, about damage that we take as silence
    with quiet, as_file(path).open("rb") as file, open_image(file) as image:
        if image.format == "PNG":
            image.load()  # its EXIF data may follow the pixels
        exif = image.getexif()
        details, gps = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    header = Header()
    text = details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
    if isinstance(text, str):
        offset = details.get(ExifTags.Base.OffsetTimeOriginal) or details.get(ExifTags.Base.OffsetTime)
        stated = _offset(offset.strip("\0 ")) if isinstance(offset, str) and offset.strip("\0 ") else None
        at = datetime.strptime(text.strip("\0 "), "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007
        header = _timed(at, _joined([text, offset]) or text, "EXIF", stated, zone)
    header = replace(header, **_exif_place(gps))
    return replace(header, device=_joined([exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model),
                                           details.get(ExifTags.Base.BodySerialNumber)]))  # fmt: skip


def _exif_place(gps: dict[int, Any]) -> dict[str, float]:
    """Read degrees, minutes and seconds."""
    found = []
    for value, side, below in ((ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S"),
                               (ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W")):  # fmt: skip
        if value not in gps:
            return {}
        degrees, minutes, seconds = (float(part) for part in gps[value])
        size = degrees + minutes / 60 + seconds / 3600
        found.append(-size if str(gps.get(side, "")).strip("\0 ").upper() == below else size)
    return _place(*found)


def _joined(parts: Any) -> str | None:
    """Join what is stated; a model's name often begins with the maker's."""
    words: list[str] = []
    for part in parts:
        text = str(part).strip("\0 ") if part is not None else ""
        if words and text.lower().startswith(words[-1].lower()):
            words.pop()
        if text:
            words.append(text)
    return " ".join(words) or None


HEADER_COLUMNS = [field.name for field in fields(Header)]
