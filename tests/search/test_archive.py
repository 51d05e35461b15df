"""An archive: nearest against a plain loop, the laws of adding, and what a reader and a killed writer leave."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_entries import FACTS, WIDTH, content, picture, recording, unit_rows

from biovita.errors import ArchiveError
from biovita.files import sha256_file
from biovita.search import archive as module
from biovita.search.archive import About, Archive, Entry, row_id

SPRING = About(
    recorded_at=datetime(2024, 4, 30, 23, 59, 55, tzinfo=UTC),
    time_text="2024-04-30 23:59:55",
    time_rule="stated",
    latitude_deg=51.5,
    longitude_deg=-0.1,
    device="recorder 7",
    licence="CC-BY-4.0",
    rights_holder="A. Person",
    species="Turdus merula",
    duration_s=25.0,
)


def all_rows(entries: list[Entry]) -> list[tuple[str, str, np.ndarray]]:
    """List id, modality and vector of every row that entries become."""
    return [
        (row_id(entry.sha256[:16], *span), entry.modality, vector)
        for entry in entries
        if entry.vectors is not None
        for span, vector in zip(entry.spans or [(None, None)], entry.vectors, strict=True)
    ]


@pytest.mark.parametrize("modality", [None, "audio", "image"])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_nearest_equals_a_plain_loop_over_all_rows(
    new_archive: Callable[..., Archive], modality: str | None, k: int
) -> None:
    entries = [picture(n) for n in range(40)] + [recording(n) for n in range(20)]
    archive = new_archive(entries)
    query = unit_rows(1, seed=77)[0]
    rows = [
        (float(v.astype(np.float64) @ query), one) for one, kind, v in all_rows(entries) if modality in (None, kind)
    ]
    expected = sorted(rows, key=lambda row: (-row[0], row[1]))[:k]
    found = archive.nearest(5 * query, k=k, modality=modality)
    assert [hit.id for hit in found] == [one for _, one in expected]
    np.testing.assert_allclose([hit.score for hit in found], [score for score, _ in expected], atol=1e-6)


@pytest.mark.parametrize("n_queries", [0, 1, 2, 230])
def test_many_queries_at_once_are_answered_as_one_by_one(new_archive: Callable[..., Archive], n_queries: int) -> None:
    archive = new_archive([picture(n, about=SPRING if n % 3 else None) for n in range(60)])
    queries = 3 * unit_rows(n_queries, seed=4)
    found = archive.nearest_many(queries, k=7, where="month = 4")
    alone = [archive.nearest(query, k=7, where="month = 4") for query in queries]
    assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in alone]
    assert all(len(hits) == 7 for hits in found)


def test_what_is_known_of_a_file_comes_back_with_every_window_at_its_own_time(
    new_archive: Callable[..., Archive],
) -> None:
    entry = recording(1, about=SPRING)
    archive = new_archive([entry, picture(2)])
    hits = archive.get([row_id(entry.sha256[:16], 10.0, 20.0), content(2)[:16]])
    assert (hits[0].start_s, hits[0].end_s) == (10.0, 20.0)
    assert hits[0].recorded_at == datetime(2024, 5, 1, 0, 0, 5, tzinfo=UTC)
    for name in ("time_text", "time_rule", "latitude_deg", "longitude_deg", "device", "licence", "rights_holder"):
        assert getattr(hits[0], name) == getattr(SPRING, name)
    assert (hits[0].species, hits[0].duration_s, hits[0].path) == ("Turdus merula", 25.0, entry.path)
    assert (hits[1].start_s, hits[1].recorded_at, hits[1].species, hits[1].licence) == (None, None, None, None)
    assert entry.vectors is not None
    np.testing.assert_array_equal(archive.vectors([hits[0].id]), entry.vectors[1:2])


def test_an_archive_is_the_same_after_it_is_opened_again(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([recording(1, about=SPRING)])
    again = Archive.open(archive.uri)
    assert (again.facts, again.width, again.model, len(again)) == (FACTS, WIDTH, "nowhere", 3)
    query = unit_rows(1)[0]
    assert again.nearest(query) == archive.nearest(query)


def test_the_same_file_again_adds_nothing(new_archive: Callable[..., Archive]) -> None:
    entries = [picture(1), recording(2)]
    archive = new_archive(entries)
    before = archive.version
    assert archive.add(entries)["same"] == 2
    assert (len(archive), archive.version) == (4, before)


def test_a_file_that_was_moved_keeps_its_vectors_and_gets_its_new_path(
    new_archive: Callable[..., Archive], tmp_path: Path
) -> None:
    archive = new_archive([recording(2)])
    ids = [hit.id for hit in archive.browse()]
    vectors = archive.vectors(ids)
    place = str(tmp_path / "there.flac")
    assert archive.add([replace(recording(2), path=place, vectors=None, spans=None)])["moved"] == 1
    assert {hit.path for hit in archive.get(ids)} == {place}
    assert len(archive) == 3
    np.testing.assert_array_equal(archive.vectors(ids), vectors)


def test_a_copy_beside_the_stored_file_is_no_move(new_archive: Callable[..., Archive], tmp_path: Path) -> None:
    first, copy = tmp_path / "first.jpg", tmp_path / "copy.jpg"
    first.write_bytes(b"content")
    entry = replace(picture(1, path=str(first)), sha256=sha256_file(first))
    archive = new_archive([entry])
    assert archive.add([replace(entry, path=str(copy))])["same"] == 1
    assert archive.browse()[0].path == str(first)
    first.write_bytes(b"another")  # the copy is all that is left of it
    assert archive.add([replace(entry, path=str(copy))])["moved"] == 1
    assert archive.browse()[0].path == str(copy)


def test_a_changed_file_replaces_its_old_rows_in_one_commit(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([picture(1), picture(2)])
    before = archive.version
    counts = archive.add([picture(1, change=1), picture(3)])
    assert (counts["replaced"], counts["added"]) == (1, 1)
    assert archive.version == before + 1
    assert archive.has([content(n)[:16] for n in (1, 2, 3)]) == {content(2)[:16], content(3)[:16]}
    assert archive.has([content(1, 1)[:16]])


def test_new_knowledge_of_a_known_file_is_kept_and_silence_takes_nothing_away(
    new_archive: Callable[..., Archive],
) -> None:
    archive = new_archive([recording(1)])
    silent = replace(recording(1), vectors=None, spans=None)
    assert archive.add([replace(silent, about=SPRING)])["updated"] == 1
    assert [hit.species for hit in archive.browse()] == ["Turdus merula"] * 3
    assert sorted(hit.recorded_at for hit in archive.browse() if hit.recorded_at)[1].day == 1
    assert archive.add([silent])["same"] == 1
    assert archive.browse()[0].licence == "CC-BY-4.0"


STEPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_any_order_of_adding_leaves_each_path_with_its_last_content(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]]
) -> None:
    archive = Archive.create(tmp_path_factory.mktemp("laws") / "a", FACTS, width=WIDTH)
    twin: dict[str, str] = {}  # content -> path
    for n, change, place in steps:
        digest, path = content(n, change), f"/nowhere/{place}.jpg"
        archive.add([picture(n, change=change, path=path)])
        if digest not in twin:
            twin = {one: where for one, where in twin.items() if where != path}
        twin[digest] = path
    assert {hit.sha256: hit.path for hit in archive.browse()} == twin
    assert len(archive) == len(twin)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.full((1, WIDTH), np.nan, np.float32), "not finite"),
        (2 * unit_rows(1), "unit length"),
        (unit_rows(1, width=8), "give (n, 16)"),
        (unit_rows(0), "give (n, 16)"),
        (None, "without vectors"),
    ],
)
def test_a_bad_vector_is_refused_and_nothing_of_its_block_is_written(
    new_archive: Callable[..., Archive], vectors: np.ndarray | None, said: str
) -> None:
    archive = new_archive([picture(1)])
    with pytest.raises(ArchiveError, match=r"/nowhere/2\.jpg") as error:
        archive.add([picture(3), replace(picture(2), vectors=vectors)])
    assert said in str(error.value)
    assert len(archive) == 1


def test_rows_go_by_id_by_file_and_by_filter(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([recording(1, about=SPRING), recording(2), picture(3)])
    one = row_id(recording(1).sha256[:16], 0.0, 10.0)
    assert archive.count(ids=[one]) == archive.remove(ids=[one]) == 1
    assert archive.remove(ids=[recording(2).sha256[:16]]) == 3
    assert archive.remove(where="species = 'Turdus merula'") == 2
    assert [hit.id for hit in archive.browse()] == [content(3)[:16]]
    for chosen in ({}, {"ids": [one], "where": "month = 5"}):
        with pytest.raises(ArchiveError, match="one of the two"):
            archive.remove(**chosen)


@pytest.mark.parametrize("k", [0, -1, 101, 10**9])
def test_k_is_bounded(new_archive: Callable[..., Archive], k: int) -> None:
    with pytest.raises(ArchiveError, match="1 to 100"):
        new_archive([picture(1)]).nearest(unit_rows(1)[0], k=k)


@pytest.mark.parametrize("query", [np.zeros(WIDTH), np.full(WIDTH, np.nan), np.ones(3)])
def test_a_query_that_points_nowhere_is_refused(new_archive: Callable[..., Archive], query: np.ndarray) -> None:
    with pytest.raises(ArchiveError, match="a query has"):
        new_archive([picture(1)]).nearest(query)


def test_an_empty_archive_has_no_hits(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive()
    assert archive.nearest(unit_rows(1)[0]) == []
    status = archive.status()
    assert (status["n_files"], status["index"]["recall_at_10"]) == (0, 1.0)
    assert archive.places() == []


def test_what_is_no_archive_is_said_so(tmp_path: Path, new_archive: Callable[..., Archive]) -> None:
    with pytest.raises(ArchiveError, match="no archive there"):
        Archive.open(tmp_path / "none")
    archive = new_archive()
    with pytest.raises(ArchiveError, match="there is an archive already"):
        Archive.create(archive.uri, FACTS, width=WIDTH)
    for file in Path(archive.uri, "media.lance", "_versions").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(ArchiveError, match="cannot be used"):
        Archive.open(archive.uri)


def test_an_archive_whose_making_was_cut_short_is_made_again(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive()
    shutil.rmtree(Path(archive.uri, "media.lance"))  # the table that is made last
    assert len(Archive.create(archive.uri, FACTS, width=WIDTH)) == 0


def test_a_sample_is_of_one_modality_with_the_vectors_of_its_ids(
    new_archive: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "N_SAMPLE", 12)
    archive = new_archive([recording(n) if n % 2 else picture(n) for n in range(20)])
    archive.add([recording(n) if n % 2 else picture(n) for n in range(20, 30)])
    archive.remove(ids=[content(4)[:16], recording(7).sha256[:16]])
    archive.add([picture(2, change=1)])
    for modality, n_rows in (("audio", 12), ("image", 12)):
        ids, vectors = archive.sample(modality)
        assert len(set(ids)) == n_rows
        assert {hit.modality for hit in archive.get(ids)} == {modality}
        np.testing.assert_array_equal(vectors, archive.vectors(ids))
    assert new_archive(name="empty").sample("audio")[0] == []


def test_status_counts_files_by_modality_and_licence(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([recording(1, about=SPRING), recording(2), picture(3, about=SPRING)])
    status = archive.status()
    assert (status["n_files"], status["n_rows"]) == (3, 7)
    assert status["by_modality"] == {"audio": 2, "image": 1}
    assert status["by_licence"] == {"CC-BY-4.0": 2, "unknown": 1}
    assert status["index"] == {"kind": "exact", "n_rows": 0, "recall_at_10": 1.0}
    assert status["size_bytes"] > 7 * WIDTH * 4
    assert archive.places() == [(51.5, -0.1, 2)]


def test_above_the_limit_an_index_is_built_measured_and_extended(
    new_archive: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 400)
    archive = new_archive([picture(n) for n in range(600)])
    archive.settle()
    status = archive.status()
    assert status["index"]["kind"] != "exact"
    assert status["index"]["n_rows"] == 600
    assert status["index"]["recall_at_10"] >= 0.95
    archive.add([picture(n) for n in range(600, 650)])
    vectors = picture(640).vectors
    assert vectors is not None
    assert archive.nearest(vectors[0], k=1)[0].id == content(640)[:16]  # before it is in the index
    archive.settle()
    assert archive.status()["index"]["n_rows"] == 650
    assert archive.nearest(vectors[0], k=1)[0].id == content(640)[:16]
    archive.remove(where="id like '000001%' and modality = 'image'")
    archive.rebuild()
    assert archive.status()["index"]["kind"] == "exact"


def test_a_snapshot_stays_at_its_version_until_it_is_refreshed(new_archive: Callable[..., Archive]) -> None:
    writer = new_archive([picture(1)])
    reader = Archive.open(writer.uri)
    writer.add([picture(2)])
    writer.rebuild()
    assert len(reader.nearest(unit_rows(1)[0])) == 1
    reader.refresh()
    assert len(reader.nearest(unit_rows(1)[0])) == 2


def test_readers_meet_no_error_and_one_version_each_while_the_archive_is_rebuilt(
    new_archive: Callable[..., Archive],
) -> None:
    writer = new_archive([picture(0)])
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                hits = Archive.open(writer.uri).nearest(unit_rows(1)[0], k=100)
            except ArchiveError as error:
                wrong.append(str(error))
                return
            numbers = sorted(int(hit.sha256[:8], 16) for hit in hits)
            if numbers != list(range(len(numbers))):  # files are added in order, so a version holds the first n
                wrong.append(f"a mix of versions: {numbers}")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for n in range(1, 11):
        writer.add([picture(n)])
        writer.rebuild()
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from made_entries import picture
from biovita.search.archive import Archive
archive = Archive.open(sys.argv[1])
n = len(archive) // 5
while True:
    archive.add([picture(5 * n + i) for i in range(5)])
    print(n, flush=True)
    n += 1
"""


