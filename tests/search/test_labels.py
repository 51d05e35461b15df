"""Labels: only ever added, the last counts; a probe that finds what it was taught, and a queue worth answering."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from made_entries import content, picture, recording, unit_rows

from biovita.errors import ArchiveError
from biovita.search.archive import Archive
from biovita.search.labels import (
    Label,
    export_labels,
    fit_probe,
    import_labels,
    label_counts,
    rank_by_probe,
    read_labels,
    review_queue,
    spread,
    write_labels,
)
from biovita.tables import read_table

AT = datetime(2024, 5, 1, 4, 30, tzinfo=UTC)


def ids(numbers: range) -> list[str]:
    return [content(n)[:16] for n in numbers]


@pytest.fixture
def taught(new_archive: Callable[..., Archive]) -> Archive:
    """Eighty pictures, of which the first forty lie on one side and are called so by ten labels of each kind."""
    entries = []
    for n in range(80):
        vectors = picture(n).vectors
        assert vectors is not None
        vectors = vectors.copy()
        vectors[0, 0] += 0.6 if n < 40 else -0.6
        entries.append(replace(picture(n), vectors=vectors / np.linalg.norm(vectors)))
    archive = new_archive(entries)
    said = [*((one, "yes") for one in ids(range(10))), *((one, "no") for one in ids(range(40, 50)))]
    write_labels(archive, [Label(hit=one, name="left", answer=answer, who="anna") for one, answer in said])  # pyright: ignore[reportArgumentType]
    return archive


def test_the_last_label_of_a_hit_and_name_counts(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([picture(n) for n in range(3)])
    one, two, _ = ids(range(3))
    write_labels(archive, [Label(hit=one, name="frog", answer="yes", who="anna", at=AT)])
    write_labels(archive, [Label(hit=two, name="frog", answer="no"), Label(hit=one, name="rain", answer="unsure")])
    write_labels(archive, [Label(hit=one, name="frog", answer="no", who="ben", at=AT)])
    assert len(archive.label_table()) == 4
    (frog_two, rain, frog_one) = read_labels(archive)
    assert (frog_one.answer, frog_one.who, frog_one.at) == ("no", "ben", AT)
    assert (frog_two.hit, rain.name) == (two, "rain")
    assert frog_two.at is not None
    assert read_labels(archive, name="rain") == [rain]
    assert label_counts(archive) == {"frog": {"yes": 0, "no": 2, "unsure": 0}, "rain": {"yes": 0, "no": 0, "unsure": 1}}


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (Label(hit="nobody", name="frog", answer="yes"), "no row 'nobody'"),
        (Label(hit=content(0)[:16], name="frog", answer="maybe"), "answer 'maybe'"),  # pyright: ignore[reportArgumentType]
        (Label(hit=content(0)[:16], name=" ", answer="yes"), "has no name"),
        (Label(hit=content(0)[:16], name="a\x00b", answer="yes"), "use up to 255 characters"),
        (Label(hit=content(0)[:16], name="frog", answer="yes", who="x" * 300), "use up to 255 characters"),
    ],
)
def test_a_label_that_cannot_be_used_is_refused_with_all_its_company(
    new_archive: Callable[..., Archive], label: Label, said: str
) -> None:
    archive = new_archive([picture(0)])
    with pytest.raises(ArchiveError) as error:
        write_labels(archive, [Label(hit=content(0)[:16], name="frog", answer="yes"), label])
    assert said in str(error.value)
    assert read_labels(archive) == []


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_labels_survive_the_way_out_and_in_again(
    new_archive: Callable[..., Archive], tmp_path: Path, suffix: str
) -> None:
    entries = [recording(0), picture(1)]
    archive = new_archive(entries)
    window = recording(0).sha256[:16] + "@10-20"
    labels = [
        Label(hit=window, name='a "call", type B', answer="yes", who="anna", at=AT),
        Label(hit=content(1)[:16], name="frog", answer="unsure", who="", at=AT.replace(microsecond=7)),
    ]
    write_labels(archive, labels)
    path = tmp_path / f"labels{suffix}"
    assert export_labels(archive, path) == 2
    other = new_archive(entries, "other")
    assert import_labels(other, path) == 2
    assert read_labels(other) == labels
    assert import_labels(other, path) == 0
    table = read_table(path)
    assert table.row(0, named=True)["path"] == "/nowhere/0.flac"
    assert (float(table["start_s"][0]), float(table["end_s"][0])) == (10.0, 20.0)


def test_an_old_export_undoes_no_correction(new_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive = new_archive([picture(0)])
    write_labels(archive, [Label(hit=content(0)[:16], name="frog", answer="yes", who="anna", at=AT)])
    export_labels(archive, tmp_path / "old.csv")
    later = AT.replace(hour=5)
    write_labels(archive, [Label(hit=content(0)[:16], name="frog", answer="no", who="anna", at=later)])
    assert import_labels(archive, tmp_path / "old.csv") == 0
    (tmp_path / "timeless.csv").write_text(f"hit,name,answer,who\n{content(0)[:16]},frog,yes,anna\n")
    assert import_labels(archive, tmp_path / "timeless.csv") == 0
    assert [label.answer for label in read_labels(archive)] == ["no"]


def test_a_probe_finds_what_it_was_taught(taught: Archive) -> None:
    probe = fit_probe(taught, "left")
    assert (probe.n_yes, probe.n_no) == (10, 10)
    rest = [*ids(range(10, 40)), *ids(range(50, 80))]
    is_left = np.arange(60) < 30
    assert ((probe.logits(taught.vectors(rest)) > 0) == is_left).mean() > 0.9
    best = [hit.id for hit in rank_by_probe(taught, probe, k=30)]
    assert len(set(best) & set(ids(range(40)))) >= 29
    plain = sorted(ids(range(80)), key=lambda one: -float(taught.vectors([one])[0] @ probe.direction))
    assert best == plain[:30]


def test_a_probe_needs_both_answers_and_forgets_hits_that_are_gone(taught: Archive) -> None:
    with pytest.raises(ArchiveError, match="0 hits with yes and 0 with no"):
        fit_probe(taught, "other")
    taught.remove(ids=ids(range(40, 49)))
    assert fit_probe(taught, "left").n_no == 1
    taught.remove(ids=ids(range(49, 50)))
    with pytest.raises(ArchiveError, match="10 hits with yes and 0 with no"):
        fit_probe(taught, "left")


def test_the_queue_asks_the_doubtful_ones_and_none_twice(taught: Archive) -> None:
    queue = [hit.id for hit in review_queue(taught, "left", k=10)]
    assert len(set(queue)) == 10
    assert not set(queue) & {label.hit for label in read_labels(taught)}
    probe = fit_probe(taught, "left")
    doubt = np.abs(probe.logits(taught.vectors(queue)))
    rest = [one for one in ids(range(80)) if one not in {label.hit for label in read_labels(taught)}]
    assert queue[0] == min(rest, key=lambda one: abs(float(probe.logits(taught.vectors([one]))[0])))
    assert doubt.max() <= np.sort(np.abs(probe.logits(taught.vectors(rest))))[: 8 * 10].max()


def test_the_queue_learns_faster_than_chance_asks(new_archive: Callable[..., Archive]) -> None:
    vectors = unit_rows(400, seed=2)
    truth = vectors[:, 0] + 0.5 * vectors[:, 1] > 0.35  # a rare thing
    archive = new_archive([replace(picture(n), vectors=vectors[n : n + 1]) for n in range(400)])
    number = {one: n for n, one in enumerate(ids(range(400)))}
    first = [int(np.flatnonzero(truth)[0]), int(np.flatnonzero(~truth)[0])]

    def right(labelled: list[int]) -> float:
        said = [Label(hit=ids(range(400))[n], name="x", answer="yes" if truth[n] else "no") for n in labelled]
        write_labels(archive, said)
        return float(((fit_probe(archive, "x").logits(vectors) > 0) == truth).mean())

    at_random = right([*first, *np.random.default_rng(0).choice(400, 24, replace=False).tolist()])
    archive.remove(where="modality = 'audio'")
    archive = new_archive([replace(picture(n), vectors=vectors[n : n + 1]) for n in range(400)], "second")
    share = right(first)
    for _ in range(3):
        share = right([number[hit.id] for hit in review_queue(archive, "x", k=8)])
    assert share > at_random


def test_without_labels_the_queue_is_spread_and_with_yes_alone_it_is_near(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([picture(n) for n in range(50)] + [recording(n) for n in range(5)])
    queue = review_queue(archive, "frog", k=20)
    assert len({hit.item for hit in queue}) == 20
    one = queue[0].id
    write_labels(archive, [Label(hit=one, name="frog", answer="yes")])
    near = review_queue(archive, "frog", k=5)
    assert one not in {hit.id for hit in near}
    assert [hit.standing for hit in near] == sorted((hit.standing or 0 for hit in near), reverse=True)
    assert review_queue(archive, "frog", k=5, where="modality = 'audio'")[0].modality == "audio"
    unknown = review_queue(archive, "toad", k=5, where="modality = 'audio'")  # nothing is known of it
    assert [hit.modality for hit in unknown] == ["audio"] * 5
    assert len({hit.item for hit in unknown}) == 5


def test_spreading_equals_a_plain_loop() -> None:
    vectors = unit_rows(30, seed=6)
    picked = [0]
    while len(picked) < 12:
        rest = [n for n in range(30) if n not in picked]
        picked.append(min(rest, key=lambda n: max(float(vectors[n] @ vectors[m]) for m in picked)))
    assert spread(vectors, 12) == picked
    assert spread(vectors[:3], 12) == [0, *sorted([1, 2], key=lambda n: float(vectors[n] @ vectors[0]))]
    assert spread(vectors[:0], 3) == []
