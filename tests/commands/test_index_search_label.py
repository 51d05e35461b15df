"""`biovita index`, `search` and `label`: files in, hits out, by the real commands with the tiny model."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.commands.index_add import Add, run_add
from biovita.embed.store import read_embeddings
from biovita.files import sha256_file
from biovita.media.audio import audio_info, read_audio, write_audio
from biovita.models import hub
from biovita.models.encoder import Encoder
from biovita.search.archive import Archive

Run = Callable[..., Any]


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def make_field(folder: Path, media: dict[str, list[Path]]) -> Path:
    """Make a folder of one's own: two recordings, one of them 25 s long and named by its time, and two pictures."""
    folder.mkdir()
    noise = np.random.default_rng(0).normal(size=25 * 48_000) * np.repeat(np.linspace(0.02, 0.2, 25), 48_000)
    write_audio(folder / "20240531_043000.wav", noise, 48_000)
    shutil.copy(media["audio"][0], folder / f"call{media['audio'][0].suffix}")
    for n, path in enumerate(media["image"][:2]):
        shutil.copy(path, folder / f"photo{n}{path.suffix}")
    return folder


def make_archive(home: Path, model: Path) -> Path:
    """Make an archive of the folder `field` in `home`, with a table of what is known."""
    (home / "known.csv").write_text(
        "path,scientific_name,licence,rights_holder,latitude_deg,longitude_deg\n"
        "field/20240531_043000.wav,Turdus merula,CC BY 4.0,A. Person,51.5,-0.1\n"
    )
    told = {"metadata": home / "known.csv", "licence": "CC0", "time_zone": "Europe/Berlin"}
    assert run_add(Add(archive=str(home / "archive"), paths=(home / "field",), model=str(model), **told)) == 0
    return home / "archive"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, media: dict[str, list[Path]], model_folder: Path) -> Path:
    """A folder with `field` and `archive`. Do not write in it."""
    folder = tmp_path_factory.mktemp("home")
    make_field(folder / "field", media)
    make_archive(folder, model_folder)
    return folder


@pytest.fixture
def field(home: Path) -> Path:
    return home / "field"


@pytest.fixture
def archive(home: Path) -> Path:
    return home / "archive"


@pytest.fixture
def own(tmp_path: Path, media: dict[str, list[Path]], model_folder: Path) -> tuple[Path, Path]:
    """An archive and its folder, to write in."""
    field = make_field(tmp_path / "field", media)
    return make_archive(tmp_path, model_folder), field


def test_recordings_become_windows_and_pictures_one_vector_as_the_model_embeds_them(
    archive: Path, field: Path, encoder: Encoder
) -> None:
    opened = Archive.open(archive)
    hits = {(Path(hit.path).name, hit.start_s): hit for hit in opened.browse()}
    night = field / "20240531_043000.wav"
    assert {(name, start) for name, start in hits if name == night.name} == {(night.name, s) for s in (0.0, 10.0, 15.0)}
    wave = read_audio(night)
    for start in (0.0, 10.0, 15.0):
        window = wave[round(start * 48_000) : round((start + 10) * 48_000)]
        expected = encoder.embed_audio([(window, 48_000)], window="windows")[0]
        np.testing.assert_allclose(opened.vectors([hits[night.name, start].id])[0], expected, atol=1e-5)
    for path in field.glob("photo*"):
        found = opened.vectors([hits[path.name, None].id])[0]
        np.testing.assert_allclose(found, encoder.embed_image([path])[0], atol=1e-5)
        assert hits[path.name, None].sha256 == sha256_file(path)


def test_the_counts_of_an_addition_are_said(biovita: Run, own: tuple[Path, Path]) -> None:
    archive, field = own
    shutil.copy(field / "20240531_043000.wav", field / "copy.wav")
    write_audio(field / "new.wav", np.random.default_rng(1).normal(size=48_000) / 10, 48_000)
    nothing = {"replaced": 0, "moved": 0, "updated": 0, "refused": []}
    assert objects(biovita("index", "add", archive, field, "--json").out) == [
        {"archive": str(archive), "n_rows": 7, "added": 1, "same": 5, **nothing}
    ]
    write_audio(field / "new.wav", np.random.default_rng(2).normal(size=48_000) / 10, 48_000)
    again = objects(biovita("index", "add", archive, field, "--licence", "CC BY 4.0", "--json").out)[0]
    assert (again["replaced"], again["updated"], again["n_rows"]) == (1, 3, 7)


