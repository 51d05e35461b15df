"""A stranger's checkpoint: its tensors come out, its code never runs."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import biovita
from biovita.errors import ModelError
from biovita.models import pickles
from biovita.models.moves import read_tensors
from layouts import write_release

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": {"c": torch.ones(4, dtype=torch.float16), "n": 3, "s": "text"}}


class Touch:
    """What it makes when it is unpickled the careless way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.bin"


def raw(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"a": Touch(marker)}))


def zipped(path: Path, marker: Path) -> None:
    torch.save({"a": torch.ones(2), "b": Touch(marker)}, path)


def legacy(path: Path, marker: Path) -> None:
    torch.save({"b": Touch(marker)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [raw, zipped, legacy])
def test_code_in_a_pickle_would_run_if_it_were_read_carelessly(
    path: Path, tmp_path: Path, write: Callable[[Path, Path], None]
) -> None:
    write(path, tmp_path / "marker")
    if write is raw:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert (tmp_path / "marker").is_dir()  # so the refusals below are about something


@pytest.mark.parametrize("write", [raw, zipped, legacy])
def test_code_in_a_pickle_is_refused_and_does_not_run(
    path: Path, tmp_path: Path, write: Callable[[Path, Path], None]
) -> None:
    write(path, tmp_path / "marker")
    with pytest.raises(ModelError) as error:
        pickles.read_pickle(path)
    said = {zipped: f"a pickle that asks for {os.name}.mkdir, which is code, not weights"}
    assert said.get(write, "not a checkpoint of torch.save") in str(error.value)
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
def test_loading_a_release_with_code_in_it_is_one_line_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOVITA_HOME", str(tmp_path / "home"))
    write_release(tmp_path / "BioVITA")
    zipped(tmp_path / "BioVITA" / "open_clip_pytorch_model.bin", tmp_path / "marker")
    with pytest.raises(ModelError) as error:
        biovita.load(tmp_path / "BioVITA")
    assert str(error.value) == (
        f"{tmp_path}/BioVITA/open_clip_pytorch_model.bin: refused: "
        "a pickle that asks for posix.mkdir, which is code, not weights"
    )
    assert not (tmp_path / "marker").exists()
    assert not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]


@pytest.mark.slow
def test_the_child_writes_what_the_file_holds_and_it_is_read_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(TENSORS, path)
    first = read_tensors(path, tmp_path / "scratch")
    assert first.keys() == {"a", "b.c"}
    assert torch.equal(first["a"], TENSORS["a"])
    assert first["b.c"].dtype == torch.float16
    monkeypatch.setattr("biovita.models.moves.to_safetensors", lambda *_: pytest.fail("read again"))
    assert torch.equal(read_tensors(path, tmp_path / "scratch")["a"], TENSORS["a"])


@pytest.mark.slow
def test_a_child_that_dies_is_a_users_error_and_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TENSORS, path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match=r"weights\.bin: refused: reading it ended with 1"):
        pickles.to_safetensors(path, path.with_suffix(".safetensors"))
    assert [file.name for file in path.parent.iterdir()] == ["weights.bin"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count what torch itself has mapped")
def test_the_child_may_not_take_much_more_memory_than_the_file_has() -> None:
    code = """
import torch
from biovita.models import pickles
pickles._restrict(100)
torch.zeros(1 << 27)
print("512 MB are fine", flush=True)
torch.zeros(1 << 29)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "512 MB are fine\n"
    assert "can't allocate memory" in done.stderr


def test_what_the_child_says_is_one_line_for_the_parent(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save([1, 2], path)
    monkeypatch.setattr(pickles, "_restrict", lambda _: None)  # its limits hold for the life of a process
    assert pickles.main(path, path.with_suffix(".out")) == 2
    assert json.loads(capsys.readouterr().out) == "holds a list, not a dictionary of tensors"
    assert not path.with_suffix(".out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a checkpoint of torch.save"),
        (b"<!DOCTYPE html><html>", r"it begins with b'<!DOCTYP'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS, not the weights"),
        (b"\x80\x04K\x03.", "not a checkpoint of torch.save"),
        (b"PK\x03\x04" + bytes(100), "not a checkpoint of torch.save"),
        (b"PK\x05\x06" + bytes(18), "cannot be read as weights"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        pickles.read_pickle(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_short_is_refused(path: Path, share: float) -> None:
    torch.save({"a": torch.randn(100, 100)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError, match="cut short"):
        pickles.read_pickle(path)


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), "text", None])
def test_anything_but_a_dictionary_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(ModelError, match="not a dictionary of tensors"):
        pickles.read_pickle(path)


def test_a_whole_model_is_code_and_refused(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ModelError, match=r"asks for torch\.nn\.modules\.linear\.Linear, which is code"):
        pickles.read_pickle(path)


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)  # 4 TB, if it were copied
    with pytest.raises(ModelError, match="a claims to be larger than what the file holds of it"):
        pickles.read_pickle(path)


def test_an_archive_that_grows_when_it_is_read_is_refused(path: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 16)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "bomb.bin", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(ModelError, match=r"is compressed, which torch\.save never does"):
        pickles.read_pickle(tmp_path / "bomb.bin")


def test_a_sparse_tensor_is_refused(path: Path) -> None:
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(ModelError, match="a is not a plain dense tensor"):
        pickles.read_pickle(path)


def test_one_name_for_two_tensors_is_refused(path: Path) -> None:
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"holds the name a\.b twice"):
        pickles.read_pickle(path)


def test_views_and_parameters_come_out_whole(path: Path) -> None:
    base = torch.randn(4, 6)
    torch.save({"t": base.T, "rows": base[1:3], "p": torch.nn.Parameter(base)}, path)
    found = pickles.read_pickle(path)
    assert torch.equal(found["t"], base.T)
    assert torch.equal(found["rows"], base[1:3])
    assert found["t"].is_contiguous()
    assert not found["p"].requires_grad


def test_what_we_write_as_a_pickle_reads_back(path: Path) -> None:
    pickles.write_pickle({"x": {"y": torch.randn(3, 3)}}, path)
    assert list(pickles.read_pickle(path)) == ["x.y"]


def test_a_pickle_under_the_name_of_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    zipped(path, tmp_path / "marker")
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read as safetensors"):
        read_tensors(path)
    assert not (tmp_path / "marker").exists()
