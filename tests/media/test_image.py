"""Every kind of picture comes back upright, in 8-bit RGB and with the colours it has."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biovita.errors import MediaError
from biovita.media.image import read_image, write_image


def quarters(width_px: int = 64, height_px: int = 32) -> Image.Image:
    """Four flat colours, so that a turn or a swap of channels shows."""
    pixels = np.zeros((height_px, width_px, 3), np.uint8)
    pixels[: height_px // 2, : width_px // 2] = 200, 30, 30
    pixels[: height_px // 2, width_px // 2 :] = 30, 200, 30
    pixels[height_px // 2 :, : width_px // 2] = 30, 30, 200
    return Image.fromarray(pixels)


def test_png_round_trips_and_jpeg_comes_close(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", quarters())
    assert np.array_equal(read_image(tmp_path / "a.png"), quarters())
    write_image(tmp_path / "a.jpg", quarters(), quality=95)
    write_image(tmp_path / "b.jpeg", quarters(), quality=95)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpeg").read_bytes()
    assert np.abs(np.asarray(read_image(tmp_path / "a.jpg"), int) - np.asarray(quarters(), int)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_eight_orientations_give_one_picture(tmp_path: Path, orientation: int) -> None:
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = quarters().transpose(stored[orientation]) if orientation > 1 else quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), quarters())


def test_deep_greys_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(ramp).save(tmp_path / "float.tif")
    for name in ("deep.png", "float.tif"):
        grey = np.asarray(read_image(tmp_path / name))
        assert grey.shape == (32, 32, 3)
        assert np.abs(grey[..., 0] - ramp * 255).max() <= 1


def test_transparency_becomes_white_and_cmyk_keeps_its_colour(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((5, 5)) == (255, 255, 255)
    Image.new("RGB", (20, 20), (200, 30, 30)).convert("CMYK").save(tmp_path / "print.jpg")
    mean = np.asarray(read_image(tmp_path / "print.jpg")).mean(axis=(0, 1))
    assert np.abs(mean - (200, 30, 30)).max() < 5
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "moving.gif").getpixel((5, 5)) == (255, 0, 0)


def test_what_is_no_picture_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="unreadable"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "a.jpg").write_text("<html>")
    with pytest.raises(MediaError, match="unsupported_format"):
        read_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg", quarters(640, 480))
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:900])
    with pytest.raises(MediaError, match="corrupt"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match=r"\.gif"):
        write_image(tmp_path / "a.gif", quarters())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_comments_and_texts_of_a_picture_are_not_written_again(tmp_path: Path, suffix: str) -> None:
    source = Image.new("RGB", (20, 20), "teal")
    source.save(tmp_path / "told.jpg", comment=b"at 54.1 N 9.2 E")
    told = Image.open(tmp_path / "told.jpg")
    assert told.info["comment"] == b"at 54.1 N 9.2 E"
    write_image(tmp_path / f"out{suffix}", told)
    assert b"54.1" not in (tmp_path / f"out{suffix}").read_bytes()
    assert told.info["comment"], "the picture itself was changed"
