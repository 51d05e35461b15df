"""The towers as ONNX files: the same vectors, whole folders, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biovita.errors import DatasetError, ModelError
from biovita.models import hub
from biovita.models.encoder import Encoder

pytest.importorskip("onnxruntime", reason="the group `export` is not installed")
pytest.importorskip("openvino", reason="the group `export` is not installed")

from biovita.models import export
from biovita.models.export import export_towers, load_exported

NAMES = ["owl", "Turdus merula", "", "Aves Passeriformes Turdidae Turdus Turdus merula"]
TOWERS = ("audio", "image", "text")


@pytest.fixture(scope="module")
def source(lively: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "lively"
    hub.save(lively, folder, card="# lively\n")
    return folder


@pytest.fixture(scope="module")
def towers(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model exported both ways. Do not write in them."""
    folder = tmp_path_factory.mktemp("towers")
    for precision in ("fp32", "int8"):
        export_towers(source, folder / precision, int8=precision == "int8")
    return {precision: folder / precision for precision in ("fp32", "int8")}


@pytest.fixture(scope="module")
def plain(source: Path) -> Encoder:
    return hub.load_encoder(source, device="cpu")


def embed(encoder: Encoder, n: int) -> dict[str, np.ndarray]:
    """Embed n different things of each kind."""
    rng = np.random.default_rng(0)
    times = np.arange(2 * 48_000) / 48_000
    sounds = [np.sin(2 * np.pi * hz * times).astype(np.float32) for hz in rng.uniform(500, 9_000, n)]
    squares = [np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((9, 9, 1))).astype(np.uint8) for _ in range(n)]
    from PIL import Image

    return {
        "audio": encoder.embed_audio([(wave, 48_000) for wave in sounds]),
        "image": encoder.embed_image([Image.fromarray(square) for square in squares]),
        "text": encoder.embed_text(NAMES[:n]),
    }


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("n", [1, 4])
def test_exported_towers_embed_like_the_model(towers: dict[str, Path], plain: Encoder, engine: Any, n: int) -> None:
    encoder = load_exported(towers["fp32"], engine=engine)
    wanted = embed(plain, n)
    for tower, found in embed(encoder, n).items():
        assert found.shape == (n, 768)
        assert np.abs(found - wanted[tower]).max() < 2e-6, tower
    assert (encoder.name, encoder.weights_sha256) == (plain.name, plain.weights_sha256)
    assert encoder.fingerprint("onset") == plain.fingerprint("onset")


def test_int8_towers_are_near_and_say_that_they_are_not_the_same(towers: dict[str, Path], plain: Encoder) -> None:
    encoder = load_exported(towers["int8"])
    wanted = embed(plain, 4)
    for tower, found in embed(encoder, 4).items():
        cosines = (found * wanted[tower]).sum(1)
        assert cosines.min() >= export.LEAST_COSINE["int8"], tower
        assert np.abs(found - wanted[tower]).max() > 1e-5, tower  # it is int8
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert encoder.fingerprint("onset") == f"{plain.fingerprint('onset')}-int8"


def test_int8_is_smaller(towers: dict[str, Path]) -> None:
    for tower in TOWERS:
        fp32, int8 = ((towers[precision] / f"{tower}.onnx").stat().st_size for precision in ("fp32", "int8"))
        assert int8 < 0.75 * fp32  # embeddings of tokens and places stay float32


def test_the_manifest_tells_the_source_and_how_near_it_is(towers: dict[str, Path], plain: Encoder) -> None:
    for precision, folder in towers.items():
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["precision"] == precision
        assert manifest["weights_sha256"] == plain.weights_sha256
        assert set(manifest["least_cosine"]) == set(TOWERS)
        assert min(manifest["least_cosine"].values()) >= export.LEAST_COSINE[precision]
        assert set(manifest["sha256"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}


def test_a_sound_of_another_length_is_refused(towers: dict[str, Path]) -> None:
    model = load_exported(towers["fp32"]).model
    with pytest.raises(Exception, match=r"1000.*1001|1001.*1000"):
        model.audio_vectors(torch.zeros(1, 1000, 64))


@pytest.mark.parametrize("file", ["image.onnx", "tokenizer.json"])
def test_damage_is_refused(towers: dict[str, Path], tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(towers["int8"], tmp_path / "towers")
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{file}: changed since manifest.json was written"):
        load_exported(folder)
    (folder / file).unlink()
    with pytest.raises(DatasetError, match=rf"{file}: missing"):
        load_exported(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="never finished"):
        load_exported(folder)


def test_another_kind_of_folder_is_refused(made_up: Path) -> None:
    with pytest.raises(ModelError, match="no exported towers of this version"):
        load_exported(made_up)


def test_what_openvino_does_slower_is_refused(towers: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="int8 towers, which OpenVINO runs slower"):
        load_exported(towers["int8"], engine="openvino")
    with pytest.raises(ModelError, match="engine 'tensorrt': unknown; it is one of onnxruntime, openvino"):
        load_exported(towers["fp32"], engine="tensorrt")  # pyright: ignore[reportArgumentType]


def test_a_folder_that_exists_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists; remove it"):
        export_towers(source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_tower_that_is_too_far_off_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.LEAST_COSINE, "fp32", 1.1)
    with pytest.raises(ModelError, match=r"audio in fp32 has cosine 1.0+ to the model itself, less than 1.1"):
        export_towers(source, tmp_path / "towers")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_folder_that_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from biovita.commands.model_export import Export, run_export

    asked: list[tuple[str, Path, bool]] = []

    def write(name: str, out: Path, *, int8: bool) -> dict[str, float]:
        asked.append((name, out, int8))
        out.mkdir()
        return {"audio": 0.9999, "image": 0.9998, "text": 0.9997}

    monkeypatch.setattr(export, "export_towers", write)
    run_export(Export(model="some/model", out=tmp_path / "towers", to="onnx-int8"))
    assert asked == [("some/model", tmp_path / "towers", True)]
    assert "audio 0.999900, image 0.999800, text 0.999700" in capsys.readouterr().err
    assert json.loads((tmp_path / "towers" / "run.json").read_text())["config"]["to"] == "onnx-int8"
