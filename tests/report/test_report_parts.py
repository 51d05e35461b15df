"""Tables, gallery and map against plain loops."""

import csv
import json

import numpy as np
import polars as pl
import pytest
from fabricated import TREE, Run

from biovita.report import figures, plots, space, tables
from biovita.report.gallery import choose
from biovita.report.inputs import DIRECTIONS, LETTERS, Inputs, read_inputs


@pytest.fixture(scope="module")
def inputs(run: Run) -> Inputs:
    return read_inputs(run.results, bench=run.folder / "bench", embeddings=run.folder / "embeddings")


def nearness(one: str, other: str) -> int:
    return next((i for i in range(4) if TREE[one][i] == TREE[other][i]), 4)


def test_confusion_agrees_with_a_plain_loop(run: Run, inputs: Inputs) -> None:
    found = tables.confusion(inputs)
    answers = pl.read_parquet(run.results.with_suffix(".predictions.parquet")).filter(pl.col("level") == "species")
    n_checked = 0
    for split, rows in found.items():
        for errors in rows:
            query, target = LETTERS[errors.direction[0]], LETTERS[errors.direction[2]]
            with (run.folder / "bench" / split / "species" / f"test_{query}_to_{target}.csv").open() as f:
                pools = {row["query_id"]: json.loads(row["candidates_taxa"]) for row in csv.DictReader(f)}
            observed, expected, n = np.zeros(5), np.zeros(5), 0
            for row in answers.iter_rows(named=True):
                if (row["split"], row["direction"]) != (split, errors.direction) or row["rank"] == 1:
                    continue
                n += 1
                observed[nearness(row["correct_taxon"], row["top_taxa"][0])] += 1
                others = [name for name in pools[row["query_id"]] if name != row["correct_taxon"]]
                for name in others:
                    expected[nearness(row["correct_taxon"], name)] += 1 / len(others)
            assert errors.n_wrong == n
            np.testing.assert_allclose(errors.observed, observed / n)
            np.testing.assert_allclose(errors.expected, expected / n)
            n_checked += 1
    assert n_checked > 4


def test_the_gallery_takes_the_first_of_each_kind_in_a_seeded_order(inputs: Inputs) -> None:
    groups = choose(inputs, seed=3)
    assert groups == choose(inputs, seed=3)
    assert [group["direction"] for group in groups[::2]] == list(DIRECTIONS)
    for group in groups:
        for kind, row in group["rows"]:
            near = nearness(row["correct_taxon"], row["top_taxa"][0]) < 2
            if kind in ("best", "worst"):
                assert (row["rank"] == 1) == (kind == "best")
                continue
            assert kind == ("right" if row["rank"] == 1 else "near" if near else "far")
            assert (row["direction"], row["split"], row["level"]) == (group["direction"], group["split"], "species")
    chosen = {seed: str([g["rows"] for g in choose(inputs, seed=seed)]) for seed in range(4)}
    assert len(set(chosen.values())) > 1


def test_the_gallery_shows_the_widest_lead_and_the_lowest_rank(inputs: Inputs) -> None:
    assert inputs.predictions is not None
    n_shown = 0
    for group in choose(inputs, seed=3):
        where = {"direction": group["direction"], "split": group["split"], "level": "species"}
        rows = [row for row in inputs.predictions.iter_rows(named=True) if where.items() <= row.items()]
        shown = dict(group["rows"])
        if "best" in shown:
            lead = max(row["top_scores"][0] - row["top_scores"][1] for row in rows if row["rank"] == 1)
            assert shown["best"]["top_scores"][0] - shown["best"]["top_scores"][1] == pytest.approx(lead)
            n_shown += 1
        if "worst" in shown:
            assert shown["worst"]["rank"] == max(row["rank"] for row in rows)
            n_shown += 1
    assert n_shown > 12


def test_cosines_agree_with_a_plain_loop(inputs: Inputs) -> None:
    assert inputs.catalogue
    assert inputs.embeddings
    sample = space.draw(inputs.embeddings, inputs.catalogue, seed=1)
    unseen = inputs.catalogue.unseen
    for row in space.cosines(sample, unseen):
        for split in ("seen", "unseen"):
            values: dict[str, list[float]] = {"match": [], "random": []}
            for i in range(len(sample)):
                for j in range(len(sample)):
                    if i == j or (sample.modality[i], sample.modality[j]) != row["pair"]:
                        continue
                    if (sample.species[i] in unseen, sample.species[j] in unseen) != (split == "unseen",) * 2:
                        continue
                    kind = "match" if sample.species[i] == sample.species[j] else "random"
                    values[kind].append(float(sample.vector[i] @ sample.vector[j]))
            for kind, expected in values.items():
                got = row[split][kind]
                assert (got is None) == (not expected)
                assert got is None or got == pytest.approx(np.mean(expected), abs=1e-5)


def test_the_sample_is_bounded_and_balanced(inputs: Inputs) -> None:
    assert inputs.catalogue
    assert inputs.embeddings
    sample = space.draw(inputs.embeddings, inputs.catalogue, seed=1, n=10)
    assert 10 <= len(sample) <= 10 + 3 * space.N_PER_SPECIES
    whole = space.draw(inputs.embeddings, inputs.catalogue, seed=1)
    assert set(whole.species) == set(TREE)
    assert max(np.unique(whole.species, return_counts=True)[1]) <= 2 * space.N_PER_SPECIES + 1


def test_steps_count_on_across_stages() -> None:
    log = [{"stage": s, "step": n} for s, last in (("a", 3), ("b", 2), ("b", 2)) for n in range(1, last + 1)]
    steps, stages = figures.steps_in_a_row(log)
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert stages == [("a", 0), ("b", 3), ("b", 5)]


def test_a_long_curve_keeps_its_mean() -> None:
    points = [(float(i), float(i % 7)) for i in range(10_001)]
    line = figures.binned(points, "c0")
    assert len(line.x) == figures.N_BINS
    assert line.y.mean() == pytest.approx(3.0, abs=0.05)


def test_a_spectrogram_shows_a_tone_at_its_height() -> None:
    import io

    from PIL import Image

    tone = np.sin(2 * np.pi * 7000 * np.arange(48_000) / 48_000).astype(np.float32)
    picture = np.asarray(Image.open(io.BytesIO(plots.spectrogram(tone, 48_000, 60, 100))).convert("L"))
    assert picture.shape == (100, 60)
    assert abs(int(picture[:, 30].argmin()) - 50) <= 2
    for n in (0, 1, 500):
        assert plots.spectrogram(np.zeros(n, np.float32), 48_000, 60, 100)


def test_few_groups_have_colours_and_many_share_grey() -> None:
    hue, legend = space.hues(["a"] * 3 + ["b"] * 2 + ["c", "d"], 2)
    assert hue == [0, 0, 0, 1, 1, 2, 2]
    assert legend == [("a", 0), ("b", 1), ("2 others", 2)]


def test_words_for_numbers() -> None:
    assert tables.share_text(0.345) == "34\u202f%"
    assert tables.share_text(0.0345) == "3.5\u202f%"
    assert tables.share_text(None) == "—"
    assert tables.times_text(0.34, 0.01) == "34"
    assert tables.times_text(0.05, 0.04) == "1.2"
    assert tables.count_text(12345) == "12\u202f345"
    assert tables.cosine_text(-0.5) == "\u22120.50"
