"""Results side by side: the test over taxa, what may be compared, reference rows, and the pages."""

import itertools
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.bench.build import make_bench
from biovita.bench.compare import MEAN, PAPER, bases, compare_results, holm, read_entry, sign_flip_test
from biovita.bench.run import score_bench
from biovita.bench.tasks import DIRECTIONS, LEVELS, SPLITS
from biovita.errors import BenchError
from biovita.report.leaderboard import headline, html, latex, markdown, write_leaderboard


@pytest.fixture(scope="module")
def home(make_dataset, embed, noisy, tmp_path_factory) -> Path:
    """Four results that no test changes: good, alike (as good, other noise), poor, and good asked with other names."""
    home = tmp_path_factory.mktemp("compare")
    bench = home / "bench"
    make_bench(make_dataset(home / "dataset", n_species=48, n_withheld=24), bench, seed=1, n_candidates=8)
    for n, (name, noise) in enumerate((("good", 1.0), ("alike", 1.0), ("poor", 6.0))):
        embed(bench, home / name, noisy(noise, seed=n), meta={"weights_sha256": str(n) * 64})
        score_bench(bench, home / name, out=home / f"{name}.json")
    shutil.copytree(home / "good", home / "names")
    other = embed(bench, home / "other", noisy(5.0, seed=0), meta={"weights_sha256": "0" * 64})
    shutil.copy(other / "text.parquet", home / "names")
    score_bench(bench, home / "names", out=home / "names.json")
    return home


def compared(home: Path, *names: str, paper: bool = False) -> dict[str, Any]:
    return compare_results([home / f"{name}.json" for name in names], paper=paper)


def test_every_table_names_its_best_and_tests_the_others_against_it(home):
    found = compared(home, "poor", "good", "alike")
    assert [(t["split"], t["level"]) for t in found["tables"]] == [(s, level) for s in SPLITS for level in LEVELS]
    for table in found["tables"]:
        for column in (*DIRECTIONS, MEAN):
            cells = {row["name"]: row["cells"][column] for row in table["rows"]}
            best = max(cell["top1"] for cell in cells.values())
            assert {name for name, cell in cells.items() if cell["is_best"]} == {
                name for name, cell in cells.items() if cell["top1"] == best
            }
            tested = [cell for cell in cells.values() if "p" in cell]
            assert len(tested) == 2
            for cell in tested:
                assert cell["difference"] == pytest.approx(cell["top1"] - best)
                assert 0 < cell["p"] <= cell["p_holm"] <= 1


def test_a_poor_model_is_told_from_a_good_one_and_an_alike_one_is_not(home):
    table = compared(home, "good", "poor", "alike")["tables"][0]
    mean = {row["name"]: row["cells"][MEAN] for row in table["rows"]}
    assert mean["poor"]["p_holm"] < 0.01
    lesser = mean["alike"] if mean["good"]["is_best"] else mean["good"]
    assert lesser["p_holm"] > 0.05
    assert re.match(
        r"Seen species: (good|alike) leads with .*, but (good|alike) .* may be as good", headline_of(home)[0]
    )


def headline_of(home: Path) -> list[str]:
    return headline(compared(home, "good", "poor", "alike"))


def test_models_of_others_are_told_apart_by_their_names(home):
    entries = [read_entry(home / f"{name}.json", name) for name in ("poor", "good", "names")]
    for entry, model in zip(entries, ("ma", "mb", "mb"), strict=True):
        entry.run.update(weights_sha256="", model=model)
    assert [how["what"] for _, how in bases(entries)] == ["model", "names"]


def test_a_change_is_told_from_the_first_and_by_names_from_the_same_weights(home):
    changes = compared(home, "poor", "good", "names")["changes"]
    assert [(c["name"], c["base"], c["what"]) for c in changes] == [
        ("good", "poor", "model"),
        ("names", "good", "names"),
    ]
    rows = {name: json.loads((home / f"{name}.json").read_text())["mean"] for name in ("poor", "good", "names")}
    for change in changes:
        for table in change["tables"]:
            place = table["level"], table["split"]
            one, other = (rows[name][place[0]][place[1]]["top1"] for name in (change["name"], change["base"]))
            assert table["cells"][MEAN]["difference"] == pytest.approx(one - other)
    by_names = changes[1]["tables"][0]["cells"]
    assert by_names["a2i"]["difference"] == 0  # no name is asked there
    assert by_names["a2i"]["p"] == 1
    assert by_names["i2t"]["difference"] < 0


