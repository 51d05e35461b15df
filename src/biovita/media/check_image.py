"""Is this a usable picture? Judged on the header first, then on every pixel; runs in the checker's child."""

import os
import struct
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from biovita.errors import MediaError
from biovita.media.check import Look
from biovita.media.fingerprint import image_print
from biovita.media.image import open_image, orientation_of, to_rgb

PRINT_PX = 256  # pictures are shrunk to this before they are looked at as a whole
FLAT = 2  # grey levels; a picture that varies less is blank
TAIL_BYTES = 4096

SUFFIX = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif", "BMP": ".bmp",
          "AVIF": ".avif"}  # fmt: skip
END = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
SAYINGS = {  # of Pillow
    "truncated": "truncated",
    "Truncated": "truncated",
    "Decompressed data too large": "metadata_bomb",
    "Too much memory used in text chunks": "metadata_bomb",
}
GPS = 0x8825  # the EXIF tag of a place


def judge_image(file: BinaryIO, look: Look) -> None:
    """Note size, suffix, flags and fingerprint.

    Raises:
        MediaError: the picture is refused.
    """
    try:
        with open_image(file) as image:
            _judge_header(image, look)
            deep = image.mode.startswith(("I", "F"))  # Pillow cannot reduce these quickly first
            image.thumbnail((PRINT_PX, PRINT_PX), reducing_gap=None if deep else 2.0)
            small = to_rgb(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise MediaError("too_many_pixels", str(error)) from error
    except MemoryError as error:
        raise MediaError("too_many_pixels", f"more than {look.limits.memory_bytes:,} bytes of memory") from error
    except UnidentifiedImageError as error:
        raise MediaError("bad_header", "no picture can be read from its header") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:  # what Pillow raises on broken data
        text = str(error)
        reason = next((reason for words, reason in SAYINGS.items() if words in text), "corrupt")
        raise MediaError(reason, text[:200]) from error
    if max(map(_spread, small.split())) <= FLAT:
        raise MediaError("blank", "one flat colour")
    look.note(fingerprint=image_print(small))
    if end := END.get(look.facts["suffix"]):
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        if not file.read().rstrip(b"\0").endswith(end):
            look.flags.add("trailing_garbage")


def _judge_header(image: Image.Image, look: Look) -> None:
    limits, (width, height) = look.limits, image.size
    look.note(size=(width, height), suffix=SUFFIX[image.format or ""])
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        raise MediaError("too_many_pixels", f"{width} x {height}")
    if min(width, height) < limits.min_side_px:
        raise MediaError("too_small", f"{width} x {height}")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise MediaError("bad_aspect", f"{width} x {height}")
    orientation = orientation_of(image)  # only now: of a PNG it decodes every pixel
    if orientation > 1:
        look.flags.add("exif_rotated")
    if orientation > 4 and image.format != "TIFF":  # of which Pillow gives the turned size
        look.note(size=(height, width))
    if not orientation:
        look.flags.add("bad_exif")
    elif image.getexif().get_ifd(GPS):
        look.flags.add("gps_present")
    if image.has_transparency_data:
        look.flags.add("alpha")
    if getattr(image, "n_frames", 1) > 1:
        look.flags.add("multipage" if image.format in ("TIFF", "MPO") else "animated")


def _spread(band: Image.Image) -> int:
    grey = [level for level, n in enumerate(band.histogram()) if n]
    return grey[-1] - grey[0]
