"""The same file gives the same vector: alone, in a batch, in another order, on 1 or 2 threads, as WAV or as FLAC."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from biovita.media.audio import write_audio
from biovita.media.image import write_image
from biovita.models import hub
from biovita.models.encoder import Encoder

N = 6
NAMES = ["owl", "Turdus merula", "Common Frog", "Aves Passeriformes Turdidae Turdus Turdus merula", "x", "Rana"]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def loaded(model_folder: Path, request: pytest.FixtureRequest) -> Encoder:
    encoder = hub.load(model_folder, device="cpu", precision=request.param)
    assert isinstance(encoder, Encoder)
    return encoder


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Six different things of each kind; the sounds as WAV."""
    folder = tmp_path_factory.mktemp("things")
    rng = np.random.default_rng(0)
    found: dict[str, list[Any]] = {"audio": [], "image": [], "text": NAMES}
    for n in range(N):
        seconds, rate_hz = [3, 12, 0.5, 10, 25, 1][n], [48_000, 44_100, 22_050, 16_000, 48_000, 96_000][n]
        times = np.arange(int(seconds * rate_hz)) / rate_hz
        wave = 0.5 * np.sin(2 * np.pi * rng.uniform(500, 7_000) * times) + rng.normal(0, 0.01, len(times))
        found["audio"].append(folder / f"{n}.wav")
        write_audio(found["audio"][-1], wave.astype(np.float32), rate_hz)
        picture = np.kron(rng.integers(0, 255, (8, 9, 3)), np.ones((20, 10 + n, 1))).astype(np.uint8)
        found["image"].append(folder / f"{n}.png")
        write_image(found["image"][-1], Image.fromarray(picture))
    return found


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def embed(encoder: Encoder, modality: str, things: list[Any], batch_size: int = N) -> np.ndarray:
    return getattr(encoder, f"embed_{modality}")(things, batch_size=batch_size)


def check_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert (found.astype(np.float64) * wanted).sum(1).min() >= 0.999999
    between = wanted @ wanted.T - 2 * np.eye(len(wanted))
    assert between.max() < 0.99999  # things that do differ, differ


@pytest.fixture(scope="module")
def together(loaded: Encoder, things: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    return {modality: embed(loaded, modality, some) for modality, some in things.items()}


@pytest.mark.parametrize("modality", ["audio", "image", "text"])
class TestEveryTower:
    def test_alone_or_in_a_batch(self, loaded: Any, things: Any, together: Any, modality: str) -> None:
        for size in (1, 2, 4):
            check_same(embed(loaded, modality, things[modality], size), together[modality])
        alone = [embed(loaded, modality, [thing])[0] for thing in things[modality]]
        check_same(np.stack(alone), together[modality])

    def test_in_another_order(self, loaded: Any, things: Any, together: Any, modality: str) -> None:
        order = [3, 0, 5, 1, 4, 2]
        found = embed(loaded, modality, [things[modality][n] for n in order])
        assert np.array_equal(found, together[modality][order])  # the shape of the batch is the same

    def test_again(self, loaded: Any, things: Any, together: Any, modality: str) -> None:
        assert np.array_equal(embed(loaded, modality, things[modality]), together[modality])

    def test_on_two_threads(self, loaded: Any, things: Any, together: Any, modality: str) -> None:
        torch.set_num_threads(2)
        check_same(embed(loaded, modality, things[modality]), together[modality])


def test_as_wav_or_as_flac(loaded: Encoder, things: dict[str, list[Any]], tmp_path: Path) -> None:
    from biovita.media.audio import read_audio

    flacs = []
    for path in things["audio"]:
        flacs.append(tmp_path / f"{path.stem}.flac")
        write_audio(flacs[-1], read_audio(path), 48_000)
    wavs = [tmp_path / f"{path.stem}.wav" for path in flacs]
    for path, flac in zip(wavs, flacs, strict=True):
        write_audio(path, read_audio(flac), 48_000)
    found, wanted = embed(loaded, "audio", flacs), embed(loaded, "audio", wavs)
    assert np.array_equal(found, wanted)  # lossless, and the batch has the same shape
