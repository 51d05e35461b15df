"""`biovita data ...` as people call it: exit codes, standard output, standard error."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from biovita import cli
from biovita.data.dataset import Dataset
from biovita.data.shards import Shards

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


def test_a_card_is_not_written_over_changed_tables(source: Path, tmp_path: Path, biovita: Shell) -> None:
    out = tmp_path / "out"
    assert biovita("data", "build", "--manifest", source / "records.tsv", "--out", out)[0] == 0
    Dataset.open(out).media.head(9).write_parquet(out / "media.parquet")
    manifest = (out / "manifest.json").read_bytes()
    code, _, stderr = biovita("data", "card", out)
    assert code == 2
    assert "media.parquet: changed since manifest.json was written" in stderr
    assert (out / "manifest.json").read_bytes() == manifest
    assert biovita("data", "verify", out)[0] == 2


def test_broken_laws_are_machine_readable(source: Path, tmp_path: Path, biovita: Shell) -> None:
    out = tmp_path / "out"
    assert biovita("data", "build", "--manifest", source / "records.tsv", "--out", out)[0] == 0
    (out / "media" / "stray.wav").touch()
    code, stdout, stderr = biovita("data", "verify", out, "--json")
    assert code == 2
    assert json.loads(stdout)["problems"] == ["media/stray.wav: not named by media.parquet"]
    assert "1 broken laws" in stderr


def test_names_of_folders_are_no_patterns(source: Path, tmp_path: Path, biovita: Shell) -> None:
    home = tmp_path / "a[1]*?"
    shutil.copytree(source, home / "in")
    pl.read_parquet(source / "taxa.parquet").write_csv(home / "in" / "taxa.csv")
    (home / "in" / "tables").mkdir()
    columns = "Genus,Species,Order,Family,Fos,Ter,Aqu,Arb,Leaves,Flowers,Seeds,Fruits,Arthro,Vert,Diu,Noc,Crepu"
    (home / "in" / "tables" / "AmphiBIO_v1.csv").write_text(f"{columns},Wet_warm,Wet_cold,Dry_warm,Dry_cold\n")
    (home / "in" / "selections").mkdir()
    shutil.copy(source / "0-0.wav", home / "in" / "selections" / "a.wav")
    (home / "in" / "selections" / "a.txt").write_text("Begin Time (s)\tEnd Time (s)\tSpecies\n0\t1\tAvesgena speca\n")
    out = home / "out"
    words = ("--taxa", home / "in" / "taxa.csv", "--traits", home / "in" / "tables", "--files-licence", "CC0")
    files = ("--manifest", home / "in" / "records.tsv", "--sources", f"files:{home / 'in' / 'selections'}")
    assert biovita("data", "build", *files, *words, "--out", out)[0] == 0
    assert len(Dataset.open(out).names) == 12
    for more in (
        ("verify", out),
        ("card", out),
        ("shard", out, "--out", home / "shards"),
        ("export", out, "--to", "hub-parquet", "--out", home / "hub"),
        ("records", f"files:{home / 'in' / 'records.tsv'}", "--out", home / "records.parquet"),
        ("records", f"records:{home / 'records.parquet'}", "--out", home / "again.parquet"),
    ):
        assert biovita("data", *more)[0] == 0, more
    shards = Shards.open(home / "shards")
    assert (len(shards.media), len(shards.taxa)) == (108, 12)


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
        (
            ("--shard", "1/2", "--engine", "ray"),
            "--shard 1/2: a part is checked on this machine; leave out --engine ray",
        ),
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


def test_a_part_is_not_taken_into_a_folder_of_something_else(source: Path, tmp_path: Path, biovita: Shell) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("one")
    words = ("data", "build", "--manifest", source / "records.tsv", "--shard", "1/2", "--out")
    code, _, stderr = biovita(*words, other)
    assert code == 2
    assert "thesis: not empty and not a dataset of ours" in stderr
    assert [path.name for path in other.iterdir()] == ["chapter.txt"]
    assert biovita(*words, tmp_path / "new")[0] == 0
    assert biovita(*words, tmp_path / "new")[0] == 0


def test_sources_without_a_record_are_said_and_leave_no_folder(source: Path, tmp_path: Path, biovita: Shell) -> None:
    (tmp_path / "tree" / "Amsel").mkdir(parents=True)
    (tmp_path / "tree" / "Amsel" / "a.wav").touch()
    words = ("--sources", f"files:{tmp_path / 'tree'}", "--files-licence", "CC0", "--taxa", source / "taxa.parquet")
    code, _, stderr = biovita("data", "build", *words, "--out", tmp_path / "out")
    assert code == 2
    assert "files in no species folder: 1" in stderr
    assert "out: the sources hold no record to build from; what was met instead is counted above" in stderr
    assert not (tmp_path / "out").exists()


def test_a_path_that_is_not_within_the_folder_is_refused_for_what_it_is(
    source: Path, tmp_path: Path, biovita: Shell, append: Callable[..., None]
) -> None:
    append(f"{source}/0-0.wav", media_id="folder:root")
    append("../x.wav", media_id="folder:above")
    append("", media_id="folder:none")
    code, _, stderr = biovita("data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "out")
    assert code == 3
    assert "folder:root" in stderr
    assert "starts at the root; write it relative to its table" in stderr
    assert "folder:above (../x.wav: leaves the folder of its table)" in stderr
    assert "folder:none (it has neither a path nor a URL)" in stderr


def test_a_build_says_what_became_of_the_rows_of_trait_tables(source: Path, tmp_path: Path, biovita: Shell) -> None:
    columns = (
        "id,Order,Family,Genus,Species,Fos,Ter,Aqu,Arb,Leaves,Flowers,Seeds,Fruits,Arthro,Vert,Diu,Noc,Crepu,Wet_warm"
    )
    blanks = "," * (columns.count(",") - 4)
    rows = ("1,Anura,Ranidae,Rana,Rana nowhere", "2,Anura,Ranidae,Rana,Rana sp.")
    (tmp_path / "traits").mkdir()
    lines = [f"{columns},Wet_cold,Dry_warm,Dry_cold,Body_mass_g,OBS", *(f"{row}{blanks},,,,," for row in rows)]
    (tmp_path / "traits" / "AmphiBIO_v1.csv").write_text("\n".join(lines) + "\n")
    words = ("--manifest", source / "records.tsv", "--traits", tmp_path / "traits", "--out", tmp_path / "out")
    code, _, stderr = biovita("data", "build", *words)
    assert code == 0
    assert "amphibio: 2 rows; 0 names that the lists accept" in stderr
    assert "1 of no species in the lists, 1 rows without a species" in stderr


def test_a_table_without_names_beside_it_asks_for_them(source: Path, tmp_path: Path, biovita: Shell) -> None:
    (source / "taxa.parquet").unlink()
    code, _, stderr = biovita("data", "build", "--manifest", source / "records.tsv", "--out", tmp_path / "out")
    assert code == 2
    assert "--taxa: name a list of species" in stderr


def test_verify_refuses_a_folder_that_is_no_dataset(tmp_path: Path, biovita: Shell) -> None:
    code, _, stderr = biovita("data", "verify", tmp_path)
    assert code == 2
    assert "no manifest.json" in stderr