@pytest.mark.parametrize("gain", [[3, 1, -1, 2, 0, 2, 1, -2], [1, 1, 1, 1, 1, 1], [0.25, -0.125, 0.5, 0.3]])
def test_the_test_agrees_with_all_signs_in_turn(gain):
    signs = itertools.product((-1, 1), repeat=len(gain))
    sums = np.array([sum(s * g for s, g in zip(sign, gain, strict=True)) for sign in signs])
    exact = (np.abs(sums) >= abs(sum(gain)) - 1e-9).mean()
    assert sign_flip_test(np.array(gain, float)) == pytest.approx(exact, abs=0.02)


def test_models_that_answer_alike_everywhere_differ_by_luck_alone():
    assert sign_flip_test(np.zeros(5)) == 1
    assert sign_flip_test(np.zeros(0)) == 1


def test_among_equal_models_one_in_twenty_seems_to_differ():
    """Also where the queries of a taxon stand or fall together, which would fool a test that counts queries."""
    rng = np.random.default_rng(0)
    n_taxa, n_runs = 30, 300
    size = rng.integers(1, 40, n_taxa)
    hit = rng.random((2, n_runs, n_taxa)) < 0.4
    alarms = np.mean([sign_flip_test(size * (a.astype(float) - b)) <= 0.05 for a, b in zip(*hit, strict=True)])
    assert 0.02 <= alarms <= 0.08


def test_holm_is_the_textbook_rule():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_published_rows_are_reference_only(home):
    plain, found = compared(home, "good", "poor"), compared(home, "good", "poor", paper=True)
    assert [table["rows"] for table in plain["tables"]] == [table["rows"] for table in found["tables"]]
    assert plain["changes"] == found["changes"]
    assert not any(table["reference"] for table in plain["tables"])
    for table in found["tables"]:
        assert bool(table["reference"]) == (table["level"] == "species")
        for row in table["reference"]:
            assert "2603.23883" in row["source"]
            assert all(set(cell) <= {"top1", "top5"} for cell in row["cells"].values())
    unseen = next(t for t in found["tables"] if (t["split"], t["level"]) == ("unseen", "species"))
    stage2 = next(row for row in unseen["reference"] if row["name"] == "BioVITA stage 2")
    assert stage2["cells"]["a2t"] == {"top1": 0.366, "top5": 0.622}


def test_the_published_means_are_those_of_the_six_numbers():
    published = tomllib.loads(PAPER.read_text())
    rows = {f"{part}/{name}": row for part in ("seen", "unseen", "ablation") for name, row in published[part].items()}
    odd = "ablation/BioVITA without stage 1"  # as printed
    checked = {name: row for name, row in rows.items() if MEAN in row and name != odd}
    assert len(checked) == 11
    for name, row in checked.items():
        for k, mean in enumerate(row[MEAN]):
            assert np.mean([row[d][k] for d in DIRECTIONS]) == pytest.approx(mean, abs=0.11), name


def test_a_model_without_a_modality_has_no_mean(home, embed, noisy, tmp_path):
    silent = embed(home / "bench", tmp_path / "silent", noisy(1.0), meta={"weights_sha256": "9" * 64})
    (silent / "audio.parquet").unlink()
    score_bench(home / "bench", silent, out=home / "silent.json", missing="skip", split="seen")
    found = compared(home, "good", "silent")
    table = found["tables"][0]
    assert set(table["rows"][1]["cells"]) == {"i2t", "t2i"}
    assert MEAN in table["rows"][0]["cells"]
    assert set(found["changes"][0]["tables"][0]["cells"]) == {"i2t", "t2i", MEAN}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "bench_sha256",
            "f" * 64,
            r"other.json: scored with another benchmark than .*good.json \(bench_sha256 f{12}, not",
        ),
        ("ties", "order", r"other.json: scored with another tie rule than .*good.json \(ties order, not against\)"),
        ("k", [2], r"good.json: shares no k with .*other.json; score both with one --k"),
    ],
)
def test_results_that_answer_other_questions_are_refused(home, tmp_path, key, value, message):
    """With the published rows too: those are reference, not results."""
    content = json.loads((home / "poor.json").read_text())
    content["run"][key] = value
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(BenchError, match=message):
        compare_results([home / "good.json", tmp_path / "other.json"], paper=True)


def test_files_that_are_no_results_or_of_other_results_are_refused(home, tmp_path):
    with pytest.raises(BenchError, match=r"none.json: no such results file; make it with `biovita bench score`"):
        compare_results([tmp_path / "none.json"], paper=False)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BenchError, match=r"list.json: not a results file of `biovita bench score`"):
        compare_results([tmp_path / "list.json"], paper=False)
    shutil.copy(home / "good.json", tmp_path / "good.json")
    shutil.copy(home / "poor.predictions.parquet", tmp_path / "good.predictions.parquet")
    with pytest.raises(BenchError, match=r"good.predictions.parquet: not the predictions of .*; score again"):
        compare_results([tmp_path / "good.json"], paper=False)
    with pytest.raises(BenchError, match="two results are called"):
        compare_results([home / "good.json", home / "good.json"], paper=False)


