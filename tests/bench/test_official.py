import csv
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biovita.bench import official
from biovita.bench.official import open_bench, read_index, read_indices, read_task
from biovita.bench.tasks import DIRECTIONS, LEVELS, Scenario
from biovita.errors import BenchError

A2I = Scenario(direction="a2i", level="species", split="unseen")


def pools_of(task):
    """Undo the arrays: for each query its taxa and lists of ids."""
    out = []
    for taxon, group in zip(task.taxon, task.group, strict=True):
        starts, ends = task.group_start[group], task.group_start[group + 1]
        out.append(
            {
                task.taxa[t]: [task.items[i] for i in task.group_item[a:b]]
                for t, a, b in zip(taxon, starts, ends, strict=True)
                if t >= 0
            }
        )
    return out


def rewrite(path: Path, edit) -> None:
    """Read a CSV file with the standard library, edit its rows, write it back."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    edit(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(make_official, tmp_path):
    return make_official(tmp_path / "bench", 11)


def test_a_task_file_is_read_as_the_standard_library_reads_it(folder):
    for scenario in open_bench(folder).present:
        task = read_task(folder, scenario, read_indices(folder))
        with (folder / scenario.file).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert task.query_id == [row["query_id"] for row in rows]
        assert task.payload_id == [row["query_payload_id"] for row in rows]
        assert [task.taxa[t] for t in task.correct] == [row["correct_taxon"] for row in rows]
        lists = [json.loads(row["candidates_target_ids"]) for row in rows]
        assert [list(pool) for pool in pools_of(task)] == [json.loads(row["candidates_taxa"]) for row in rows]
        assert [list(pool.values()) for pool in pools_of(task)] == [
            [[str(item) for item in ids] for ids in row] for row in lists
        ]


def test_the_layout_directly_in_a_folder_is_one_split(folder):
    bench = open_bench(folder)
    assert [str(scenario) for scenario in bench.present] == [f"unseen/{le}/{di}" for le in LEVELS for di in DIRECTIONS]
    assert set(bench.absent.values()) == {"no split seen"}
    assert len(bench.absent) == 18
    assert {scenario.split for scenario in open_bench(folder, "mine").present} == {"mine"}
    assert bench.files("audio")["1000"] == folder / "audio/0"


def test_a_folder_named_seen_is_the_seen_split(folder):
    folder.rename(folder.with_name("seen"))
    assert {scenario.split for scenario in open_bench(folder.with_name("seen")).present} == {"seen"}


def test_index_files_may_lie_in_ids(folder):
    before = open_bench(folder)
    (folder / "ids").mkdir()
    for path in folder.glob("*.csv"):
        path.rename(folder / "ids" / path.name)
    after = open_bench(folder)
    assert after.present == before.present
    assert len(read_index(folder, "text")) == 18


def test_a_level_that_was_not_released_is_absent(folder):
    for direction in DIRECTIONS:  # unseen family files of the release hold only headers
        path = folder / Scenario(direction=direction, level="family", split="unseen").file
        path.write_text(path.read_text().splitlines()[0] + "\n")
    shutil.rmtree(folder / "genus")
    bench = open_bench(folder)
    assert len(bench.present) == 6
    reasons = {str(scenario): reason for scenario, reason in bench.absent.items() if scenario.split == "unseen"}
    assert reasons["unseen/family/a2t"] == "task files hold only headers"
    assert reasons["unseen/genus/t2i"] == "no folder genus/"
    assert {why: len(those) for why, those in bench.absent_here().items()} == dict.fromkeys(reasons.values(), 6)


def test_integers_strings_spaces_and_windows_line_ends_read_alike(folder):
    path = folder / A2I.file
    indices = read_indices(folder)
    before = pools_of(read_task(folder, A2I, indices))

    def respell(style):
        def edit(rows):
            for row in rows:
                lists = json.loads(row["candidates_target_ids"])
                row["candidates_target_ids"] = style(lists)
                row["candidates_taxa"] = json.dumps(json.loads(row["candidates_taxa"]), separators=(",", ":"))

        return edit

    for style in (
        lambda lists: json.dumps([[str(item) for item in ids] for ids in lists]),
        lambda lists: json.dumps([[int(item) for item in ids] for ids in lists], separators=(",", ":")),
        lambda lists: json.dumps([[int(item) for item in ids] for ids in lists], indent=1),
    ):
        rewrite(path, respell(style))
        assert pools_of(read_task(folder, A2I, indices)) == before
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert pools_of(read_task(folder, A2I, indices)) == before


names = st.lists(st.text(st.sampled_from('ab"\\,[] é'), min_size=1, max_size=4), min_size=1, max_size=4)
ids = st.lists(st.one_of(st.integers(0, 99), st.text(st.sampled_from('a],[" \\'), min_size=1, max_size=5)), max_size=3)


@given(st.lists(names, min_size=1, max_size=4), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_fast_and_strict_parsing_of_names_agree(rows, ascii_only, tight):
    separators = (",", ":") if tight else None
    column = pl.Series("x", [json.dumps(row, ensure_ascii=ascii_only, separators=separators) for row in rows])
    n, flat = official._read_names(Path("f"), column)
    assert n.tolist() == [len(row) for row in rows]
    assert flat.to_list() == [name for row in rows for name in row]


@given(st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
@example([[["a], [b"]]], False)
@example([[["a],[b"]], [["a"], []]], True)
@settings(deadline=None, max_examples=200)
def test_fast_and_strict_parsing_of_lists_agree(rows, tight):
    separators = (",", ":") if tight else None
    column = pl.Series("x", [json.dumps(row, separators=separators) for row in rows])
    n, code, groups = official._read_groups(Path("f"), column)
    assert n.tolist() == [len(row) for row in rows]
    assert [groups[c] for c in code] == [[str(item) for item in one] for row in rows for one in row]


def test_a_taxon_listed_twice_is_one_candidate_with_the_samples_of_both(folder):
    indices = read_indices(folder)
    before = pools_of(read_task(folder, A2I, indices))
    long = max(range(len(before)), key=lambda row: len(before[row]))
    taxa, lists = list(before[long]), list(before[long].values())
    assert len(taxa) > 3

    def edit(rows):
        rows[long]["candidates_taxa"] = json.dumps([*taxa, taxa[1]])
        rows[long]["candidates_target_ids"] = json.dumps([*lists, lists[-1]])

    rewrite(folder / A2I.file, edit)
    task = read_task(folder, A2I, indices)
    before[long][taxa[1]] = lists[1] + lists[-1]
    assert pools_of(task) == before
    assert task.n_candidates[long] == len(taxa)


def set_cell(row, column, value):
    return lambda rows: rows[row].__setitem__(column, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_cell(2, "candidates_taxa", '["a", "b"]'), r"row 3: candidates_taxa has 2 names but .* has \d+ lists"),
        (set_cell(1, "correct_taxon", "Nobody"), r"row 2: correct_taxon 'Nobody' is not among its \d+ candidates"),
        (set_cell(0, "correct_taxon", ""), r"row 1: correct_taxon is '', expected a value"),
        (set_cell(4, "query_payload_id", "77"), r"row 5: query_payload_id is '77', expected an id of audio_index.csv"),
        (set_cell(1, "candidates_target_ids", "[[1, 2"), r"row 2: candidates_target_ids is not JSON .*\[\[1, 2"),
        (set_cell(1, "candidates_target_ids", "5"), r"row 2: candidates_target_ids is '5', expected a JSON list"),
        (set_cell(1, "candidates_target_ids", "[1, 2]"), r"row 2: candidates_target_ids holds 1, expected a list of"),
        (set_cell(3, "candidates_target_ids", "[[true]]"), r"row 4: candidates_target_ids holds True, expected ids"),
        (set_cell(3, "candidates_taxa", "[7]"), r"row 4: candidates_taxa holds 7, expected names in quotes"),
        (set_cell(3, "candidates_taxa", "nonsense"), r"row 4: candidates_taxa is not JSON"),
        (set_cell(0, "candidates_taxa", "[]"), r"row 1: candidates_taxa has 0 names"),
        (set_cell(2, "taxon_level", "genus"), r"row 3: taxon_level is 'genus', expected species"),
        (set_cell(2, "task", "T2I"), r"row 3: task is 'T2I', expected A2I\.\.\."),
    ],
)
def test_a_broken_row_is_named(folder, edit, message):
    rewrite(folder / A2I.file, edit)
    with pytest.raises(BenchError, match=rf"test_audio_to_image.csv: {message}"):
        read_task(folder, A2I, read_indices(folder))


def test_a_target_id_that_no_index_has_is_named(folder):
    def edit(rows):
        lists = json.loads(rows[2]["candidates_target_ids"])
        rows[2]["candidates_target_ids"] = json.dumps([*lists[:-1], [*lists[-1], "ghost"]])

    rewrite(folder / A2I.file, edit)
    with pytest.raises(BenchError, match=r"row 3: candidates_target_ids names 'ghost', which image_index.csv does not"):
        read_task(folder, A2I, read_indices(folder))


def read_all(folder: Path) -> None:
    for scenario in open_bench(folder).present:
        read_task(folder, scenario, read_indices(folder))


def drop_column(path: Path, column: str) -> None:
    pl.read_csv(path, infer_schema=False).drop(column).write_csv(path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / A2I.file).unlink(), "test_audio_to_image.csv: missing task file"),
        (lambda f: (f / A2I.file).write_text("query_id,task\n"), "test_audio_to_image.csv: a header without rows"),
        (lambda f: (f / A2I.file).write_text(""), "test_audio_to_image.csv: empty file"),
        (lambda f: drop_column(f / A2I.file, "candidates_taxa"), "no column candidates_taxa; the columns are query_id"),
        (lambda f: (f / A2I.file).write_bytes(b"a,b\n\xff\xfe,1,2,3\n"), "not a readable CSV table"),
        (lambda f: (f / "audio_index.csv").unlink(), "audio_index.csv: missing"),
        (lambda f: drop_column(f / "image_index.csv", "family"), "image_index.csv: no column family"),
        (lambda f: drop_column(f / "audio_index.csv", "file_path"), "audio_index.csv: no column file_path"),
        (
            lambda f: rewrite(f / "text_index.csv", set_cell(3, "id", "1000")),
            "text_index.csv: id '1000' occurs 2 times",
        ),
        (lambda f: rewrite(f / "text_index.csv", set_cell(3, "id", "")), "text_index.csv: row 4: id is ''"),
        (lambda f: [shutil.rmtree(f / level) for level in LEVELS], "no scenario can be run"),
        (lambda f: shutil.rmtree(f), "no such benchmark folder"),
        (lambda f: [shutil.rmtree(f / le) for le in LEVELS] + [p.unlink() for p in f.iterdir()], "not a benchmark"),
    ],
)
def test_a_broken_folder_is_refused(folder, harm, message):
    harm(folder)
    with pytest.raises(BenchError, match=message):
        read_all(folder)


def test_classes_come_from_the_task_or_else_from_an_unambiguous_text_index(folder):
    indices = read_indices(folder)
    task = read_task(folder, A2I, indices)
    known = dict(zip(indices["text"]["species"], indices["text"]["class"], strict=True))
    assert task.taxon_class == [known[name] for name in task.taxa]

    rewrite(folder / A2I.file, lambda rows: [row.__setitem__("taxon_class", "Pisces") for row in rows])
    task = read_task(folder, A2I, indices)
    assert {task.taxon_class[t] for t in task.correct} == {"Pisces"}

    two = Scenario(direction="i2a", level="genus", split="unseen")
    mixed = indices["text"].with_columns(pl.Series("class", np.arange(18) % 2).cast(pl.String))
    assert set(read_task(folder, two, {**indices, "text": mixed}).taxon_class) == {None}
