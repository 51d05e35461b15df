"""`biovita data ...` as people call it: exit codes, standard output, standard error."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from biovita import cli
from biovita.data.dataset import Dataset

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def biovita(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["biovita", *map(str, words)])
        code = cli.main()
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_build_verify_and_card(source: Path, tmp_path: Path, biovita: Shell) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = biovita("data", "build", "--manifest", source / "records.tsv", "--out", out, "--seed", 3)
    assert (code, stdout) == (0, "")
    assert "108 files of 12 species (1 withheld), 0 refused" in stderr
    assert json.loads((out / "run.json").read_text())["config"]["seed"] == 3
    assert Dataset.open(out).manifest["run"]["config"]["manifest"] == str(source / "records.tsv")
    code, stdout, stderr = biovita("data", "verify", out, "--json")
    assert code == 0
    assert json.loads(stdout)["counts"]["ok"] == 108
    card = (out / "card.md").read_bytes()
    (out / "card.md").unlink()
    assert biovita("data", "card", out)[0] == 0
    assert (out / "card.md").read_bytes() == card
    assert biovita("data", "verify", out)[0] == 0
    next(out.glob("media/*/*")).unlink()
    code, _, stderr = biovita("data", "verify", out)
    assert code == 2
    assert "missing" in stderr


def test_bad_files_end_in_exit_3_and_are_listed(
    source: Path, tmp_path: Path, biovita: Shell, append: Callable[..., None]
) -> None:
    for i in range(25):
        (source / f"empty{i}.mp3").touch()
        append(f"empty{i}.mp3")
    words = ("data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "out", "--withheld", 2)
    code, stdout, stderr = biovita(*words, "--json")
    assert code == 3
    assert json.loads(stdout) == {
        "dataset": str(tmp_path / "out"), "ok": 108, "quarantined": 25, "reasons": {"empty_file": 25}
    }  # fmt: skip
    assert stderr.count("empty_file: folder:empty") == 20
    assert "and 5 more: 5 empty_file" in stderr
    assert len(Dataset.open(tmp_path / "out").quarantine) == 25


def test_refused_names_are_listed_but_are_no_bad_files(
    source: Path, tmp_path: Path, biovita: Shell, append: Callable[..., None]
) -> None:
    append("0-0.wav", media_id="folder:sp", scientific_name="Avesgena sp.")
    code, _, stderr = biovita("data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "out")
    assert code == 0
    assert "name_unresolved: folder:sp ('Avesgena sp.': not identified to species)" in stderr


def test_check_gives_every_entry_a_line(source: Path, tmp_path: Path, biovita: Shell) -> None:
    (source / "sub").mkdir()
    (source / "sub" / "bad.mp3").write_text("<html>")
    os.mkfifo(source / "sub" / "fifo.wav")
    (source / "sub" / "broken.wav").symlink_to("nowhere")
    (source / "sub" / "folder-link").symlink_to(tmp_path)
    code, stdout, stderr = biovita("data", "check", source, source / "0-0.wav", tmp_path / "gone.wav", "--json")
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert code == 3
    assert len(rows) == 108 + 2 + 4 + 2
    reasons = {Path(row["path"]).name: row["reason"] for row in rows}
    assert reasons["bad.mp3"] == "html_document"
    assert reasons["fifo.wav"] == "not_regular_file"
    assert reasons["broken.wav"] == reasons["folder-link"] == "symlink"
    assert reasons["gone.wav"] == "unreadable"
    assert reasons["0-0.wav"] is None
    keys = {"path", "verdict", "reason", "modality", "duration_s", "sample_rate_hz", "size", "flags", "elapsed_s"}
    assert keys <= set(rows[0])
    code, stdout, stderr = biovita("data", "check", source / "0-0.wav", source / "0-0.png")
    assert code == 0
    assert "0.2 s, 8000 Hz" in stdout
    assert "24 x 20 px" in stdout
    assert "2 ok" in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--license", "gpl"), "--license gpl: unknown; use cc0"),
        (("--withheld", "-1"), "--withheld -1"),
        (("--taxa", "gone.csv"), "gone.csv: no such table"),
        (("--withheld", "11"), "only 9 of 12"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    source: Path, tmp_path: Path, biovita: Shell, words: tuple[str, ...], message: str
) -> None:
    code, stdout, stderr = biovita(
        "data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "o", *words
    )
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert "Traceback" not in stderr


def test_a_table_without_names_beside_it_asks_for_them(source: Path, tmp_path: Path, biovita: Shell) -> None:
    (source / "taxa.parquet").unlink()
    code, _, stderr = biovita("data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "out")
    assert code == 2
    assert "--taxa: name a list of species" in stderr


def test_verify_refuses_a_folder_that_is_no_dataset(tmp_path: Path, biovita: Shell) -> None:
    code, _, stderr = biovita("data", "verify", tmp_path)
    assert code == 2
    assert "no manifest.json" in stderr
