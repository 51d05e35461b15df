"""`biovita bench run`: one command from a model and a benchmark to scores and a page, in any of their layouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biovita.bench import fetch
from biovita.bench.run import score_bench
from biovita.commands import bench_run
from biovita.files import read_json


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep texts and converted models in a folder of the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("BIOVITA_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def bench(made_up: Path, once: Callable[..., Path]) -> Path:
    """All 36 scenarios of the made-up dataset, beside it. Do not write in it."""
    from biovita.bench.build import make_bench

    def make(home: Path) -> None:
        make_bench(made_up, home / "bench", seed=1, n_candidates=6)

    return once("bench_run", make) / "bench"


@pytest.fixture(scope="module")
def release(bench: Path, made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unseen split as the hub's repository holds it: lists in unseen/benchmark, media beside, no manifest."""
    import shutil

    import polars as pl

    root = tmp_path_factory.mktemp("hub") / "BioVITA"
    shutil.copytree(bench / "unseen", root / "unseen" / "benchmark")
    for modality in ("audio", "image"):
        index = root / "unseen" / "benchmark" / f"{modality}_index.csv"
        table = pl.read_csv(index, infer_schema=False)
        (root / "unseen" / modality).mkdir()
        names = [f"{modality}/{n}{Path(path).suffix}" for n, path in enumerate(table["file_path"])]
        for name, path in zip(names, table["file_path"], strict=True):
            shutil.copy(made_up / path, root / "unseen" / name)
        table.with_columns(file_path=pl.Series(names)).write_csv(index)
    return root


