"""Model folders: what is missing, wrong or damaged is named; nothing is guessed."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

import biovita
from biovita.errors import ModelError
from biovita.files import sha256_file
from biovita.models import hub
from layouts import write_open_clip, write_release

KEY = "audio_projection.linear1.weight"


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    """The model folder, to damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_loaded_model_is_the_saved_one_bit_for_bit(encoder: Any, model_folder: Path) -> None:
    loaded = hub.load_encoder(model_folder, device="cpu")
    one, other = encoder.model.state_dict(), loaded.model.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not loaded.model.training
    assert (loaded.embed_text(["owl"]) * encoder.embed_text(["owl"])).sum() >= 1 - 1e-6
    assert loaded.processor.fingerprint() == encoder.processor.fingerprint()
    assert loaded.weights_sha256 == sha256_file(model_folder / "model.safetensors")
    assert (loaded.name, loaded.folder) == (model_folder.name, model_folder)


def test_a_model_may_be_loaded_and_saved_any_number_of_times(model_folder: Path, tmp_path: Path) -> None:
    hub.save(hub.load_encoder(model_folder, device="cpu"), tmp_path / "one", card="")
    hub.save(hub.load(tmp_path / "one", device="cpu"), tmp_path / "two", card="")
    assert sha256_file(tmp_path / "one" / "model.safetensors") == sha256_file(model_folder / "model.safetensors")
    for name in hub.FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_model_made_fast_says_the_same(encoder: Any, model_folder: Path) -> None:
    fast = biovita.load(model_folder, device="cpu")
    wave = np.random.default_rng(1).normal(size=480_000).astype(np.float32) / 10
    np.testing.assert_allclose(fast.embed_audio([(wave, 48_000)]), encoder.embed_audio([(wave, 48_000)]), atol=2e-6)
    assert fast.fingerprint("onset") == encoder.fingerprint("onset")


def test_half_precision_is_said_in_the_fingerprint_and_never_saved(model_folder: Path, tmp_path: Path) -> None:
    half = hub.load(model_folder, device="cpu", precision="bf16")
    assert half.fingerprint("onset").endswith("-bf16")
    vectors = half.embed_text(["owl"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    with pytest.raises(ModelError, match="was loaded in bf16 to embed"):
        hub.save(half, tmp_path / "half", card="")


def test_loading_a_folder_asks_no_server(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **_: asked.append(words) or [])
    hub.load(model_folder, device="cpu").embed_text(["owl"])
    assert asked == []


def test_a_model_folder_holds_no_pickle_and_every_file_that_loading_needs(model_folder: Path) -> None:
    names = {path.name for path in model_folder.iterdir()}
    assert names == {*hub.FILES, "README.md", "labels.csv"}  # a file that saving adds, loading must ask for
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt", ".py"))]


@pytest.mark.parametrize("name", hub.FILES)
def test_each_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}$"):
        hub.load(copy)


def test_several_missing_files_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks config\.json, model\.safetensors, processor_config\.json"):
        hub.load(tmp_path)


@pytest.mark.parametrize("name", [name for name in hub.FILES if name != "tokenizer_config.json"])
def test_each_damaged_file_is_a_users_error(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-40])
    with pytest.raises(ModelError, match="copy"):
        hub.load(copy)


