"""Queries of several examples: fair between modalities, near-duplicates folded, each against a plain loop."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_entries import content, picture, recording, unit_rows

from biovita.errors import ArchiveError
from biovita.search.archive import Archive, Entry, Hit
from biovita.search.query import NEAR, Example, combine, examples_like, fold, search


def plain_fold(hits: list[Hit], vectors: np.ndarray, near: float) -> list[tuple[str, int]]:
    """Fold one by one: a hit goes to the group of its recording, else to the first that is near, else alone."""
    groups: list[list[int]] = []
    for n, hit in enumerate(hits):
        same = [group for group in groups if any(hits[m].item == hit.item for m in group)]
        alike = [group for group in groups if float(vectors[group[0]] @ vectors[n]) >= near]
        home = (same or alike or [None])[0]
        if home is None:
            groups.append([n])
        else:
            home.append(n)
    return [(hits[group[0]].id, len(group) - 1) for group in groups]


@pytest.mark.parametrize("near", [0.3, 0.9, 2.0])
@pytest.mark.parametrize("n_files", [0, 1, 12])
def test_folding_equals_a_plain_loop(new_archive: Callable[..., Archive], near: float, n_files: int) -> None:
    entries = [recording(n) for n in range(n_files)] + [picture(n) for n in range(n_files)]
    hits, vectors = new_archive(entries).fetch(unit_rows(1)[0], 1000)
    assert [(hit.id, hit.n_alike) for hit in fold(hits, vectors, near=near)] == plain_fold(hits, vectors, near)


def test_a_copy_that_differs_in_a_bit_is_folded_and_a_relative_is_not(new_archive: Callable[..., Archive]) -> None:
    vectors = picture(1).vectors
    assert vectors is not None
    turned = vectors + 0.01 * unit_rows(1, seed=9)
    turned /= np.linalg.norm(turned)
    assert NEAR < float(vectors[0] @ turned[0]) < 1
    relative = vectors + 0.2 * unit_rows(1, seed=9)
    relative /= np.linalg.norm(relative)
    assert float(vectors[0] @ relative[0]) < NEAR
    entries = [picture(1), replace(picture(2), vectors=turned), replace(picture(3), vectors=relative)]
    hits = search(new_archive(entries), [Example(modality="text", vector=vectors[0])])
    assert [(hit.sha256, hit.n_alike) for hit in hits] == [(content(1), 1), (content(3), 0)]


def test_one_example_and_one_modality_keep_the_order_of_the_cosines(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([picture(n) for n in range(50)])
    query = unit_rows(1, seed=5)[0]
    found = search(archive, [Example(modality="text", vector=query, weight=0.3)], k=20)
    plain = archive.nearest(query, k=20)
    assert [hit.id for hit in found] == [hit.id for hit in plain]
    np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in plain], atol=1e-6)


def test_a_mix_equals_a_plain_loop_over_standardised_scores(new_archive: Callable[..., Archive]) -> None:
    entries = [recording(n, 1) for n in range(30)] + [picture(n) for n in range(30)]
    archive = new_archive(entries)
    queries = unit_rows(3, seed=8)
    weights = (1.0, 0.5, -0.7)
    examples = [Example(modality="x", vector=q, weight=w) for q, w in zip(queries, weights, strict=True)]
    standing: dict[str, float] = {}
    for modality in ("audio", "image"):
        rows = {e.sha256: e.vectors[0] for e in entries if e.modality == modality and e.vectors is not None}
        mixed = dict.fromkeys(rows, 0.0)
        for query, weight in zip(queries, weights, strict=True):
            scores = {name: float(vector @ query) for name, vector in rows.items()}
            spread = float(np.std(list(scores.values())))
            mixed = {name: mixed[name] + weight * scores[name] / spread for name in rows}
        mean, spread = float(np.mean(list(mixed.values()))), float(np.std(list(mixed.values())))
        standing |= {name: (value - mean) / spread for name, value in mixed.items()}
    expected = sorted(standing, key=lambda name: -standing[name])[:25]
    found = search(archive, examples, k=25, collapse=False)
    assert [hit.sha256 for hit in found] == expected
    np.testing.assert_allclose([hit.standing for hit in found], [standing[name] for name in expected], atol=1e-4)


def gapped(n: int = 200) -> tuple[list[Entry], np.ndarray]:
    """Make sounds and pictures of the same animals, apart as a model's: sounds near to a text, pictures far."""
    gap = np.zeros((1, 16), np.float32)
    gap[0, 0] = 3.0
    entries, texts = [], unit_rows(n, seed=3)
    for i, text in enumerate(texts):
        for make, side in ((recording, 1.0), (picture, -1.0)):
            vector = text + 0.3 * unit_rows(1, seed=10 * i + int(side) + 1) + side * gap
            entry = make(i, 1) if make is recording else make(i)
            entries.append(replace(entry, vectors=(vector / np.linalg.norm(vector)).astype(np.float32)))
    queries = texts + gap
    return entries, (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def test_a_gap_between_modalities_hides_neither_in_a_search_for_any(new_archive: Callable[..., Archive]) -> None:
    entries, texts = gapped()
    archive = new_archive(entries)
    n_right = {"standing": 0, "score": 0}
    for i, text in enumerate(texts[:40]):
        both = {content(i), content(100_000 + i)}
        found = search(archive, [Example(modality="text", vector=text)], k=6)
        n_right["standing"] += both <= {hit.sha256 for hit in found}
        n_right["score"] += both <= {hit.sha256 for hit in archive.nearest(text, k=6)}
    assert n_right["score"] == 0  # every sound is nearer to a text than any picture
    assert n_right["standing"] > 25


def test_a_long_recording_leaves_room_for_others(new_archive: Callable[..., Archive]) -> None:
    vectors = picture(7).vectors
    assert vectors is not None
    many = np.repeat(vectors, 300, axis=0) + 0.05 * unit_rows(300, seed=4)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    spans = [(10.0 * n, 10.0 * n + 10) for n in range(300)]
    entries = [replace(recording(0), vectors=many, spans=spans), *(recording(n, 1) for n in range(1, 6))]
    archive = new_archive(entries)
    found = search(archive, [Example(modality="image", vector=vectors[0])], to="audio", k=5)
    assert [hit.n_alike for hit in found] == [299, 0, 0, 0, 0]
    assert len({hit.item for hit in found}) == 5
    loose = search(archive, [Example(modality="image", vector=vectors[0])], to="audio", k=5, collapse=False)
    assert len({hit.item for hit in loose}) == 1


def test_more_like_this_leaves_out_the_example_and_less_like_this_pushes_away(
    new_archive: Callable[..., Archive],
) -> None:
    archive = new_archive([picture(n) for n in range(60)])
    ids = [content(n)[:16] for n in range(60)]
    liked = examples_like(archive, ids[:2])
    assert [example.weight for example in liked] == [0.5, 0.5]
    plain = search(archive, liked, k=10)
    assert not {hit.id for hit in plain} & set(ids[:2])
    far = search(archive, liked + examples_like(archive, [plain[0].id], weight=-1.0), k=58)
    assert plain[0].id not in {hit.id for hit in far}
    mean = {name: np.mean([archive.vectors([hit.id])[0] @ archive.vectors([plain[0].id])[0] for hit in hits[:10]])
            for name, hits in (("plain", plain[1:]), ("far", far))}  # fmt: skip
    assert mean["far"] < mean["plain"]


def test_examples_that_say_nothing_are_refused(new_archive: Callable[..., Archive]) -> None:
    archive = new_archive([picture(n) for n in range(9)])
    query = unit_rows(1)[0]
    for examples in ([], [Example(modality="text", vector=query, weight=-1.0)]):
        with pytest.raises(ArchiveError, match="nothing to search for"):
            search(archive, examples)
    with pytest.raises(ArchiveError, match="cancel each other out"):
        combine([Example(modality="text", vector=query, weight=w) for w in (1.0, -1.0)], unit_rows(9))
    with pytest.raises(ArchiveError, match="1 to 100"):
        search(archive, [Example(modality="text", vector=query)], k=0)
    with pytest.raises(ArchiveError, match="no row 'nobody'"):
        examples_like(archive, ["nobody"])
