"""Our encoders and folders inside MTEB. Needs the extra `mteb`: `pip install 'biovita[mteb]'`."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from biovita.bench.official import open_bench
from biovita.bench.run import score_bench
from biovita.bench.tasks import LEVELS
from biovita.embed.store import read_embeddings
from biovita.media.audio import write_audio

FACTS: Any = {"model": "made up", "weights_sha256": "0" * 64, "preprocess": "none"}
needs_mteb = pytest.mark.skipif(find_spec("mteb") is None, reason="MTEB is not installed: pip install 'biovita[mteb]'")
pytestmark = pytest.mark.peer


@pytest.fixture
def bench(make_official: Callable[..., Path], tmp_path: Path) -> Callable[[int], Path]:
    """Make a random folder in the official layout, with media."""

    def make(seed: int) -> Path:
        folder = make_official(tmp_path / f"bench{seed}", seed, n_items=20, n_queries=5)
        rng = np.random.default_rng(seed)
        for modality in ("audio", "image"):
            (folder / modality).mkdir()
            table = pl.read_csv(folder / f"{modality}_index.csv", infer_schema=False)
            suffix = ".wav" if modality == "audio" else ".png"
            table.with_columns(pl.col("file_path") + suffix).write_csv(folder / f"{modality}_index.csv")
            for path in table["file_path"]:
                if modality == "audio":
                    write_audio(folder / f"{path}.wav", rng.uniform(-0.5, 0.5, 48_000).astype(np.float32), 48_000)
                else:
                    Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(folder / f"{path}.png")
        return folder

    return make


def remember(model: Any, folder: Path, seed: int) -> None:
    """Give every item a vector of few different ones, so that candidates tie."""
    rng = np.random.default_rng(seed)
    some = rng.standard_normal((12, 64)).astype(np.float32)
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    for modality in ("audio", "image", "text"):
        index = pl.read_csv(folder / f"{modality}_index.csv", infer_schema=False)
        items = index["id"] if modality != "text" else pl.concat([index[level] for level in LEVELS]).unique().sort()
        for item in items:
            model.kept[modality, item] = some[rng.integers(len(some))]


@needs_mteb
@pytest.mark.parametrize("seed", range(2))
def test_mteb_and_the_scorer_agree_on_the_same_vectors_ties_and_ragged_pools_included(
    bench: Callable[[int], Path], encoder: Any, tmp_path: Path, seed: int
) -> None:
    from biovita.bench import mteb_bridge as bridge

    folder = bench(seed)
    model = bridge.BioVita(encoder)
    remember(model, folder, seed)
    opened = open_bench(folder)
    theirs = bridge.evaluate(model, bridge.tasks_of(opened), tmp_path / "out")
    bridge.write_kept(model, opened, tmp_path / "vectors", FACTS)
    ours = score_bench(folder, tmp_path / "vectors", out=tmp_path / "r.json", ties="order", missing="zero")
    assert len(theirs) == len(ours["scenarios"]) == 18
    assert bridge.differences(theirs, ours) == []
    against = score_bench(folder, tmp_path / "vectors", out=tmp_path / "a.json", ties="against")
    assert bridge.differences(theirs, against), "there were no ties, so the rule was not tried"


@needs_mteb
def test_the_command_runs_a_model_through_mteb_and_gives_the_vectors_of_bench_embed(
    biovita: Callable[..., Any], bench: Callable[[int], Path], model_folder: Path, tmp_path: Path
) -> None:
    folder = bench(7)
    ran = biovita("--json", "bench", "mteb", model_folder, folder, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert said["unequal"] == []
    assert len(said["mteb"]) == 18
    assert biovita("bench", "embed", folder, "--model", model_folder, "--out", tmp_path / "plain").code == 0
    for modality in ("audio", "image", "text"):
        one = read_embeddings(tmp_path / "out" / "vectors" / f"{modality}.parquet")
        other = read_embeddings(tmp_path / "plain" / f"{modality}.parquet")
        assert one.meta == other.meta
        row = {key: n for n, key in enumerate(zip(other.ids, other.level, strict=True))}
        assert one.ids
        twins = other.embedding[[row[key] for key in zip(one.ids, one.level, strict=True)]]
        np.testing.assert_allclose(one.embedding, twins, atol=1e-5)
    (file,) = (tmp_path / "out" / "results").glob("*/*/BioVITAA2IReranking.json")
    result = json.loads(file.read_text())
    rows = {row["hf_subset"]: row for row in result["scores"]["test"]}
    assert set(rows) == {"unseen_species", "unseen_genus", "unseen_family"}
    assert rows["unseen_genus"]["main_score"] == pytest.approx(said["mteb"]["unseen/genus/a2i"]["top1"], abs=1e-5)
    assert result["dataset_revision"] == open_bench(folder).sha256
    meta = json.loads((file.parent / "model_meta.json").read_text())
    assert meta["name"] == f"biovita/{model_folder.name}"
    assert meta["modalities"] == ["audio", "image", "text"]
    assert meta["n_parameters"] > 100_000


@needs_mteb
def test_a_broken_sound_is_named_and_only_scored_as_zeros_when_asked(
    biovita: Callable[..., Any], bench: Callable[[int], Path], model_folder: Path, tmp_path: Path
) -> None:
    folder = bench(3)
    broken = min((folder / "audio").iterdir())
    broken.write_text("<html>not found</html>")
    words = ("bench", "mteb", model_folder, folder, "--out", tmp_path / "out")
    ran = biovita(*words)
    assert ran.code == 2
    assert f"{broken.name}: html_document" in ran.err
    assert not (tmp_path / "out").exists()
    ran = biovita(*words, "--missing", "zero", "--json")
    assert ran.code == 3
    assert json.loads(ran.out)["unequal"] == []
    ids = read_embeddings(tmp_path / "out" / "vectors" / "audio.parquet").ids
    index = pl.read_csv(folder / "audio_index.csv", infer_schema=False)
    (lost,) = index.filter(file_path=f"audio/{broken.name}")["id"]
    assert lost not in ids
    assert len(ids) == len(index) - 1


@needs_mteb
@pytest.mark.skipif(
    find_spec("torchaudio") is None or find_spec("torchvision") is None,
    reason="MTEB loads a model by its name only where its extras image and audio (torchvision, torchaudio) are",
)
def test_an_encoder_runs_under_a_name_of_its_own_in_a_list_of_models(encoder: Any) -> None:
    from biovita.bench import mteb_bridge as bridge

    meta = bridge.meta_of(encoder).model_copy(
        update={"name": "owner/model", "loader": lambda name, **_: bridge.BioVita(encoder)}
    )
    model = meta.load_model()
    assert model.mteb_model_meta.name == "owner/model"
    assert model.mteb_model_meta.embed_dim == encoder.embed_text(["owl"]).shape[1]


@needs_mteb
def test_stereo_is_mixed_and_several_modalities_are_added(encoder: Any) -> None:
    from biovita.bench import mteb_bridge as bridge

    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4_800)).astype(np.float32)
    model = bridge.BioVita(encoder)
    sound = [{"array": wave, "sampling_rate": 48_000}]
    mono = encoder.embed_audio([(wave.mean(axis=0), 48_000)])
    task: Any = bridge.published.BioVITAA2TReranking.metadata
    where: Any = {"task_metadata": task, "hf_split": "test", "hf_subset": "default"}
    np.testing.assert_array_equal(model.encode([{"audio": sound}], **where), mono)
    both = model.encode([{"audio": sound, "text": ["owl"]}], **where)
    total = mono + encoder.embed_text(["owl"])
    np.testing.assert_allclose(both, total / np.linalg.norm(total), atol=1e-6)


@pytest.mark.skipif(find_spec("mteb") is not None, reason="MTEB is installed")
def test_without_mteb_one_line_says_what_to_install(
    biovita: Callable[..., Any], make_official: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    folder = make_official(tmp_path / "bench", 1)
    ran = biovita("bench", "mteb", model_folder, folder, "--out", tmp_path / "out")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "pip install 'biovita[mteb]'" in ran.err
