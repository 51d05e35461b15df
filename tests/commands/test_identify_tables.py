"""`biovita identify --out`: lists of files, tables, one animal from several files, and runs that were killed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import soundfile

from biovita.commands.identify import listed_files
from biovita.identify import journal
from biovita.identify.answer import Identifier
from biovita.identify.files import OWN_FILES, How, identify_file
from biovita.identify.labels import read_labels
from biovita.media.check import check_files
from biovita.media.held import Held
from biovita.media.window import windows
from biovita.models import encoder as pipeline
from biovita.models import hub
from biovita.models.encoder import Encoder

BLOCK = 8  # vectors in a block, here


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", BLOCK)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # one checker's child is enough


@pytest.fixture(scope="module")
def folder(media: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, a short call, two recordings of many windows, and a web page; do not write in it."""
    folder = tmp_path_factory.mktemp("field")
    (folder / "site").mkdir()
    shutil.copy(media["image"][0], folder / "a.jpg")
    shutil.copy(media["audio"][0], folder / f"b{media['audio'][0].suffix}")
    rng = np.random.default_rng(2)
    soundfile.write(folder / "c.flac", rng.normal(0, 0.1, 16_000 * 63), 16_000)
    soundfile.write(folder / "site" / "d.mp3", rng.normal(0, 0.1, 22_050 * 47), 22_050)
    shutil.copy(media["image"][1], folder / "site" / "e.jpg")
    (folder / "site" / "f.wav").write_text("<!doctype html><html>404</html>")
    return folder


@pytest.fixture
def identify(biovita: Callable[..., Any], model_folder: Path) -> Callable[..., Any]:
    def run(*words: object) -> Any:
        return biovita("identify", *words, "--model", model_folder, "--quiet")

    return run


def predictions(path: Path) -> list[dict[str, Any]]:
    rows = pandas.read_csv(path, keep_default_na=False).to_dict("records")
    return [{str(column): cell for column, cell in row.items()} for row in rows]


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def content(out: Path) -> dict[str, bytes]:
    """All files of an output but the time of the run and the words typed, which name the output itself."""
    return {
        path.relative_to(out).as_posix(): b"\n".join(
            line for line in path.read_bytes().split(b"\n") if b'"began"' not in line
        )
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_folders_patterns_and_lists_name_the_same_files(
    identify: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = sorted(str(path) for path in folder.rglob("*.*"))
    assert [str(file) for file, _ in listed_files([folder], None)] == everything
    assert [str(file) for file, _ in listed_files([folder / "**" / "*.*"], None)] == everything
    for separator in ("\n", "\0", "\r\n"):
        text = separator.join(everything) + separator
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(text))))
        assert [str(file) for file, _ in listed_files([Path("-")], None)] == everything
    ran = identify(folder, "--json")
    assert ran.code == 3
    assert [row["path"] for row in objects(ran.out)] == everything


def test_a_file_named_twice_is_identified_once(identify: Callable[..., Any], folder: Path) -> None:
    assert len(objects(identify(folder / "a.jpg", folder / "*.jpg", folder / "a.jpg", "--json").out)) == 1