def test_files_of_one_name_are_called_by_their_folders(home, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(home / "good.json", tmp_path / name / "results.json")
        shutil.copy(home / "good.predictions.parquet", tmp_path / name / "results.predictions.parquet")
    found = compare_results([tmp_path / name / "results.json" for name in ("one", "two")], paper=False)
    assert [model["name"] for model in found["models"]] == ["one/results", "two/results"]


def test_without_predictions_nothing_is_tested_and_that_is_said(home, tmp_path, capsys):
    shutil.copy(home / "poor.json", tmp_path / "poor.json")
    found = compare_results([home / "good.json", tmp_path / "poor.json"], paper=False)
    assert "poor.json: no predictions beside it, so nothing of it is tested" in capsys.readouterr().err
    assert not any("p" in cell for t in found["tables"] for row in t["rows"] for cell in row["cells"].values())
    assert "not tested" in headline(found)[0]
    assert "no, no predictions beside it" in html(found)


def test_the_page_stands_alone_and_escapes_names(home, tmp_path):
    name = "a<b>&_{x}"
    for end in (".json", ".predictions.parquet"):
        shutil.copy(home / f"poor{end}", tmp_path / f"{name}{end}")
    found = compare_results([home / "good.json", tmp_path / f"{name}.json", home / "names.json"], paper=True)
    page = html(found)
    assert "<b>&_{x}" not in page
    assert "a&lt;b&gt;&amp;_{x}" in page
    assert not re.search(r"""(src|href)=["']?[^"'#]""", page)
    assert "url(" not in page
    for question in ("RQ1", "RQ2", "RQ3", "RQ4"):
        assert f"<h2>{question}:" in page
    assert "Made-up biosphere" in page
    assert "Left out" not in page
    assert page.count('<svg class="radar"') == page.count("Outer ring")
    assert "Left out: there are no two results of different weights" in html(compared(home, "good"))
    assert r"a<b>\&\_\{x\}" in latex(found)


def test_a_radar_reaches_as_far_as_the_share(home):
    """The point of a direction lies on its spoke at share / outer ring of the way."""
    from biovita.report.leaderboard import CENTRE, RADIUS, radar

    found = compared(home, "good", "poor")
    part = next(part for part in found["classes"] if len(part["rows"]) == 2)
    drawn = radar(part, found)
    points = [tuple(map(float, pair.split(","))) for pair in drawn["lines"][0][0].split()]
    for point, direction in zip(points, DIRECTIONS, strict=True):
        share = part["rows"][0]["shares"].get(direction, 0.0)
        assert np.hypot(point[0] - CENTRE[0], point[1] - CENTRE[1]) == pytest.approx(
            RADIUS * share / (float(drawn["end"]) / 100), abs=0.2
        )


def test_tables_hold_the_numbers_of_the_results(home, tmp_path, biovita):
    ran = biovita(*("bench", "compare", home / "good.json", home / "poor.json", "--paper", "--out", tmp_path / "board"))
    assert ran.code == 0, ran.err
    assert {path.name for path in (tmp_path / "board").iterdir()} == {
        *(f"leaderboard.{end}" for end in ("html", "md", "tex", "csv", "json")),
        "run.json",
    }
    table = pl.read_csv(tmp_path / "board" / "leaderboard.csv")
    assert table.filter("is_reference")["p"].null_count() == table["is_reference"].sum()
    for name in ("good", "poor"):
        for row in json.loads((home / f"{name}.json").read_text())["scenarios"]:
            found = table.filter(name=name, split=row["split"], level=row["level"], direction=row["direction"])
            assert found["share"].item() == pytest.approx(row["top1"])
            assert [found["low"].item(), found["high"].item()] == pytest.approx(row["ci95"]["top1"])
            text = f"{100 * row['top1']:.1f}"
            assert text in ran.out
    assert ran.out == (tmp_path / "board" / "leaderboard.md").read_text()
    tex = (tmp_path / "board" / "leaderboard.tex").read_text()
    assert tex.count(r"\begin{tabular}{lrrrrrrr}") == tex.count(r"\end{tabular}") == 6
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {7}
    assert {line.count("|") for line in ran.out.splitlines() if line.startswith("| ")} == {9}


def test_two_runs_are_equal_to_the_byte(home, tmp_path):
    for name in ("one", "two"):
        write_leaderboard(tmp_path / name, compared(home, "good", "poor", paper=True))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert markdown(compared(home, "good")).count("## ") == 6