def test_the_table_is_believed_first_then_the_file_then_the_flags(archive: Path) -> None:
    hits = {(Path(hit.path).name, hit.start_s): hit for hit in Archive.open(archive).browse()}
    night = hits["20240531_043000.wav", 10.0]
    assert (night.species, night.licence, night.rights_holder) == ("Turdus merula", "CC-BY-4.0", "A. Person")
    assert f"{night.recorded_at:%Y-%m-%d %H:%M:%S}" == "2024-05-31 02:30:10"
    assert night.time_rule == "file name: no zone, taken as Europe/Berlin"
    assert night.duration_s == pytest.approx(25.0)
    assert hits[next(name for name, _ in hits if name.startswith("photo0")), None].licence == "CC0-1.0"


def test_the_same_command_again_adds_nothing_and_a_renamed_folder_is_followed(
    biovita: Run, own: tuple[Path, Path]
) -> None:
    archive, field = own
    again = objects(biovita("index", "add", archive, field, "--json").out)[0]
    assert (again["added"], again["same"], again["n_rows"]) == (0, 4, 6)
    moved = field.rename(field.with_name("moved"))
    after = objects(biovita("index", "add", archive, moved, "--json").out)[0]
    assert (after["added"], after["moved"], after["n_rows"]) == (0, 4, 6)
    assert {Path(hit.path).parent for hit in Archive.open(archive).browse()} == {moved}


def test_bad_files_are_listed_never_become_vectors_and_exit_3(biovita: Run, own: tuple[Path, Path]) -> None:
    archive, field = own
    (field / "page.jpg").write_text("<!doctype html><html>404</html>")
    (field / "cut.wav").write_bytes((field / "20240531_043000.wav").read_bytes()[:50])
    ran = biovita("index", "add", archive, field, "--json")
    assert ran.code == 3
    assert f"{field / 'page.jpg'}: not added: html_document" in ran.err
    refused = {Path(row["path"]).name for row in objects(ran.out)[0]["refused"]}
    assert refused == {"page.jpg", "cut.wav"}
    assert len(Archive.open(archive)) == 6


def test_another_model_is_turned_away_by_name(
    biovita: Run, archive: Path, field: Path, new_encoder: Callable[..., Any], tmp_path: Path
) -> None:
    hub.save(new_encoder(seed=2), tmp_path / "other", card="# other\n")
    for words in (["index", "add", archive, field], ["search", archive, "--text", "frog"]):
        ran = biovita(*words, "--model", tmp_path / "other")
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert "'untrained'" in ran.err
        assert "'other'" in ran.err


def test_a_dataset_and_an_embedding_file_go_in_as_they_are(
    biovita: Run, made_up: Path, model_folder: Path, tmp_path: Path
) -> None:
    table = pl.read_parquet(made_up / "media.parquet")
    pictures = table.filter(modality="image").head(6)
    files = [made_up / path for path in pictures["path"]]
    vectors = tmp_path / "six.parquet"
    assert (
        biovita(
            "embed", *files, "--model", model_folder, "--out", vectors, "--window", "windows", "--pool", "none"
        ).code
        == 0
    )
    ran = biovita("index", "add", tmp_path / "a", vectors, "--metadata", made_up / "media.parquet", "--json")
    assert (ran.code, objects(ran.out)[0]["added"]) == (0, 6), ran.err
    opened = Archive.open(tmp_path / "a")
    hits = {hit.path: hit for hit in opened.browse()}
    stored = read_embeddings(vectors)
    for name, row in zip(stored.ids, stored.embedding, strict=True):
        assert hits[name].sha256 == sha256_file(Path(name))
        np.testing.assert_array_equal(opened.vectors([hits[name].id])[0], row)
    expected = dict(zip(pictures["sha256"], pictures["species"], strict=True))
    assert {hit.sha256: hit.species for hit in hits.values()} == expected
    both = objects(biovita("index", "add", tmp_path / "a", made_up, "--model", model_folder, "--json", "--quiet").out)[
        0
    ]
    assert both["same"] == 6
    assert both["added"] == len(table) - 6
    wrong = biovita("embed", files[0], "--model", model_folder, "--out", tmp_path / "onset.parquet")
    assert wrong.code == 0
    ran = biovita("index", "add", tmp_path / "a", tmp_path / "onset.parquet")
    assert ran.code == 2
    assert "onset.parquet" in ran.err
    assert "windows-each" in ran.err