def test_a_killed_writer_loses_no_commit_and_leaves_no_torn_one(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive()
    pause = np.random.default_rng(3)
    for _ in range(2):
        words = [sys.executable, "-c", WRITER, archive.uri, str(Path(__file__).parent)]
        writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        first = int(writer.stdout.readline())
        time.sleep(pause.uniform(0, 0.15))
        os.kill(writer.pid, signal.SIGKILL)
        said = [first, *map(int, writer.stdout.read().splitlines())]
        writer.wait()
        writer.stdout.close()
        archive = Archive.open(archive.uri)
        assert len(archive) % 5 == 0
        numbers = sorted(int(hit, 16) >> 32 for hit in archive.column("id")["id"])
        assert numbers == list(range(len(archive)))
        assert len(archive) // 5 >= said[-1] + 1
        ids = archive.column("id")["id"].to_list()
        expected = np.concatenate([picture(int(one, 16) >> 32).vectors for one in ids])
        np.testing.assert_array_equal(archive.vectors(ids), expected)


def test_a_second_writer_is_turned_away(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive()
    with archive._writing(), pytest.raises(ArchiveError, match="another process is writing"):
        Archive.open(archive.uri).add([picture(1)])


def test_the_same_code_serves_an_address_of_a_store(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/store"
    archive = Archive.create(uri, FACTS, width=WIDTH)
    archive.add([recording(1, about=SPRING), picture(2)])
    archive.add([picture(2, change=1)])
    archive.rebuild()
    again = Archive.open(uri)
    assert len(again) == 4
    assert len(again.nearest(unit_rows(1)[0], where="month = 5")) == 2
    assert again.status()["size_bytes"] > 0
    in_memory = Archive.create("memory://", FACTS, width=WIDTH)
    in_memory.add([recording(1, about=SPRING)])
    assert len(in_memory.nearest(unit_rows(1)[0])) == 3
