"""What the first bytes of a file say: text, a format that we do not take, a sound, a picture, or nothing."""

from biovita.errors import MediaError

HEAD_BYTES = 4096  # enough for every rule here

# Content that we know and do not take. Some of it looks like text, so it is asked for before the text rules.
FOREIGN = (
    (b"%PDF", "PDF"), (b"%!PS", "PostScript"), (b"SIMPLE  =", "FITS"), (b"8BPS", "Photoshop"), (b"P5\n", "PGM"),
    (b"P6\n", "PPM"), (b"\0\0\1\0", "ICO"), (b"MThd", "MIDI"), (b"PK\3\4", "ZIP"), (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "7-Zip"), (b"Rar!", "RAR"), (b"\x1aE\xdf\xa3", "Matroska"),
    (b"\x30\x26\xb2\x75", "ASF"), (b"#!AMR", "AMR"), (b".snd", "AU"), (b"caff", "CAF"), (b"<svg", "SVG"),
)  # fmt: skip
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
SOUNDS = (b"RF64", b"BW64", b"fLaC", b"OggS", b"ID3")
REFERENCES = ("#extm3u", "ffconcat", "[playlist]", "v=0")  # HLS, ffconcat, PLS, SDP
WEB_PAGES = ("<!doctype html", "<html", "<head", "<body", "<script")


def modality_of(head: bytes) -> str | None:
    """Tell sound from picture by the first bytes; None where they say nothing.

    Raises:
        MediaError: `unsupported_format`, it is something else that we know.
    """
    kind, brand = head[:4], head[8:12]
    for magic, name in FOREIGN:
        if head.startswith(magic):
            raise MediaError("unsupported_format", name)
    if head[4:8] == b"ftyp":
        if brand in HEIF_BRANDS:
            raise MediaError("unsupported_format", "HEIF")
        return "image" if brand in (b"avif", b"avis") else "audio"
    if kind == b"RIFF":
        return {b"WAVE": "audio", b"WEBP": "image"}.get(brand)
    if kind == b"FORM":
        return "audio" if brand in (b"AIFF", b"AIFC") else None
    if head.startswith(SOUNDS) or is_mp3_frame(head):
        return "audio"
    is_bmp = head.startswith(b"BM") and head[6:10] == bytes(4)  # "BM" alone begins many a text
    return "image" if is_bmp or head.startswith(PICTURES) else None


def is_mp3_frame(head: bytes) -> bool:
    """Say whether an MPEG audio layer III frame header begins here (sync, layer, bit rate and rate that exist)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return False
    return head[1] & 0x18 != 0x08 and head[2] & 0xF0 not in (0x00, 0xF0) and head[2] & 0x0C != 0x0C


def refuse_text(head: bytes) -> None:
    """Refuse web pages, API errors, play lists and other text, whatever the file is called.

    Raises:
        MediaError: the content is text; the reason says of which kind.
    """
    text = _as_text(head)
    if text is None:
        return
    begin = text.strip()[:1000].lower()
    if begin.startswith(REFERENCES) or "<mpd" in begin:
        raise MediaError("external_reference", f"names other media: {begin.splitlines()[0][:40]}")
    if "<svg" in begin:
        raise MediaError("unsupported_format", "SVG")
    if begin.startswith(WEB_PAGES) or "<html" in begin:
        raise MediaError("html_document", "a web page")
    start = " ".join(text[:80].split())
    if begin.startswith(("{", "[")):
        raise MediaError("json_document", start)
    raise MediaError("text_document", start)


def _as_text(head: bytes) -> str | None:
    """Decode bytes that are text; None where control characters or mostly undecodable bytes say no."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and not is_mp3_frame(head):
        text = head[: len(head) // 2 * 2].decode("utf-16", errors="replace")
    else:
        text = head.decode("utf-8-sig", errors="replace")
    start = text[:512]
    if any(char < " " and char not in "\t\n\r\f\x1b" for char in start):
        return None
    return None if start.count("\ufffd") > len(start) // 2 else text
