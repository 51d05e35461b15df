"""What people get wrong: one line that says what to do, exit code 2, and no traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biovita.commands.data import empty_splits
from biovita.commands.embed import read_names
from biovita.commands.identify import Identify, how_to_name_more
from biovita.errors import ConfigError, ModelError
from biovita.identify.answer import Identifier
from biovita.identify.files import identify_file
from biovita.identify.labels import read_labels
from biovita.models.hub import load
from biovita.train.recipe import Recipe


def test_comparing_nothing_asks_for_results(biovita: Callable[..., Any], tmp_path: Path) -> None:
    ran = biovita("bench", "compare", "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "biovita: bench compare: name the results.json of one run or more\n"
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_utf8_are_refused_with_the_place(biovita: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("Rana\nGrünfrosch\n".encode("latin-1"))
    ran = biovita("embed", "--text", path, "--model", "tiny", "--out", tmp_path / "names.parquet")
    assert ran.code == 2
    assert ran.err == f"biovita: {path}: is not UTF-8 text (byte 7); save it as UTF-8\n"


def test_names_are_read_without_the_mark_that_editors_put_first(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffRana temporaria\r\n\r\n Rana temporaria \r\nBufo bufo\r\n".encode())
    assert read_names(path) == ["Rana temporaria", "Bufo bufo"]
    path.write_text("Rana temporaria", encoding="utf-16")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_names(path)


def test_a_run_that_named_nothing_says_which_number_to_change() -> None:
    files = (Path("a.wav"),)
    told = how_to_name_more(Identify(files=files, model="m"))
    assert "--confidence 0.8" in told
    assert "--min-score -1" in told
    told = how_to_name_more(Identify(files=files, model="m", min_score=0.5))
    assert "--min-score 0.5" in told
    assert "--confidence" not in told


@pytest.mark.parametrize(("flag", "value"), [("--hop", "inf"), ("--hop", "nan"), ("--min-score", "nan")])
def test_a_number_that_is_none_is_refused_before_anything_loads(
    biovita: Callable[..., Any], flag: str, value: str
) -> None:
    ran = biovita("identify", "a.wav", "--model", "nowhere", flag, value)
    assert ran.code == 2
    assert ran.err.startswith(f"biovita: {flag} {value}: give ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--names", "lost.csv", "--species-list", "here.txt"), "--names lost.csv: no such name list"),
        (("--names", "lost.csv"), "--names: knows synonyms of a list; name the list with --species-list or --examples"),
        (("--out", "birds.xlsx"), "--out birds.xlsx: a table ends in .csv, .jsonl or .parquet; or name a folder"),
    ],
)
def test_what_would_be_ignored_is_refused(biovita: Callable[..., Any], flags: tuple[str, ...], said: str) -> None:
    ran = biovita("identify", "a.wav", "--model", "nowhere", *flags)
    assert (ran.code, ran.err) == (2, f"biovita: {said}\n")


def test_a_table_of_nothing_says_how_to_name_more(
    biovita: Callable[..., Any], media: dict[str, list[Path]], model_folder: Path, tmp_path: Path
) -> None:
    asked = ("identify", media["image"][0], "--model", model_folder, "--min-score", "1")
    said = "nothing was named in 1 files; no taxon reaches --min-score 1; try a lower one"
    ran = biovita(*asked, "--format", "csv")
    assert (ran.code, len(ran.out.splitlines())) == (0, 1)
    assert said in ran.err
    assert said in biovita(*asked, "--out", tmp_path / "found").err
    assert said not in biovita(*asked[:-1], "-1", "--format", "csv").err


@pytest.fixture(scope="module")
def archive(media: dict[str, list[Path]], model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a picture and a recording."""
    from biovita.commands.index_add import Add, run_add

    path = tmp_path_factory.mktemp("archive") / "archive"
    run_add(Add(archive=str(path), paths=(media["image"][0], media["audio"][0]), model=str(model_folder)))
    return path


def test_an_archive_is_not_made_among_other_files(
    biovita: Callable[..., Any], media: dict[str, list[Path]], model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "song.wav").touch()
    for place in (tmp_path, tmp_path / "song.wav"):
        ran = biovita("index", "add", place, media["image"][0], "--model", model_folder)
        assert ran.code == 2
        assert f"{place}: is there already and no archive; name a new folder" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


