"""`biovita model convert` and `push`, as typed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from biovita.models import hub, moves
from biovita.models.pickles import read_pickle
from layouts import WIDTH, open_clip_tensors, write_clap, write_open_clip, write_release

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open pickles without a child, which costs seconds; tests/models/test_pickles.py has children."""

    def here(source: Path, out: Path) -> None:
        save_file(read_pickle(source), out)

    monkeypatch.setattr(moves, "to_safetensors", here)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_release_becomes_a_model_folder_and_a_release_again(biovita: Callable[..., Any], tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    write_clap(tmp_path / "clap")
    ran = biovita("model", "convert", tmp_path / "release", "--out", tmp_path / "ours", "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert said["n_left_out"] > 20
    assert "tensors of CLAP's text tower left out" in ran.err
    assert json.loads((tmp_path / "ours" / "run.json").read_text())["n_left_out"] == said["n_left_out"]
    assert "Converted from" in (tmp_path / "ours" / "README.md").read_text()
    (tmp_path / "ours" / "labels.csv").write_text("species\nRana temporaria\n")
    line = ("--out", tmp_path / "back", "--to", "official", "--clap", tmp_path / "clap")
    assert biovita("model", "convert", tmp_path / "ours", *line).code == 0
    assert biovita("model", "convert", tmp_path / "back", "--out", tmp_path / "again").code == 0
    assert same(weights(tmp_path / "again"), weights(tmp_path / "ours"))
    assert (tmp_path / "again" / "labels.csv").read_text() == "species\nRana temporaria\n"  # it goes along
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_checkpoint_and_the_towers_it_started_from_become_a_model_folder(
    biovita: Callable[..., Any], tmp_path: Path
) -> None:
    release = write_release(tmp_path / "release")
    torch.save(release.checkpoint(), tmp_path / "epoch010.pth")
    line = ("model", "convert", tmp_path / "epoch010.pth", "--out", tmp_path / "ours")
    ran = biovita(*line)
    assert ran.code == 2
    assert "a checkpoint says no sizes; name the towers that it started from with --clip" in ran.err
    assert not (tmp_path / "ours").exists()
    assert biovita(*line, "--clip", tmp_path / "release", "--clap", tmp_path / "release").code == 0
    assert float(weights(tmp_path / "ours")["logit_scale"]) == 1.25


def test_published_towers_and_clap_become_the_start_of_stage_1(biovita: Callable[..., Any], tmp_path: Path) -> None:
    clip = write_open_clip(tmp_path / "bioclip-2")
    write_clap(tmp_path / "clap", projection_dim=WIDTH)
    line = ("model", "convert", tmp_path / "bioclip-2", "--out", tmp_path / "start")
    ran = biovita(*line)
    assert ran.code == 2
    assert "holds image and text towers only; name an audio tower with --clap" in ran.err
    assert biovita(*line, "--clap", tmp_path / "clap").code == 0
    assert hub.load_encoder(tmp_path / "start", device="cpu").model.config.audio_projection == "direct"
    out = ("--out", tmp_path / "towers", "--to", "open_clip")
    ran = biovita("model", "convert", tmp_path / "start", *out)
    assert "open_clip has no place for the audio tower" in ran.err
    assert same(load_file(tmp_path / "towers" / "open_clip_model.safetensors"), open_clip_tensors(clip))


def test_a_flag_that_does_not_belong_is_refused_not_ignored(biovita: Callable[..., Any], tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    line = ("model", "convert", tmp_path / "release", "--out", tmp_path / "out")
    assert "--clip belongs to a checkpoint file" in biovita(*line, "--clip", tmp_path / "release").err
    ran = biovita(*line, "--to", "official")
    assert (ran.code, ran.out) == (2, "")
    assert "name CLAP's folder with --clap" in ran.err


def test_a_folder_that_exists_is_never_written_over(biovita: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ran = biovita("model", "convert", "anything", "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (2, f"biovita: {tmp_path}/out: exists; remove it, or choose another --out\n")


def test_a_refused_source_leaves_nothing_behind(biovita: Callable[..., Any], tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    (tmp_path / "release" / "clap_weights.pth").write_bytes(b"<html>")
    ran = biovita("model", "convert", tmp_path / "release", "--out", tmp_path / "out")
    assert ran.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A hub that takes everything, and what it was asked."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def create_repo(_: HfApi, name: str, **how: Any) -> str:
        asked.append((name, how))
        return f"hub/{name}"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **how: asked.append((how.pop("repo_id"), how)))
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "get_token", lambda: "a token")
    return asked


@pytest.fixture
def folder(encoder: Any, tmp_path: Path) -> Path:
    """A model folder of our own, with a file that nobody asked for."""
    hub.save(encoder, tmp_path / "model", card="# model\n")
    (tmp_path / "model" / "notes.txt").write_text("private")
    return tmp_path / "model"


def test_a_whole_folder_is_pushed_with_what_belongs_to_it(
    biovita: Callable[..., Any], folder: Path, pushed: list[tuple[str, dict[str, Any]]]
) -> None:
    ran = biovita("model", "push", folder, "owner/name", "--private", "True", "--json")
    assert (ran.code, json.loads(ran.out)["url"]) == (0, "hub/owner/name")
    (made, how), (name, what) = pushed
    assert (made, name, how) == ("owner/name", "owner/name", {"private": True, "exist_ok": True})
    assert what["folder_path"] == folder
    assert not [pattern for pattern in what["allow_patterns"] if Path("notes.txt").match(pattern)]
    for file in (*hub.FILES, "README.md", "labels.csv", "train_log.jsonl"):
        assert [pattern for pattern in what["allow_patterns"] if Path(file).match(pattern)], file


def nan(folder: Path) -> None:
    tensors = weights(folder)
    tensors["audio_projection.linear1.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (nan, "holds values that are not finite"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: (folder / "README.md").unlink(), "lacks README.md; a published model has a card"),
        (shutil.rmtree, "no such model folder"),
    ],
)
def test_a_folder_that_does_not_verify_is_not_pushed(
    biovita: Callable[..., Any],
    folder: Path,
    pushed: list[tuple[str, dict[str, Any]]],
    damage: Callable[[Path], None],
    said: str,
) -> None:
    damage(folder)
    ran = biovita("model", "push", folder, "owner/name")
    assert ran.code == 2
    assert said in ran.err
    assert pushed == []


def test_nothing_is_pushed_offline_or_without_a_token(
    biovita: Callable[..., Any], folder: Path, pushed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    assert "no token of the model hub; set HF_TOKEN" in biovita("model", "push", folder, "owner/name").err
    monkeypatch.setattr(hub, "is_offline_mode", lambda: True)
    ran = biovita("model", "push", folder, "owner/name", "--offline")
    assert (ran.code, ran.err) == (
        2,
        "biovita: owner/name: --offline forbids to ask the model hub; leave it out to push\n",
    )
    assert pushed == []


def test_what_the_hub_refuses_is_one_line(
    biovita: Callable[..., Any], folder: Path, pushed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("403 Forbidden\nlong advice")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    ran = biovita("model", "push", folder, "owner/name")
    assert (ran.code, ran.err) == (2, "biovita: owner/name: the model hub refused it: 403 Forbidden\n")
    assert pushed == []