def test_a_model_of_another_kind_is_refused_by_its_type(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    with pytest.raises(ModelError, match=r"config\.json: model_type is 'clip', not 'biovita'"):
        hub.load_encoder(copy)


def test_a_missing_tensor_is_named(copy: Path) -> None:
    edit(copy, lambda tensors: tensors.__delitem__(KEY))
    with pytest.raises(ModelError, match=rf"model\.safetensors: missing keys: {KEY}"):
        hub.load(copy)


def test_an_unexpected_tensor_is_named(copy: Path) -> None:
    edit(copy, lambda tensors: tensors.__setitem__("extra.weight", torch.zeros(3)))
    with pytest.raises(ModelError, match=r"model\.safetensors: unexpected keys: extra\.weight"):
        hub.load(copy)


def test_a_tensor_of_another_shape_is_named(copy: Path) -> None:
    edit(copy, lambda tensors: tensors.__setitem__(KEY, tensors[KEY][:-1].contiguous()))
    with pytest.raises(ModelError, match=rf"model\.safetensors: mismatched keys: .*{KEY}"):
        hub.load(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(copy: Path, value: float) -> None:
    edit(copy, lambda tensors: tensors[KEY].__setitem__((0, 0), value))
    with pytest.raises(ModelError, match=rf"model\.safetensors: {KEY} holds values that are not finite"):
        hub.load(copy)


def test_a_pickle_beside_the_weights_is_never_opened(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    hub.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        hub.load(copy)
    assert not (copy / "opened").exists()


@pytest.mark.parametrize("name", ["nowhere", "/nowhere/at/all", "./a/b", "a/b/c", "~/model"])
def test_a_folder_that_is_not_there_is_no_hub_name(name: str) -> None:
    with pytest.raises(ModelError, match="no such model folder, and not a hub name") as error:
        hub.load(name)
    assert str(error.value).startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["owner/model-that-nobody-has", "bad owner/x"])
def test_a_hub_name_without_a_network_is_a_users_error(name: str) -> None:
    with pytest.raises(ModelError, match="the model hub did not give it") as error:
        hub.load(name)
    assert "\n" not in str(error.value)


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'huge' is neither a model folder nor one of the sizes tiny, small, paper"):
        hub.start("huge", ["owl"], seed=1)  # pyright: ignore[reportArgumentType]


def test_the_vocabulary_of_a_new_model_fits_its_text_tower(encoder: Any) -> None:
    text = encoder.model.config.clip_config.text_config
    tokenizer = encoder.processor.tokenizer
    assert text.vocab_size == len(tokenizer)
    assert encoder.model.clip.text_model.embeddings.token_embedding.num_embeddings == len(tokenizer)
    assert (text.bos_token_id, text.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert np.isfinite(encoder.embed_text(["".join(map(chr, range(32, 2_000)))])).all()


def cached(monkeypatch: pytest.MonkeyPatch, home: Path, name: str) -> Path:
    """Make a snapshot folder in an otherwise empty cache of the hub, as a download leaves it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
    repository = home / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    (repository / "snapshots").mkdir()
    return repository / "snapshots" / ("1" * 40)


def test_a_name_of_the_hub_is_read_from_its_cache(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_folder, cached(monkeypatch, tmp_path, "owner/name"))
    loaded = hub.load("owner/name", device="cpu")
    assert loaded.name == "owner/name"
    assert loaded.weights_sha256 == sha256_file(model_folder / "model.safetensors")


@pytest.mark.slow
def test_the_published_release_is_converted_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "home"))
    write_release(cached(monkeypatch, tmp_path / "hub", "risashinoda/BioVITA"))
    loaded = hub.load("risashinoda/BioVITA", device="cpu")
    assert loaded.name == "risashinoda/BioVITA"
    assert loaded.modalities == ("audio", "image", "text")
    noise = np.random.default_rng(1).normal(size=48_000).astype(np.float32)
    for vectors in (loaded.embed_audio([(noise, 48_000)]), loaded.embed_text(["Turdus merula"])):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert hub.load(loaded.folder or "", device="cpu").weights_sha256 == loaded.weights_sha256


def test_published_towers_without_sound_open_as_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_open_clip(cached(monkeypatch, tmp_path, "imageomics/bioclip-2"))
    loaded = hub.load("imageomics/bioclip-2", device="cpu")
    assert (loaded.name, loaded.modalities) == ("imageomics/bioclip-2", ("image", "text"))
    assert np.isfinite(loaded.embed_text(["owl"])).all()
    with pytest.raises(ModelError, match="image and text towers alone"):
        hub.load_encoder("imageomics/bioclip-2")


def test_pickles_are_fetched_only_where_there_is_no_safetensors(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def give(_: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", give)
    folder = model_folder
    assert hub.find_folder("owner/name") == model_folder
    folder = tmp_path
    assert hub.find_folder("owner/name") == tmp_path
    assert asked[0] == asked[1]
    assert {*asked[2]} - {*asked[1]} == {"open_clip_pytorch_model.bin", "pytorch_model.bin"}
    assert [name for name in asked[0] if name.endswith((".bin", ".pth", ".pt", ".py"))] == ["clap_weights.pth"]


@pytest.mark.parametrize("part", ["model", "processor"])
def test_transformers_own_push_sends_what_its_doors_open(
    encoder: Any, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    sent: dict[str, list[str]] = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(
        HfApi,
        "create_commit",
        lambda _, repo_id, operations, **__: sent.update({repo_id: [one.path_in_repo for one in operations]}),
    )
    getattr(encoder, part).push_to_hub("owner/name")
    wanted = {"model": hub.FILES[:2], "processor": hub.FILES[2:]}[part]
    assert {*sent["owner/name"]} >= {*wanted}
    assert not [name for name in sent["owner/name"] if name.endswith((".bin", ".pth"))]
