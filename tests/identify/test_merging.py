"""Windows to detections: merged as a plain loop over moments would, named by one rule, the same after a stop."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from biovita.identify.answer import Answer, Named
from biovita.identify.windows import Detection, Merging, answer_from_row, names_of
from biovita.media.window import windows


def named(name: str, score: float = 0.5, *, rank: str = "species", genus: str = "", prob: float | None = None) -> Named:
    lineage = {"genus": genus or name.split()[0], rank: name}
    return Named(
        rank=rank,  # pyright: ignore[reportArgumentType]
        name=name,
        common_name="",
        lineage=lineage,
        score=score,
        prob=prob,
        expected=None,
    )


def by_moments(spans: list[tuple[float, float]], names: list[list[Named]]) -> set[tuple[str, float, float, float]]:
    """The plain way: paint each taxon's windows on a line of tenths, and cut it where it is bare."""
    found = set()
    for taxon in {one.name for answer in names for one in answer}:
        mine = [
            (span, one.score) for span, answer in zip(spans, names, strict=True) for one in answer if one.name == taxon
        ]
        line = np.zeros(round(max(end for _, end in spans) * 10) + 1, bool)
        for (start, end), _ in mine:
            line[round(start * 10) : round(end * 10)] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
        for begin, stop in edges.reshape(-1, 2):
            best = max(score for (start, end), score in mine if begin <= round(start * 10) and round(end * 10) <= stop)
            found.add((taxon, begin / 10, stop / 10, best))
    return found


@pytest.mark.parametrize("hop_s", [2.0, 5.0, 7.0, 10.0, 13.0])
def test_merged_windows_equal_a_loop_over_moments(hop_s: float) -> None:
    rng = np.random.default_rng(int(hop_s))
    for duration_s in (4.0, 10.0, 63.0, 200.5):
        spans = windows(duration_s, hop_s)
        names = [[named(f"Turdus {kind}", float(rng.random())) for kind in "abc" if rng.random() < 0.4] for _ in spans]
        merging, found = Merging(), []
        for (start_s, end_s), taxa in zip(spans, names, strict=True):
            found += merging.add(start_s, end_s, taxa)
        found += merging.open
        as_rows = [(one.named.name, round(one.start_s, 1), round(one.end_s, 1), one.named.score) for one in found]
        assert len(as_rows) == len(set(as_rows))
        assert set(as_rows) == by_moments(spans, names)


def test_windows_back_to_back_touch_and_one_that_names_nothing_parts_them() -> None:
    a = named("Turdus merula")
    merging = Merging()
    assert merging.add(0, 10, [a]) == []
    assert merging.add(10, 20, [a]) == []
    assert merging.add(20, 30, []) == []
    (first,) = merging.add(30, 40, [a])
    assert (first.start_s, first.end_s) == (0, 20)
    assert [(one.start_s, one.end_s) for one in merging.open] == [(30, 40)]


def test_with_overlapping_windows_a_taxon_may_be_missing_where_its_others_touch() -> None:
    a = named("Turdus merula")
    merging = Merging()
    for start_s, taxa in ((0, [a]), (5, []), (10, [a])):
        assert merging.add(start_s, start_s + 10, taxa) == []
    assert [(one.start_s, one.end_s) for one in merging.open] == [(0, 20)]


def test_a_detection_has_the_name_of_its_best_window() -> None:
    merging = Merging()
    for n, (score, prob) in enumerate(((0.3, 0.9), (0.5, 0.6), (0.4, 0.9))):
        merging.add(10 * n, 10 * n + 10, [named("Turdus merula", score, prob=prob)])
    (one,) = merging.open
    assert (one.named.prob, one.named.score) == (0.9, 0.3)
    merging = Merging()
    for n, score in enumerate((0.3, 0.5, 0.4)):
        merging.add(10 * n, 10 * n + 10, [named("Turdus merula", score)])
    assert merging.open[0].named.score == 0.5


def test_taxa_of_one_name_and_another_rank_or_family_stay_apart() -> None:
    merging = Merging()
    bird, plant = named("Oenanthe", rank="genus"), named("Oenanthe", rank="genus")
    plant = replace(plant, lineage={"kingdom": "Plantae", "genus": "Oenanthe"})
    merging.add(0, 10, [bird, plant])
    merging.add(10, 20, [plant])
    assert sorted(one.end_s for one in merging.open) == [10, 20]


def test_a_merging_that_was_stopped_goes_on_as_if_it_had_not_been() -> None:
    rng = np.random.default_rng(3)
    spans = windows(300.0, 5.0)
    names = [[named(f"Turdus {kind}", float(rng.random())) for kind in "abc" if rng.random() < 0.5] for _ in spans]

    def run(merging: Merging, first: int, stop: int) -> list[Detection]:
        return [
            one
            for span, taxa in zip(spans[first:stop], names[first:stop], strict=True)
            for one in merging.add(*span, taxa)
        ]

    whole = Merging()
    expected = run(whole, 0, len(spans)) + whole.open
    for stop in (1, 7, 30):
        first = Merging()
        found = run(first, 0, stop)
        again = Merging([Detection.from_row(row) for row in json.loads(json.dumps(first.rows()))])
        assert found + run(again, stop, len(spans)) + again.open == expected


def test_a_window_is_named_by_its_scores_by_what_is_sure_or_by_its_first_taxon() -> None:
    taxa = [named("Turdus merula", 0.6), named("Turdus viscivorus", 0.5)]
    with_prob = [replace(one, prob=0.4) for one in taxa]
    sure = named("Turdus", 0.6, rank="genus", prob=0.9)
    assert names_of(Answer(taxa=taxa, sure=None), min_score=None) == taxa[:1]
    assert names_of(Answer(taxa=with_prob, sure=None), min_score=None) == []
    assert names_of(Answer(taxa=with_prob, sure=sure), min_score=None) == [sure]
    assert names_of(Answer(taxa=with_prob, sure=sure), min_score=0.1) == with_prob
    assert names_of(Answer(taxa=[], sure=None), min_score=0.9) == []


def test_an_answer_survives_a_trip_through_json() -> None:
    for sure in (None, named("Turdus", rank="genus", prob=0.9)):
        answer = Answer(taxa=[named("Turdus merula", 1 / 3)], sure=sure)
        assert answer_from_row(json.loads(json.dumps(asdict(answer)))) == answer