def test_a_search_by_words_sound_and_picture_ranks_as_the_vectors_say(
    biovita: Run, archive: Path, field: Path, encoder: Encoder
) -> None:
    opened = Archive.open(archive)
    ran = biovita("search", archive, "--text", "Common Frog", "--to", "image", "-k", 2, "--json")
    expected = opened.nearest(encoder.embed_text(["Common Frog"])[0], k=2, modality="image")
    assert [row["id"] for row in objects(ran.out)] == [hit.id for hit in expected]
    assert objects(ran.out)[0]["score"] == pytest.approx(expected[0].score, abs=1e-5)
    photo = next(field.glob("photo1*"))
    best = objects(biovita("search", archive, "--image", photo, "--to", "image", "--json").out)[0]
    assert (best["path"], round(best["score"], 4)) == (str(photo), 1.0)
    section = f"{field / '20240531_043000.wav'}@10-20"
    best = objects(biovita("search", archive, "--audio", section, "--to", "audio", "--every-window", "--json").out)[0]
    assert (best["start_s"], best["recorded_at"]) == (10.0, "2024-05-31T02:30:10Z")
    assert best["score"] == pytest.approx(1.0, abs=1e-4)
    mixed = biovita("search", archive, "--text", "frog", "--image", photo, "--text-weight", 0.5, "--json")
    assert {row["modality"] for row in objects(mixed.out)} == {"audio", "image"}
    like = objects(biovita("search", archive, "--like", best["id"], "--json").out)
    assert best["item"] not in {row["item"] for row in like}
    table = biovita("search", archive, "--text", "frog")
    assert table.out.count("score ") == 4  # the windows of one recording are folded
    assert "and 2 alike" in table.out


def test_a_filter_narrows_and_nothing_found_is_said(biovita: Run, archive: Path) -> None:
    where = "genus = 'Turdus' and month = 5 and lat between 50 and 52"
    rows = objects(biovita("search", archive, "--text", "x", "--where", where, "--every-window", "--json").out)
    assert {row["species"] for row in rows} == {"Turdus merula"}
    assert len(rows) == 3
    none = biovita("search", archive, "--text", "x", "--where", "month = 1")
    assert (none.code, none.out) == (0, "")
    assert "nothing found where month = 1" in none.err


def test_hits_are_copied_with_clips_licence_and_credit(biovita: Run, own: tuple[Path, Path], tmp_path: Path) -> None:
    archive, field = own
    out = tmp_path / "hits"
    ran = biovita("search", archive, "--text", "frog", "--every-window", "--copy", out, "--json")
    rows = rows_of(out / "hits.csv")
    assert (ran.code, len(rows)) == (0, 6)
    for row in rows:
        copy = out / row["file"]
        if row["modality"] == "image":
            assert copy.read_bytes() == Path(row["path"]).read_bytes()
        else:
            seconds = float(row["end_s"]) - float(row["start_s"])
            assert audio_info(copy).duration_s == pytest.approx(seconds, abs=1e-3)
            cut = read_audio(Path(row["path"]), start_s=float(row["start_s"]), duration_s=seconds)
            np.testing.assert_allclose(read_audio(copy), np.clip(cut, -1, 1), atol=1e-4)
    credit = rows_of(out / "CREDITS.csv")
    assert {(row["licence"], row["rights_holder"]) for row in credit} == {("CC-BY-4.0", "A. Person"), ("CC0-1.0", "")}
    assert biovita("search", archive, "--text", "frog", "--copy", out).code == 2
    next(field.glob("photo0*")).write_bytes(b"another content")
    changed = biovita("search", archive, "--text", "frog", "--copy", tmp_path / "again")
    assert changed.code == 3
    assert "changed since it was indexed" in changed.err


