"""Model folders: what is missing, wrong or damaged is named; nothing is guessed."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import biovita
from biovita.errors import ModelError
from biovita.files import sha256_file
from biovita.models import hub

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
    loaded = biovita.load(model_folder, device="cpu")
    one, other = encoder.model.state_dict(), loaded.model.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not loaded.model.training
    assert (loaded.embed_text(["owl"]) * encoder.embed_text(["owl"])).sum() >= 1 - 1e-6
    assert loaded.processor.fingerprint() == encoder.processor.fingerprint()
    assert loaded.weights_sha256 == sha256_file(model_folder / "model.safetensors")
    assert (loaded.name, loaded.folder) == (model_folder.name, model_folder)


def test_a_model_may_be_loaded_and_saved_any_number_of_times(model_folder: Path, tmp_path: Path) -> None:
    hub.save(hub.load(model_folder, device="cpu"), tmp_path / "one", card="")
    hub.save(hub.load(tmp_path / "one", device="cpu"), tmp_path / "two", card="")
    assert sha256_file(tmp_path / "one" / "model.safetensors") == sha256_file(model_folder / "model.safetensors")
    for name in hub.FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


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
        hub.load(copy)


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
