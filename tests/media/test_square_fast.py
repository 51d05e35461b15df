"""The fast reader of JPEGs gives Pillow's pixels, and leaves to Pillow what is not plain."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biovita.errors import MediaError
from biovita.media.image import fit_square, read_image, read_jpeg, square_of

WILDLIFE = Path(__file__).parents[3] / "shared" / "data" / "wildlife"


def scene(width_px: int, height_px: int) -> Image.Image:
    """Waves of colour with a hard edge: every pixel differs from its neighbours."""
    y, x = np.mgrid[:height_px, :width_px]
    waves = [127 + 120 * np.sin(x / (5 + c) + y / (9 - c)) for c in range(3)]
    pixels = np.stack(waves, axis=2) + 8 * np.random.default_rng(2).standard_normal((height_px, width_px, 3))
    pixels[y > x] = 255 - pixels[y > x]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (401, 299), (640, 480)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_a_plain_jpeg_has_the_pixels_of_pillow(tmp_path: Path, size: tuple[int, int], options: dict[str, int]) -> None:
    scene(*size).save(tmp_path / "a.jpg", quality=85, **options)
    found = read_jpeg(tmp_path / "a.jpg")
    assert found is not None
    assert (found.dtype, found.shape) == (np.uint8, (size[1], size[0], 3))
    assert np.array_equal(found, read_image(tmp_path / "a.jpg"))


def test_a_jpeg_that_stores_rgb_has_the_pixels_of_pillow(tmp_path: Path) -> None:
    scene(120, 90).save(tmp_path / "a.jpg", keep_rgb=True)
    assert np.array_equal(np.asarray(read_jpeg(tmp_path / "a.jpg")), read_image(tmp_path / "a.jpg"))


def test_what_is_not_plain_is_left_to_pillow(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(60, 40).save(tmp_path / "turned.jpg", exif=exif)
    scene(60, 40).convert("L").save(tmp_path / "grey.jpg")
    scene(60, 40).convert("CMYK").save(tmp_path / "print.jpg")
    scene(60, 40).save(tmp_path / "other.jpg", "PNG")
    (tmp_path / "none.jpg").write_text("<html>")
    scene(600, 400).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:9_000])
    for name in ("turned", "grey", "print", "other", "none", "cut", "gone"):
        assert read_jpeg(tmp_path / f"{name}.jpg") is None, name
    with pytest.raises(MediaError, match=r"corrupt: .*cut\.jpg"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.skipif(not WILDLIFE.is_dir(), reason="the photos of shared/data/wildlife are not here")
def test_real_photos_have_the_pixels_of_pillow() -> None:
    found = {path: read_jpeg(path) for path in sorted(WILDLIFE.rglob("*.jp*g"))[::5]}
    plain = {path: pixels for path, pixels in found.items() if pixels is not None}
    assert len(plain) > 10
    for path, pixels in plain.items():
        assert np.array_equal(pixels, read_image(path))


@pytest.mark.parametrize("size", [(224, 224), (300, 200), (200, 301), (1024, 683), (50, 60)])
def test_the_square_is_the_middle_of_the_whole_resized(size: tuple[int, int]) -> None:
    resized, left, top = square_of(size, 224)
    assert min(resized) == 224
    whole = np.asarray(scene(*size).resize(resized, Image.Resampling.BICUBIC))
    assert np.array_equal(fit_square(scene(*size), 224), whole[top : top + 224, left : left + 224])
    assert abs(left - (resized[0] - 224 - left)) <= 1
    assert abs(top - (resized[1] - 224 - top)) <= 1
