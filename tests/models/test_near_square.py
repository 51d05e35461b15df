"""The fast square is the exact one but for a step of 1/255 here and there; what is no plain JPEG is exact."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from biovita.errors import MediaError
from biovita.media.image import fit_square, read_image, write_image
from biovita.models.square import near_square

WILDLIFE = Path(__file__).parents[3] / "shared" / "data" / "wildlife"


def steps_off(path: Path, side_px: int) -> np.ndarray:
    exact = fit_square(read_image(path), side_px).astype(int)
    found = near_square(path, side_px)
    assert (found.dtype, found.shape) == (np.uint8, (side_px, side_px, 3))
    return np.abs(found - exact)


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (224, 224), (100, 80)])
def test_a_jpeg_is_within_a_step_of_the_exact_square(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    off = steps_off(tmp_path / "a.jpg", 224)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


@pytest.mark.skipif(not WILDLIFE.is_dir(), reason="the photos of shared/data/wildlife are not here")
def test_real_photos_are_within_two_steps_and_hardly_ever_off() -> None:
    paths = sorted(WILDLIFE.rglob("*.jp*g"))[::4]
    assert paths
    off = np.concatenate([steps_off(path, 224).ravel() for path in paths])
    assert off.max() <= 2
    assert (off > 0).mean() < 0.01
    assert (off > 1).mean() < 1e-6


def test_other_pictures_take_the_exact_path(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (240, 320, 3), dtype=np.uint8))
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "a.png")
    for name in ("turned.jpg", "a.png"):
        assert not steps_off(tmp_path / name, 64).any()
    (tmp_path / "b.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:5_000])
    with pytest.raises(MediaError, match=r"corrupt: .*b\.jpg"):
        near_square(tmp_path / "b.jpg", 64)


def test_an_encoder_reads_so_only_when_asked_and_its_vectors_join_with_no_others(encoder: Any, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    rng = np.random.default_rng(1)
    write_image(path, Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8)))
    near = replace(encoder, near_pictures=True)
    side = encoder.processor.image_processor.crop_size["height"]
    assert np.array_equal(near.square(path), near_square(path, side))
    assert np.array_equal(encoder.square(path), fit_square(read_image(path), side))
    assert near.fingerprint("onset") != encoder.fingerprint("onset")
