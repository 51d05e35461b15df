import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biovita import cli
from biovita.bench.build import make_bench
from biovita.bench.run import score_bench, text_table
from biovita.bench.tasks import DIRECTIONS, LEVELS, SPLITS
from biovita.embed.store import read_embeddings
from biovita.errors import BenchError, EmbeddingError


@pytest.fixture(scope="module")
def bench(make_dataset, tmp_path_factory):
    """A benchmark that no test changes."""
    home = tmp_path_factory.mktemp("run")
    make_bench(make_dataset(home / "dataset", n_species=36, n_withheld=18), home / "bench", seed=1, n_candidates=8)
    return home / "bench"


@pytest.fixture
def embeddings(bench, embed, noisy, tmp_path):
    return embed(bench, tmp_path / "embeddings", noisy(2.0))


def test_results_follow_the_contract(bench, embeddings, tmp_path):
    results = score_bench(bench, embeddings, out=tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["schema"] == 1
    rows = results["scenarios"]
    assert {(r["split"], r["level"], r["direction"]) for r in rows} == {
        (split, level, direction) for split in SPLITS for level in LEVELS for direction in DIRECTIONS
    }
    for row in rows:
        assert row["n_queries"] > 0
        assert row["n_skipped"] == 0
        assert row["chance"]["top1"] == pytest.approx(1 / row["n_candidates"])
        for k in ("top1", "top5", "top10"):
            low, high = row["ci95"][k]
            assert 0 <= low <= row[k] <= high <= 1
        assert row["top1"] <= row["top5"] <= row["top10"]
        assert sum(c["n_queries"] for c in row["by_class"].values()) == row["n_queries"]
        assert set(row["error_consistency"]) == set(LEVELS[LEVELS.index(row["level"]) + 1 :])
    for level in LEVELS:
        for split in SPLITS:
            some = [r["top1"] for r in rows if r["level"] == level and r["split"] == split]
            assert results["mean"][level][split]["top1"] == pytest.approx(np.mean(some))
    run = results["run"]
    assert run["ties"] == "against"
    assert run["missing"] == "error"
    assert run["model"] == "made up"
    assert set(run["scenarios"].values()) == {"run"}


def test_every_measure_can_be_computed_from_the_predictions(bench, embeddings, tmp_path):
    results = score_bench(bench, embeddings, out=tmp_path / "r.json", k=(1, 3))
    table = pl.read_parquet(tmp_path / "r.predictions.parquet")
    genus = {}
    for split in SPLITS:
        index = pl.read_csv(bench / split / "text_index.csv")
        genus |= dict(zip(index["species"], index["genus"], strict=True))
    for row in results["scenarios"]:
        some = table.filter(direction=row["direction"], level=row["level"], split=row["split"])
        assert len(some) == row["n_queries"]
        assert (some["rank"] <= 3).mean() == pytest.approx(row["top3"])
        assert (some["top_taxa"].list.first() == some["correct_taxon"]).mean() == pytest.approx(row["top1"])
        assert (some["top_taxa"].list.len() == min(5, row["n_candidates"])).all()
        assert (some["top_scores"].list.diff().list.drop_nulls().list.max().fill_null(0) <= 0).all()
        if row["level"] == "species" and row["top1"] < 1:
            wrong = some.filter(pl.col("rank") > 1)
            same = [genus[a] == genus[b[0]] for a, b in wrong.select("correct_taxon", "top_taxa").iter_rows()]
            assert row["error_consistency"]["genus"] == pytest.approx(np.mean(same))


def test_two_runs_are_equal_to_the_digit(bench, embeddings, tmp_path):
    for name in ("one", "two"):
        score_bench(bench, embeddings, out=tmp_path / f"{name}.json")
    for end in (".json", ".predictions.parquet"):
        assert (tmp_path / f"one{end}").read_bytes() == (tmp_path / f"two{end}").read_bytes()


def test_a_perfect_model_scores_1_and_a_constant_one_0(bench, embed, tmp_path):
    rng = np.random.default_rng(0)
    known: dict[str, np.ndarray] = {}

    def perfect(modality, level, row):
        """Names of a level point along their own axis; a sound or picture has a part of each of its names."""
        names = [row[rank] for rank in LEVELS] if level is None else [row[level]]
        for name in names:
            known.setdefault(name, np.eye(64)[len(known)])
        return sum(known[name] for name in names)

    for name, vector, value in (
        ("perfect", perfect, 1.0),
        ("constant", lambda *_: np.linspace(-1, 2, 64), 0.0),
    ):
        results = score_bench(bench, embed(bench, tmp_path / name, vector), out=tmp_path / f"{name}.json", k=(1,))
        assert {row["top1"] for row in results["scenarios"]} == {value}, name

    chance = embed(bench, tmp_path / "random", lambda *_: rng.standard_normal(64))
    results = score_bench(bench, chance, out=tmp_path / "random.json", k=(1,))
    n = sum(row["n_queries"] for row in results["scenarios"])
    hits = sum(row["n_queries"] * row["top1"] for row in results["scenarios"])
    expected = sum(row["n_queries"] * row["chance"]["top1"] for row in results["scenarios"])
    assert abs(hits - expected) < 4 * np.sqrt(expected)
    assert n > 1000


@pytest.mark.parametrize("missing", ["skip", "zero"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 1.0])
def test_scored_and_skipped_add_up_to_the_rows(bench, embed, noisy, tmp_path, missing, share):
    rng = np.random.default_rng(0)
    lost = embed(bench, tmp_path / "lost", noisy(1.0), drop=lambda m, _: m == "image" and rng.random() < share)
    results = score_bench(bench, lost, out=tmp_path / "r.json", missing=missing)
    for row in results["scenarios"]:
        rows = len(pl.read_csv(bench / row["split"] / _file(row), infer_schema=False))
        assert row["n_queries"] + row["n_skipped"] == rows
        needs_images = "i" in row["direction"]
        assert (row["n_skipped"] > 0) <= (missing == "skip" and needs_images)
        if share == 1.0 and missing == "skip" and needs_images:
            assert row["n_queries"] == 0
            assert row["top1"] is None
            assert row["ci95"] == {"top1": None, "top5": None, "top10": None}
    if share in (0.0, 1.0):
        n_directions = results["mean"]["species"]["seen"]["n_directions"]
        assert n_directions == (2 if share == 1.0 and missing == "skip" else 6)
    assert "seen species" in text_table(results)


def _file(row):
    letters = {"a": "audio", "i": "image", "t": "text"}
    return f"{row['level']}/test_{letters[row['direction'][0]]}_to_{letters[row['direction'][2]]}.csv"


def test_missing_vectors_are_an_error_by_default(bench, embed, noisy, tmp_path):
    drop = embed(bench, tmp_path / "lost", noisy(1.0), drop=lambda _, name: name in ("genus1_sp3", "world:audio-3-1"))
    with pytest.raises(BenchError, match=r"lacks 1 of the \d+ ids that \S+ needs: (genus1_sp3|world:audio-3-1); embed"):
        score_bench(bench, drop, out=tmp_path / "r.json")
    (drop / "text.parquet").unlink()
    with pytest.raises(EmbeddingError, match=r"text.parquet: no such embedding file"):
        score_bench(bench, drop, out=tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_files_of_two_models_are_refused(bench, embed, noisy, tmp_path):
    one = embed(bench, tmp_path / "one", noisy(1.0))
    two = embed(bench, tmp_path / "two", noisy(1.0), meta={"weights_sha256": "f" * 64})
    (two / "text.parquet").rename(one / "text.parquet")
    with pytest.raises(EmbeddingError, match=f"biovita.weights_sha256 is '{'0' * 64}' in the first and '{'f' * 64}'"):
        score_bench(bench, one, out=tmp_path / "r.json")


def test_several_windows_of_one_item_are_refused(bench, embeddings, tmp_path):
    from biovita.embed.store import write_embeddings

    table = read_embeddings(embeddings / "audio.parquet")
    twice = np.repeat(np.arange(len(table)), 2)
    write_embeddings(
        embeddings / "audio.parquet",
        ids=[table.ids[i] for i in twice],
        modality="audio",
        embedding=table.embedding[twice],
        start_s=[0.0, 10.0] * len(table),
        end_s=[10.0, 20.0] * len(table),
        **table.meta,
    )
    with pytest.raises(EmbeddingError, match="has several vectors; the benchmark needs one an item"):
        score_bench(bench, embeddings, out=tmp_path / "r.json")


def test_one_split_can_be_scored_alone(bench, embeddings, tmp_path):
    results = score_bench(bench, embeddings, out=tmp_path / "r.json", split="seen")
    assert len(results["scenarios"]) == 18
    assert sorted(set(results["run"]["scenarios"].values())) == ["absent: not asked for", "run"]
    with pytest.raises(BenchError, match="no split 'sea'; there is seen and unseen"):
        score_bench(bench, embeddings, out=tmp_path / "r.json", split="sea")


def test_the_official_layout_is_scored(make_official, embed, noisy, tmp_path):
    folder = make_official(tmp_path / "official", 4)
    embeddings = embed(folder, tmp_path / "embeddings", noisy(0.5))
    results = score_bench(folder, embeddings, out=tmp_path / "r.json")
    assert {row["split"] for row in results["scenarios"]} == {"unseen"}
    assert len(results["scenarios"]) == 18
    assert results["run"]["scenarios"]["seen/species/a2t"] == "absent: no split seen"


def run_cli(*words: object) -> int:
    return cli.run([str(word) for word in words])


def test_make_and_score_from_the_command_line(make_dataset, embed, noisy, tmp_path: Path, capsys):
    dataset = make_dataset(tmp_path / "dataset")
    assert run_cli("bench", "make", dataset, "--out", tmp_path / "bench", "--seed", 3, "--candidates", 6) == 0
    assert json.loads((tmp_path / "bench" / "run.json").read_text())["config"]["seed"] == 3
    assert capsys.readouterr().out.count(" queries ") == 36
    embeddings = embed(tmp_path / "bench", tmp_path / "embeddings", noisy(1.0))
    words = ["bench", "score", tmp_path / "bench", "--embeddings", embeddings, "--out", tmp_path / "results.json"]
    assert run_cli(*words) == 0
    printed = capsys.readouterr().out
    assert "unseen family" in printed
    assert "made up" in printed
    assert run_cli(*words, "--json", "--k", 1, 2, "--ties", "order") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "results.json").read_text())
    assert printed["run"]["k"] == [1, 2]
    with pytest.raises(BenchError, match="--k 0"):
        run_cli(*words, "--k", 0)