@pytest.fixture(scope="module")
def finished(bench: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Do not write in it."""
    from biovita import cli

    out = tmp_path_factory.mktemp("run") / "out"
    assert cli.run(["bench", "run", str(model_folder), str(bench), "--out", str(out), "--quiet"]) == 0
    return out


def files_of(out: Path) -> dict[str, tuple[int, int]]:
    """Say for every file when it was written and where it lies, which a file written anew changes."""
    names = ("results.json", "results.predictions.parquet", "report.html", *(f"vectors/{m}.parquet" for m in MEDIA))
    return {name: ((out / name).stat().st_mtime_ns, (out / name).stat().st_ino) for name in names}


MEDIA = ("audio", "image", "text")


def test_one_command_gives_the_scores_of_three_and_a_page(
    biovita: Callable[..., Any], bench: Path, model_folder: Path, finished: Path, tmp_path: Path
) -> None:
    assert biovita("bench", "embed", bench, "--model", model_folder, "--out", tmp_path / "vectors").code == 0
    apart = score_bench(bench, tmp_path / "vectors", out=tmp_path / "results.json")
    together = read_json(finished / "results.json")
    assert together["scenarios"] == apart["scenarios"]
    assert len(together["scenarios"]) == 36
    page = (finished / "report.html").read_text()
    assert "untrained on bench" in page
    assert "Made-up biosphere" in page
    run = read_json(finished / "run.json")
    assert run["bench_sha256"] == together["run"]["bench_sha256"]
    assert run["n_refused"] == 0


def test_a_finished_run_does_nothing_again(
    biovita: Callable[..., Any], bench: Path, model_folder: Path, finished: Path
) -> None:
    before = files_of(finished)
    ran = biovita("bench", "run", model_folder, bench, "--out", finished)
    assert ran.code == 0
    assert files_of(finished) == before
    assert ran.err.count("done by an earlier run") == 6  # three kinds of vectors, two name forms, the page
    assert "unseen species" in ran.out
    assert "paper" not in ran.out, "made-up animals have no published numbers"


def test_only_what_a_change_concerns_is_done_again(
    biovita: Callable[..., Any], bench: Path, model_folder: Path, finished: Path, tmp_path: Path
) -> None:
    import shutil

    out = shutil.copytree(finished, tmp_path / "out")
    before = files_of(out)
    (out / "report.html").write_text("spoilt")
    assert biovita("bench", "run", model_folder, bench, "--out", out, "--quiet").code == 0
    after = files_of(out)
    assert {name for name in before if before[name] != after[name]} == {"report.html"}
    assert (out / "report.html").read_text() == (finished / "report.html").read_text()
    before = files_of(out)
    assert biovita("bench", "run", model_folder, bench, "--out", out, "--missing", "skip", "--quiet").code == 0
    after = files_of(out)
    assert {name for name in before if before[name] == after[name]} == {f"vectors/{kind}.parquet" for kind in MEDIA}
    assert read_json(out / "results.json")["run"]["missing"] == "skip"


def test_another_model_is_refused_in_the_same_folder(
    biovita: Callable[..., Any], new_encoder: Any, bench: Path, finished: Path, tmp_path: Path
) -> None:
    from biovita.models import hub

    hub.save(new_encoder(seed=2), tmp_path / "other", card="# other\n")
    before = files_of(finished)
    ran = biovita("bench", "run", tmp_path / "other", bench, "--out", finished)
    assert ran.code == 2
    assert "holds another run: its model is 'untrained', now it is 'other'" in ran.err
    assert files_of(finished) == before


def test_hub_names_of_model_and_benchmark_run_offline_from_folders_in_the_published_layouts(
    biovita: Callable[..., Any], release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from biovita.models import hub
    from layouts import write_release

    write_release(tmp_path / "weights")
    asked = []

    def give(name: str, *, repo_type: str = "model", **_: Any) -> str:
        asked.append((name, repo_type))
        return str(release if repo_type == "dataset" else tmp_path / "weights")

    monkeypatch.setattr(fetch, "snapshot_download", give)
    monkeypatch.setattr(hub, "snapshot_download", give)
    name = "risashinoda/BioVITA"
    ran = biovita("bench", "run", name, name, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert ("risashinoda/BioVITA", "dataset") in asked
    results = read_json(tmp_path / "out" / "results.json")
    assert len(results["scenarios"]) == 18
    assert results["run"]["model"] == name
    lines = [line.split() for line in ran.out.splitlines() if line.startswith("unseen a2t")]
    (line,) = lines
    results = read_json(tmp_path / "out" / "results.common_name.json")
    row = next(r for r in results["scenarios"] if (r["level"], r["direction"]) == ("species", "a2t"))
    assert line[2:5] == [str(row["n_queries"]), f"{100 * row['top1']:.1f}", "36.6"]


def test_a_file_without_sound_is_left_out_and_counted_and_the_run_goes_on(
    biovita: Callable[..., Any], release: Path, model_folder: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(release, tmp_path / "bench")
    clips = sorted(path.name for path in (folder / "unseen" / "audio").iterdir())
    photos = sorted((folder / "unseen" / "image").iterdir())
    broken = folder / "unseen" / "audio" / clips[0]
    good = broken.read_bytes()
    broken.write_text("<html>not found</html>")
    shutil.copy(photos[0], folder / "unseen" / "audio" / clips[1])
    words = ("bench", "run", model_folder, folder, "--out", tmp_path / "out")
    ran = biovita("--json", *words)
    assert ran.code == 3
    assert json.loads(ran.out)["n_refused"] == 2
    assert "2 files hold nothing to embed" in ran.err
    results = read_json(tmp_path / "out" / "results.json")
    assert results["run"]["left_out"] == {"html_document": 1, "wrong_modality": 1}
    skipped = {(row["direction"], row["level"]): row["n_skipped"] for row in results["scenarios"]}
    assert skipped["a2t", "species"] == skipped["a2i", "genus"] == 2
    assert skipped["i2t", "species"] == 0
    before = (tmp_path / "out" / "vectors" / "image.parquet").stat().st_mtime_ns
    broken.write_bytes(good)
    shutil.copy(release / "unseen" / "audio" / clips[1], folder / "unseen" / "audio" / clips[1])
    assert biovita(*words, "--quiet").code == 0, "the mended files were not embedded"
    assert read_json(tmp_path / "out" / "results.json")["run"]["left_out"] == {}
    assert (tmp_path / "out" / "vectors" / "image.parquet").stat().st_mtime_ns == before, "pictures were embedded again"


def test_a_file_that_is_not_there_is_an_error_that_names_it(
    biovita: Callable[..., Any], release: Path, model_folder: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(release, tmp_path / "bench")
    lost = min((folder / "unseen" / "image").iterdir())
    lost.unlink()
    words = ("bench", "run", model_folder, folder, "--out", tmp_path / "out")
    ran = biovita(*words)
    assert ran.code == 2
    assert "lacks 1 of the" in ran.err
    ran = biovita("--json", *words, "--missing", "skip")
    assert ran.code == 3
    assert json.loads(ran.out)["n_refused"] == 1


def test_each_name_form_is_scored_and_only_texts_are_embedded_again(
    biovita: Callable[..., Any], bench: Path, model_folder: Path, finished: Path, tmp_path: Path
) -> None:
    import shutil

    common = read_json(finished / "results.common_name.json")
    assert common["run"]["names"] == "common_name"
    apart = score_bench(bench, finished / "vectors", out=tmp_path / "r.json", names="common_name")
    assert common["scenarios"] == apart["scenarios"]
    out = shutil.copytree(finished, tmp_path / "out")
    before = files_of(out)
    ran = biovita("bench", "run", model_folder, bench, "--out", out, "--names", "taxonomy", "species")
    assert ran.code == 0, ran.err
    assert "seen taxonomy" in ran.out
    after = files_of(out)
    assert {name for name in before if before[name] == after[name]} == {
        "vectors/audio.parquet",
        "vectors/image.parquet",
    }
    assert read_json(out / "results.json")["run"]["names"] == "taxonomy"
    ran = biovita("bench", "run", model_folder, bench, "--out", out, "--names", "klingon")
    assert ran.code == 2
    assert "--names klingon: no such name form here; this benchmark has species" in ran.err or "common_name" in ran.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/such/place", "no such benchmark folder, and not a hub name"),
        ("./missing", "no such benchmark folder, and not a hub name"),
        ("owner/name", "--offline forbids to ask the hub"),
    ],
)
def test_a_benchmark_that_cannot_be_had_is_one_line(
    biovita: Callable[..., Any], model_folder: Path, tmp_path: Path, name: str, said: str
) -> None:
    ran = biovita("--offline", "bench", "run", model_folder, name, "--out", tmp_path / "out")
    assert ran.code == 2
    assert said in ran.err
    assert name in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_comparison_names_difference_and_published_number() -> None:
    row = {"split": "unseen", "level": "species", "direction": "t2i", "n_queries": 288, "top1": 0.9, "top5": 0.95}
    results = {"scenarios": [row, {**row, "level": "genus"}], "run": {"made_up": False}}
    table = bench_run.published_table(bench_run.published(results))
    (line,) = [line for line in table.splitlines() if line.startswith("unseen")]
    assert line.split() == ["unseen", "t2i", "288", "90.0", "86.5", "+3.5", "95.0", "96.2", "-1.2"]
    assert bench_run.published_table(bench_run.published({**results, "run": {"made_up": True}})) == ""