def test_names_that_are_no_utf8_or_hold_a_line_break_are_identified(
    identify: Callable[..., Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [b"-dash.jpg", b"new\nline.jpg", b"\xff\xfe.jpg", b"=1+1.jpg", b" .jpg", "\u00e9\u202e.jpg".encode()]
    for name in names:
        shutil.copy(folder / "a.jpg", tmp_path / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\0".join(names))))
    ran = identify("-", "--json")
    assert ran.code == 0
    assert [os.fsencode(row["path"]) for row in objects(ran.out)] == names
    shown = identify(*(tmp_path / os.fsdecode(name) for name in names))
    assert shown.code == 0
    assert len([line for line in shown.out.splitlines() if line.endswith("(image)")]) == len(names)
    assert identify(".", "--out", tmp_path / "out.csv").code == 0
    table = predictions(tmp_path / "out.csv")
    assert len(table) == len(names)
    assert {"./-dash.jpg", "new\nline.jpg", "\\xff\\xfe.jpg", "./=1+1.jpg"} <= {row["path"] for row in table}


def test_a_long_recording_is_heard_window_by_window(
    identify: Callable[..., Any], encoder: Encoder, model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    """Against a plain loop: each window embedded alone, its first species, equal neighbours joined."""
    identify(folder / "c.flac", "--hop", 7, "--out", tmp_path / "out")
    wave, rate_hz = soundfile.read(folder / "c.flac", dtype="float32")
    identifier = Identifier(hub.load(str(model_folder)), read_labels(hub.load(str(model_folder))))
    expected: list[list[Any]] = []
    for start_s, end_s in windows(63.0, 7.0):
        clip = wave[round(start_s * rate_hz) : round(end_s * rate_hz)]
        vector = encoder.embed_audio([(clip, rate_hz)], window="windows")
        best = identifier.answers(vector, "audio", k=1)[0].taxa[0]
        same = [row for row in expected if row[2] == best.name and row[1] >= start_s]
        if same:
            same[0][1], same[0][3] = end_s, max(same[0][3], best.score)
        else:
            expected.append([start_s, end_s, best.name, best.score])
    found = predictions(tmp_path / "out" / "predictions.csv")
    assert [(row["start_s"], row["end_s"], row["name"]) for row in found] == [tuple(row[:3]) for row in expected]
    assert [row["score"] for row in found] == pytest.approx([row[3] for row in expected], abs=2e-3)  # edges of windows


def test_one_file_alone_and_among_others_has_the_same_answer(
    identify: Callable[..., Any], model_folder: Path, folder: Path
) -> None:
    loaded = hub.load(str(model_folder))
    identifier = Identifier(loaded, read_labels(loaded))
    rows = {row["path"]: row for row in objects(identify(folder, "--hop", 5, "--json").out)}
    for name, modality in (("c.flac", "audio"), ("site/d.mp3", "audio"), ("a.jpg", "image")):
        path = folder / name
        row = rows[str(path)]
        for given in (path, Held(path.name, path.read_bytes())):
            found = identify_file(identifier, given, modality, how=How(hop_s=5.0))
            assert [one.name for one in found.whole.taxa] == [taxon["name"] for taxon in row["taxa"]]
            assert [(one.start_s, one.end_s, one.named.name) for one in found.detections] == [
                (one["start_s"], one["end_s"], one["name"]) for one in row["detections"]
            ]
            assert len(found.windows) == (0 if modality == "image" else len(windows(found.duration_s or 0, 5.0)))
            assert found.vector is not None
            assert abs(float(np.linalg.norm(found.vector)) - 1) < 1e-6


def test_bad_files_are_listed_and_the_others_are_written(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    ran = identify(folder, "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (3, "")
    assert f"{folder / 'site' / 'f.wav'}: not identified: html_document" in ran.err
    assert predictions(tmp_path / "out" / "refused.csv") == [
        {"path": str(folder / "site" / "f.wav"), "reason": "html_document", "detail": "a web page"}
    ]
    table = predictions(tmp_path / "out" / "predictions.csv")
    assert {row["path"] for row in table} == {str(path) for path in folder.rglob("*.*")} - {
        str(folder / "site" / "f.wav")
    }
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["n_files"], run["n_refused"], run["n_named"]) == (5, 1, len(table))
    assert run["schema"] == "biovita.predictions.v1"
    assert len(run["weights_sha256"]) == len(run["labels"]) == 64


def test_a_score_that_nothing_reaches_leaves_empty_tables_and_says_so(
    biovita: Callable[..., Any], model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    words = [folder / "c.flac", "--model", model_folder, "--min-score", 0.9999]
    ran = biovita("identify", *words, "--out", tmp_path / "out", "--format", "csv", "raven")
    assert ran.code == 0
    assert "nothing was named in 1 files" in ran.err
    assert predictions(tmp_path / "out" / "predictions.csv") == []
    assert len((tmp_path / "out/raven/c.flac.selections.txt").read_text().splitlines()) == 1
    assert "no taxon reaches --min-score" in biovita("identify", *words).out


def test_min_score_names_every_taxon_that_reaches_it(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    identify(folder / "a.jpg", "--min-score", -1, "--k", 4, "--out", tmp_path / "all.csv")
    table = predictions(tmp_path / "all.csv")
    assert len({row["name"] for row in table}) == 4
    cut = (table[1]["score"] + table[2]["score"]) / 2
    identify(folder / "a.jpg", "--min-score", cut, "--k", 4, "--out", tmp_path / "two.csv")
    assert predictions(tmp_path / "two.csv") == table[:2]


def test_a_folder_whose_name_looks_like_a_pattern_keeps_its_rows(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "site[1]*"
    identify(folder / "a.jpg", "--out", odd, "--format", "parquet")
    (found,) = odd.glob("*.parquet")
    assert len(pandas.read_parquet(found)) == 1


def test_files_named_together_and_files_of_a_folder_show_one_animal(
    identify: Callable[..., Any], model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    loaded = hub.load(str(model_folder))
    identifier = Identifier(loaded, read_labels(loaded))
    (row,) = objects(identify(folder / "c.flac", folder / "a.jpg", "--json", "--together").out)
    assert row["paths"] == [str(folder / "c.flac"), str(folder / "a.jpg")]
    assert (
        objects(identify("--together", folder / "c.flac", folder / "a.jpg", "--json").out)[0]["paths"] == row["paths"]
    )
    assert row["modality"] == "audio+image"
    vectors = {
        "audio": loaded.embed_audio([folder / "c.flac"], window="windows"),
        "image": loaded.embed_image([folder / "a.jpg"]),
    }
    expected = identifier.together(vectors, k=5).taxa
    assert [taxon["name"] for taxon in row["taxa"]] == [one.name for one in expected]
    assert [taxon["score"] for taxon in row["taxa"]] == pytest.approx([one.score for one in expected], abs=1e-3)
    by_folder = objects(identify(folder, "--json", "--together").out)
    groups = [{Path(path).name for path in row["paths"]} for row in by_folder if row["verdict"] == "ok"]
    assert {frozenset(group) for group in groups} == {
        frozenset(path.name for path in folder.glob("*.*")),
        frozenset({"d.mp3", "e.jpg"}),
    }
    identify(folder, "--out", tmp_path / "out.csv", "--together")
    assert {row["animal"] for row in predictions(tmp_path / "out.csv")} == {1, 2}


WORDS = ("--format", "csv", "parquet", "raven", "audacity", "birdnet", "--hop", "2", "--combined")
KILLED = """
import os, signal, sys
from biovita import cli
from biovita.identify.journal import Journal
from biovita.models import encoder

encoder.BLOCK =
left = int(sys.argv.pop(1))
append = Journal._append

def torn(journal, row):
    global left
    left -= 1
    if not left:
        path, size = journal.path, journal.path.stat().st_size
        append(journal, row)
        os.truncate(path, (size + path.stat().st_size) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    append(journal, row)

Journal._append = torn
sys.exit(cli.main())
""".replace("BLOCK =", f"BLOCK = {BLOCK}")


@pytest.mark.slow
def test_a_run_that_is_killed_in_the_middle_of_a_file_ends_in_the_same_bytes(
    identify: Callable[..., Any], folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert identify(folder, "--out", tmp_path / "whole", *WORDS).code == 3
    n_blocks = len((tmp_path / "whole" / "journal.jsonl").read_text().splitlines()) - 1
    assert n_blocks >= 7
    n_kept = 5
    words = ["identify", folder, "--out", tmp_path / "out", *WORDS, "--model", model_folder, "--quiet"]
    line = map(str, [sys.executable, "-c", KILLED, n_kept + 2, *words])  # it keeps what was asked, too
    killed = subprocess.run(list(line), capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    lines = (tmp_path / "out" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert not lines[-1].endswith(b"\n")
    assert len(lines) - 2 == n_kept
    assert not (tmp_path / "out" / "predictions.csv").exists()
    state = json.loads(lines[-2])["state"]
    assert state["opened"]["n_windows"] > 0  # in the middle of a recording
    n_embedded = 0
    forward = Encoder._forward

    def counted(encoder: Encoder, modality: Any, rows: list[Any], mel: Any) -> np.ndarray:
        nonlocal n_embedded
        n_embedded += len(rows) * (modality == "audio")
        return forward(encoder, modality, rows, mel)

    monkeypatch.setattr(Encoder, "_forward", counted)
    assert identify(folder, "--out", tmp_path / "out", *WORDS).code == 3
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert 0 < n_embedded <= (n_blocks - n_kept) * BLOCK  # nothing was done again


def test_what_a_kill_left_of_half_written_tables_is_removed(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    identify(folder / "a.jpg", folder / "c.flac", "--out", tmp_path / "out", "--format", "csv", "raven")
    before = content(tmp_path / "out")
    for name in (".predictions.csv.123.part", "raven/.c.flac.selections.txt.9.part", ".predictions.parquet.rows"):
        (tmp_path / "out" / name).write_text("half a ro")
    (tmp_path / "out" / "predictions.csv").unlink()
    identify(folder / "a.jpg", folder / "c.flac", "--out", tmp_path / "out", "--format", "csv", "raven")
    assert content(tmp_path / "out") == before


def test_a_finished_run_is_written_in_another_format_without_a_look_at_a_file(
    identify: Callable[..., Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identify(folder, "--out", tmp_path / "out")
    before = content(tmp_path / "out")
    monkeypatch.setattr(Encoder, "stream", lambda *_, **__: iter([]))
    assert identify(folder, "--out", tmp_path / "out", "--format", "csv", "raven").code == 3
    after = content(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name.startswith("raven/")} == {
        f"raven/{name}.selections.txt" for name in ("c.flac", "site/d.mp3", next(iter(folder.glob("b.*"))).name)
    }


@pytest.mark.parametrize(
    ("words", "differs"),
    [
        (["--hop", "5"], "its hop is 10.0, now it is 5.0"),
        (["--k", "2"], "its k is 5, now it is 2"),
        (["--together"], "its together is False, now it is True"),
        (["--taxa", "Animalia"], None),
        (["another.jpg"], "its files is '1, list"),
    ],
)
def test_an_output_of_another_run_is_refused_with_what_differs(
    identify: Callable[..., Any],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    differs: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "a.jpg", "another.jpg")
    first = [folder / "a.jpg", "--out", "out.csv"]
    assert identify(*first).code == 0
    before = (tmp_path / "out.csv").read_bytes()
    again = identify(*first, *words) if words[0].startswith("-") else identify(*words, *first)
    if differs is None:  # the same species by another flag
        assert again.code == 0
    else:
        assert again.code == 2
        assert differs in again.err
    assert (tmp_path / "out.csv").read_bytes() == before


def test_a_run_that_was_broken_off_before_its_first_answer_is_in_nobodys_way(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.jsonl").write_text('{"request": {"schema": "x", "k": 7}, "began": "2024"}\n{"ended"')
    assert identify(folder / "a.jpg", "--out", tmp_path / "out").code == 0
    first, *blocks = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    assert json.loads(first)["request"]["k"] == 5
    assert len(blocks) == 1


def test_a_file_that_changed_since_is_no_part_of_the_run_any_more(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "a.jpg", tmp_path / "a.jpg")
    identify(tmp_path / "a.jpg", "--out", tmp_path / "out")
    shutil.copy(folder / "site" / "e.jpg", tmp_path / "a.jpg")
    ran = identify(tmp_path / "a.jpg", "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{tmp_path / 'a.jpg'}: has changed since" in ran.err


def test_a_place_that_holds_something_else_is_left_alone(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("notes")
    (tmp_path / "mine.csv").write_text("notes")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "journal.jsonl").write_text("dear diary")
    for out in ("mine", "mine.csv", "odd"):
        ran = identify(folder / "a.jpg", "--out", tmp_path / out)
        assert ran.code == 2
        assert "choose another --out" in ran.err
    assert (tmp_path / "mine" / "notes.txt").read_text() == (tmp_path / "mine.csv").read_text() == "notes"
    assert (tmp_path / "odd" / "journal.jsonl").read_text() == "dear diary"


def test_two_runs_do_not_write_into_one_output(identify: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    with journal.Journal.open(tmp_path / "out" / "journal.jsonl", {"schema": "x"}):
        ran = identify(folder / "a.jpg", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "another run is writing here" in ran.err


def test_an_output_inside_the_folder_is_not_looked_at(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "a.jpg", tmp_path / "a.jpg")
    for out in ("results", "birds.csv"):
        for _ in range(2):
            assert identify(tmp_path, "--out", tmp_path / out, "--format", "csv").code == (3 if out != "results" else 0)
        if out == "results":
            shutil.rmtree(tmp_path / out)
            (tmp_path / "birds.txt").write_text("a list of birds")  # beside birds.csv, and none of its parts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hop", "0"], "--hop 0.0: give seconds, more than 0"),
        (["--confidence", "1.5"], "--confidence 1.5: give more than 0 and at most 1"),
        (["--format", "raven"], "--format raven: is written to files; give --out FOLDER"),
        (["--format", "csv", "jsonl"], "several need --out FOLDER"),
        (["--format", "csv", "--json"], "both are for standard output"),
        (["--format", "table", "--out", "x"], "--format table: is for standard output"),
        (["--format", "raven", "--out", "x.csv"], "give --out FOLDER for these"),
        (["--format", "raven", "--out", "x", "--together"], "--format raven with --together"),
        (["--out", "x", "--combined"], "--combined: is about --format raven"),
        (["nowhere/*.wav"], "nowhere/*.wav: no file is called so"),
        (["empty"], "empty: holds no files"),
        (["--taxa", "Aves"], "no species of 'aves'"),
    ],
)
def test_flags_that_cannot_be_used_are_one_line_and_exit_2(
    identify: Callable[..., Any],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    is_file = not words[0].startswith("-")
    ran = identify(*words) if is_file else identify(folder / "a.jpg", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_csv_on_standard_output_is_the_table_that_a_file_would_hold(
    identify: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    identify(folder / "c.flac", folder / "a.jpg", "--out", tmp_path / "out.csv")
    ran = identify(folder / "c.flac", folder / "a.jpg", "--format", "csv")
    assert (ran.code, ran.out) == (0, (tmp_path / "out.csv").read_text())


def test_a_recording_longer_than_an_upload_may_be_is_identified(identify: Callable[..., Any], tmp_path: Path) -> None:
    """Two hours and a bit, nearly all of it silence, looked at once every ten minutes."""
    with soundfile.SoundFile(tmp_path / "night.flac", "w", 2_000, 1) as file:
        file.write(np.random.default_rng(1).normal(0, 0.1, 20_000))
        file.write(np.zeros(2_000 * 7_300))
    ran = identify(tmp_path / "night.flac", "--hop", 600, "--json")
    (row,) = objects(ran.out)
    assert (row["verdict"], row["duration_s"]) == ("ok", 7_310.0)
    for limits, reason, sound_print in ((OWN_FILES, None, ""), (None, "too_long", None)):
        (verdict,) = check_files([tmp_path / "night.flac"], limits=limits)
        assert (verdict.reason, verdict.fingerprint) == (reason, sound_print)  # whose memory grows with the sound
    assert row["detections"][-1]["end_s"] == 7_310.0