def test_an_empty_folder_and_what_a_kill_left_become_an_archive(
    biovita: Callable[..., Any], media: dict[str, list[Path]], model_folder: Path, archive: Path, tmp_path: Path
) -> None:
    shutil.copytree(archive / "labels.lance", tmp_path / "half" / "labels.lance")
    (tmp_path / "empty").mkdir()
    for name in ("half", "empty"):
        assert biovita("index", "add", tmp_path / name, media["image"][0], "--model", model_folder).code == 0
        assert biovita("search", tmp_path / name, "--text", "a frog").code == 0


def test_words_that_say_nothing_are_no_search(biovita: Callable[..., Any], archive: Path) -> None:
    ran = biovita("search", archive, "--text", "frog", " ")
    assert (ran.code, ran.err) == (2, "biovita: --text: one of the texts is empty; give words, or a name\n")


def test_a_row_that_is_not_there_is_not_removed_in_silence(biovita: Callable[..., Any], archive: Path) -> None:
    ran = biovita("index", "remove", archive, "0123456789abcdef", "--force")
    assert (ran.code, ran.out) == (2, "")
    assert "no row or file '0123456789abcdef'; ids are those that a search shows" in ran.err


def test_labels_and_reports_are_not_written_over_a_folder(
    biovita: Callable[..., Any], archive: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labels.csv"
    folder.mkdir()
    ran = biovita("label", "export", archive, "--out", folder)
    assert (ran.code, ran.err) == (2, f"biovita: --out {folder}: is a folder; name a file to write\n")
    ran = biovita("report", tmp_path / "results.json", "--out", folder)
    assert (ran.code, ran.err) == (2, f"biovita: --out {folder}: is a folder; name the HTML file to write\n")


def test_a_table_about_other_files_is_not_believed_in_silence(
    biovita: Callable[..., Any], archive: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    table = tmp_path / "about.csv"
    table.write_text("path,licence\nelsewhere.jpg,CC0\n")
    ran = biovita("index", "add", archive, media["image"][0], "--metadata", table)
    assert ran.code == 0
    assert f"warning: {table}: not one of its rows is of a file named here" in ran.err


def test_a_table_finds_its_files_by_any_way_of_writing_their_path(
    biovita: Callable[..., Any], archive: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    picture = tmp_path / "photos" / "a.jpg"
    picture.parent.mkdir()
    shutil.copyfile(media["image"][1], picture)
    table = tmp_path / "tables" / "about.csv"
    table.parent.mkdir()
    table.write_text("path,licence,scientific_name\n../photos/a.jpg,CC0,Rana temporaria\n")
    ran = biovita("index", "add", archive, picture, "--metadata", table)
    assert ran.code == 0
    assert f"{table}: says something of 1 files" in ran.err
    ran = biovita("search", archive, "--text", "a frog", "--where", "species = 'Rana temporaria'")
    assert f"  {picture}  Rana temporaria" in ran.out


def test_a_table_among_the_files_that_it_tells_of_is_no_file_to_add(
    biovita: Callable[..., Any],
    model_folder: Path,
    media: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field, archive = tmp_path / "field", tmp_path / "archive"
    field.mkdir()
    shutil.copyfile(media["image"][1], field / "a.jpg")
    (field / "about.csv").write_text("path,recorded_at\na.jpg,2024-05-31T04:30:00\n")
    monkeypatch.chdir(field)
    words = ("--metadata", "about.csv", "--time-zone", "Europe/Berlin")
    ran = biovita("index", "add", archive, field, "--model", model_folder, *words)
    assert ran.code == 0, ran.err
    ran = biovita("search", archive, "--text", "a frog", "--where", "month = 5", "--json")
    assert json.loads(ran.out)["recorded_at"].startswith("2024-05-31T02:30:00")


def test_labels_without_a_model_are_refused(biovita: Callable[..., Any], archive: Path) -> None:
    ran = biovita("serve", "--results", "none.json", "--labels", "none.csv")
    assert (ran.code, ran.out) == (2, "")
    assert "--labels: they are for naming, which needs a model" in ran.err


@pytest.mark.parametrize(
    "words", [("world", "make"), ("bench", "make", "data"), ("report", "results.json"), ("demo",), ("data", "build")]
)
def test_no_draw_has_a_seed_below_zero(biovita: Callable[..., Any], tmp_path: Path, words: tuple[str, ...]) -> None:
    ran = biovita(*words, "--seed", -1, "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (2, "biovita: --seed -1: give a whole number from 0\n")


def test_a_stage_has_no_seed_below_zero() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.seed is -1; it must be at least 0"):
        Recipe(seed=-1)


def test_a_run_folder_stands_for_its_results(biovita: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    ran = biovita("bench", "compare", tmp_path / "run", "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{tmp_path / 'run' / 'results.json'}: no such results file" in ran.err


@pytest.mark.parametrize("factor", ["-1", "0", "nan"])
def test_a_demo_of_no_length_is_refused_before_it_makes_anything(
    biovita: Callable[..., Any], tmp_path: Path, factor: str
) -> None:
    ran = biovita("demo", "--out", tmp_path / "demo", "--epochs", factor)
    assert (ran.code, ran.err) == (2, f"biovita: --epochs {factor}: give a factor above 0\n")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("flag", "value"), [("checkpoint-minutes", "nan"), ("keep-checkpoints", 0), ("workers", -1)])
def test_training_does_not_start_with_numbers_that_mean_nothing(
    biovita: Callable[..., Any], tmp_path: Path, flag: str, value: object
) -> None:
    ran = biovita("train", "--data", tmp_path, "--out", tmp_path / "model", f"--{flag}", value)
    assert ran.code == 2
    assert ran.err.startswith(f"biovita: --{flag} {value}: ")


def test_a_model_is_calibrated_on_two_files_and_says_that_they_are_few(
    biovita: Callable[..., Any], data: Path, model_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    few = Path(shutil.copytree(data, tmp_path / "data"))
    table = pl.read_parquet(few / "media.parquet")
    val = table.filter(split="val").unique("modality", keep="first", maintain_order=True)
    pl.concat([table.filter(pl.col("split") != "val"), val]).write_parquet(few / "media.parquet")
    ran = biovita("model", "calibrate", model, "--data", few, "--withheld-share", 0)
    assert ran.code == 0, ran.err
    assert "warning: audio: fitted on 1 animals" in ran.err
    assert json.loads((model / "calibration.json").read_text())["centre"] == {}


@pytest.mark.parametrize(("device", "said"), [("abacus", "'abacus' cannot be used"), ("", "'' cannot be used")])
def test_a_device_that_is_none_is_refused(device: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load("nowhere", device=device)


def test_vectors_go_into_a_file_and_those_of_a_dataset_into_a_folder(
    biovita: Callable[..., Any], data: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    for out in ("vectors", "vectors.csv", "folder.parquet"):
        ran = biovita("embed", media["image"][0], "--model", "nowhere", "--out", tmp_path / out)
        assert (ran.code, ran.err) == (2, f"biovita: --out {tmp_path / out}: name a file that ends in .parquet\n")
    ran = biovita("embed", data, "--model", "nowhere", "--out", tmp_path / "vectors.parquet")
    assert (ran.code, ran.err.count("name a folder")) == (2, 1)


@pytest.mark.parametrize("out", ["file/x", "file/x.parquet", "file/deep/x.parquet"])
def test_a_file_where_a_folder_should_be_is_one_line(
    biovita: Callable[..., Any], media: dict[str, list[Path]], model_folder: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").touch()
    ran = biovita("identify", media["image"][0], "--model", model_folder, "--out", tmp_path / out)
    assert ran.code == 2
    assert ran.err.splitlines()[-1].endswith("; mend that and run the same command again")
    assert str(tmp_path / "file") in ran.err


def test_help_calls_what_it_wants_by_name(biovita: Callable[..., Any]) -> None:
    assert "usage: biovita search [-h] [OPTIONS] ARCHIVE" in biovita("search", "--help").out


def test_a_dataset_names_the_splits_that_are_empty(data: Path, tmp_path: Path) -> None:
    assert empty_splits(data) == []
    few = Path(shutil.copytree(data, tmp_path / "data"))
    table = pl.read_parquet(few / "media.parquet")
    table.filter((pl.col("split") != "test_seen") | (pl.col("modality") != "audio")).write_parquet(
        few / "media.parquet"
    )
    assert empty_splits(few) == ["test_seen (recordings)"]


def test_a_file_is_a_sound_or_a_picture_and_no_third(encoder: Any, model_folder: Path) -> None:
    identifier = Identifier(encoder, read_labels(load(model_folder)))
    with pytest.raises(ConfigError, match="modality 'sound': give audio or image"):
        identify_file(identifier, Path("a.wav"), "sound")