def test_status_rebuild_and_remove(biovita: Run, own: tuple[Path, Path]) -> None:
    archive, field = own
    status = objects(biovita("index", "status", archive, "--json").out)[0]
    assert (status["n_files"], status["n_rows"], status["model"]) == (4, 6, "untrained")
    assert "4 files, 6 rows" in biovita("index", "status", archive).out
    assert biovita("index", "rebuild", archive).code == 0
    warned = biovita("index", "remove", archive, "--where", "modality = 'image'")
    assert warned.code == 2
    assert "2 of 6 rows would go; add --force" in warned.err
    assert objects(biovita("index", "remove", archive, "--where", "modality = 'image'", "--force", "--json").out) == [
        {"archive": str(archive), "removed": 2, "n_rows": 4}
    ]
    (field / "20240531_043000.wav").unlink()
    assert objects(biovita("index", "remove", archive, "--missing", "--force", "--json").out)[0]["removed"] == 3
    assert len(list(field.glob("photo*"))) == 2


def test_labels_are_given_listed_and_learned_from(biovita: Run, own: tuple[Path, Path], tmp_path: Path) -> None:
    archive, _ = own
    ids = [row["id"] for row in objects(biovita("search", archive, "--text", "x", "--every-window", "--json").out)]
    assert biovita("label", "add", archive, *ids[:2], "--name", "frog", "--answer", "yes", "--who", "anna").code == 0
    counts = objects(biovita("label", "add", archive, ids[5], "--name", "frog", "--answer", "no", "--json").out)[0]
    assert (counts["yes"], counts["no"]) == (2, 1)
    queue = objects(biovita("label", "next", archive, "--name", "frog", "-k", 2, "--json").out)
    assert not {row["id"] for row in queue} & {*ids[:2], ids[5]}
    found = biovita("label", "find", archive, "--name", "frog", "--json")
    assert "a probe of 2 yes and 1 no" in found.err
    standings = [row["standing"] for row in objects(found.out)]
    assert (len(standings), standings) == (4, sorted(standings, reverse=True))
    assert biovita("label", "export", archive, "--out", tmp_path / "labels.csv").code == 0
    assert objects(biovita("label", "import", archive, tmp_path / "labels.csv", "--json").out)[0]["n_labels"] == 0
    assert biovita("label", "find", archive, "--name", "toad").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "{none}", "--text", "x"], "no archive there"),
        (["search", "{archive}"], "nothing to search for"),
        (["search", "{archive}", "--text", "x", "-k", "101"], "1 to 100"),
        (["search", "{archive}", "--text", "x", "-k", "0"], "1 to 100"),
        (["search", "{archive}", "--text", "x", "--where", "speices = 'y'"], "did you mean 'species'"),
        (["search", "{archive}", "--text", "x", "--text-weight", "0"], "--text-weight 0.0"),
        (["search", "{archive}", "--audio", "{none}"], "cannot be searched for: unreadable"),
        (["search", "{archive}", "--image", "{sound}"], "cannot be searched for: wrong_modality"),
        (["search", "{archive}", "--audio", "{sound}@9-3"], "the end must lie behind the start"),
        (["search", "{archive}", "--audio", "{sound}@900-903"], "the recording ends before"),
        (["search", "{archive}", "--like", "nobody"], "no row 'nobody'"),
        (["search", "{archive}", "--text", "x", "--model", "nowhere"], "no such model folder"),
        (["index", "add", "{none}", "{sound}"], "say which model"),
        (["index", "add", "{archive}"], "name recordings, pictures"),
        (["index", "add", "{archive}", "{none}"], "no such file or folder"),
        (["index", "add", "{archive}", "{sound}", "--time-zone", "Moon/Base"], "no such zone"),
        (["index", "status", "{none}"], "no archive there"),
        (["index", "remove", "{archive}"], "one of the three"),
        (["label", "add", "{archive}", "nobody", "--name", "x", "--answer", "yes"], "no row 'nobody'"),
        (["label", "export", "{archive}", "--out", "labels.docx"], "a table ends in"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(
    biovita: Run, archive: Path, field: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    places = {"archive": archive, "none": tmp_path / "none", "sound": field / "20240531_043000.wav"}
    ran = biovita(*(word.format(**places) for word in words))
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
