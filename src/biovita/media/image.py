"""The only way a picture is read or written: upright, RGB, 8 bit, first frame; Pillow, and libjpeg-turbo beside it.

`open_image` is also how the checker's child opens bytes of strangers; it never decodes by itself.
"""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageChops, UnidentifiedImageError

from biovita.errors import MediaError
from biovita.media.held import Held, as_file

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")  # Pillow's JPEG plugin opens MPO by itself
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # fmt: skip


def read_image(path: Path | Held) -> Image.Image:
    """Read a picture: first frame, turned as its EXIF says, RGB; transparency becomes white.

    Raises:
        MediaError: the file is missing or does not decode.
    """
    try:
        with as_file(path).open("rb") as file, open_image(file) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise MediaError("unsupported_format", f"{path}: not one of {', '.join(FORMATS)}") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise MediaError("unreadable", f"{path}: {error.strerror}") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's plugins raise on broken data
        raise MediaError("corrupt", f"{path}: {error}") from error


def read_jpeg(path: Path) -> np.ndarray | None:
    """Decode a JPEG that is upright and RGB: uint8, shape (height, width, 3), the same pixels as `read_image`.

    None for every other file, also a broken one: `read_image` reads it, or says what is wrong.
    """
    try:
        data = Path(path).read_bytes()
        with open_image(io.BytesIO(data)) as image:
            if image.format != "JPEG" or image.mode != "RGB" or orientation_of(image) != 1:
                return None
        return simplejpeg.decode_jpeg(data)
    except (OSError, SyntaxError, ValueError):
        return None


def open_image(file: BinaryIO) -> Image.Image:
    """Read the header of a picture in one of our formats; pixels are decoded when they are first used."""
    return Image.open(file, formats=FORMATS)


def orientation_of(image: Image.Image) -> int:
    """Read how the EXIF data turn a picture: 1 to 8, or 0 where they say nothing that can be read."""
    if image.format == "PNG":
        image.load()  # they may follow the pixels, whose errors are not theirs
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except SyntaxError:
        return 0
    return orientation if orientation in range(1, 9) else 0


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture upright and into 8-bit RGB, scaling deeper greys by their depth instead of clipping them."""
    image.load()
    is_direct = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
    turn = TURNS.get(orientation_of(image))
    if turn is not None:  # one of them is 0
        image = image.transpose(turn)
    if is_direct:  # Pillow takes every CMYK JPEG for inverted, as Photoshop writes them
        image = ImageChops.invert(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image.alpha_composite(layer)
    return image.convert("RGB")


def write_image(path: Path, image: Image.Image, quality: int = 90) -> None:
    """Write .jpg, .jpeg (with `quality`) or .png; equal input gives equal bytes, and no metadata is kept."""
    image = image.copy()
    image.info.clear()  # Pillow writes a JPEG's comment again by itself
    match Path(path).suffix.lower():
        case ".jpg" | ".jpeg":
            image.save(path, "JPEG", quality=quality)
        case ".png":
            image.save(path, "PNG")
        case suffix:
            raise ValueError(f"{path}: cannot write {suffix or 'a file without a suffix'}; use .jpg or .png")


def fit_square(image: Image.Image, side_px: int) -> np.ndarray:
    """Resize the shorter side to `side_px` (bicubic) and cut the centre: uint8, shape (side_px, side_px, 3).

    Equal to torchvision's Resize and CenterCrop on a Pillow image, which is open_clip's evaluation transform.
    """
    size, left, top = square_of(image.size, side_px)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side_px, top + side_px)))


def square_of(size: tuple[int, int], side_px: int) -> tuple[tuple[int, int], int, int]:
    """Place the square of `fit_square`: size (width, height) to resize to, then where the cut begins, left and top."""
    width, height = (int(side_px * side / min(size)) for side in size)
    return (width, height), round((width - side_px) / 2), round((height - side_px) / 2)


def _to_8_bit(grey: np.ndarray) -> np.ndarray:
    """Scale greys of 16 or 32 bit, or floats, to 0..255: by 16 bit, by 1.0, or by their peak where they exceed that."""
    peak = float(grey.max(initial=0))
    floats = grey.dtype.kind == "f"
    white = 1.0 if floats and peak <= 1 else max(255.0 if floats else 65535.0, peak)
    return np.clip(np.asarray(grey, np.float32) * (255 / white) + 0.5, 0, 255).astype(np.uint8)
