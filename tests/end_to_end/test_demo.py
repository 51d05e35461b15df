"""The whole demo, small: it finishes, goes on after every kill, does nothing twice, refuses other numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.data.dataset import Dataset, problems
from biovita.embed.store import read_embeddings
from biovita.files import sha256_file

pytestmark = pytest.mark.slow

SPECIES, EPOCHS = 12, 0.1  # with fewer than 10 species not even 5 can be withheld
STEPS = 10


def words(out: Path, *more: str) -> list[str]:
    numbers = ["--species", str(SPECIES), "--epochs", str(EPOCHS)]
    return [sys.executable, "-m", "biovita", "demo", *numbers, "--out", str(out), *more]


def run(out: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words(out, *more), capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == code, done.stderr
    return done


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(once: Callable[..., Path]) -> Path:
    """A finished demo, made once a test run; beside it, in `demo.out` and `demo.err`, what it printed."""

    def make(home: Path) -> None:
        done = run(home / "demo")
        (home / "demo.err").write_text(done.stderr)
        (home / "demo.out").write_text(done.stdout)

    return once("whole", make) / "demo"


def test_the_demo_leaves_a_dataset_a_model_a_benchmark_results_and_a_report(whole: Path) -> None:
    dataset = Dataset.open(whole / "dataset", verify=True)
    assert problems(dataset) == []
    assert set(dataset.media["split"]) >= {"train", "test_seen", "test_unseen"}
    assert dataset.manifest["made_up"] is True
    results = json.loads((whole / "results.json").read_text())
    assert len(results["scenarios"]) == 36
    assert (whole / "results.predictions.parquet").is_file()
    for name in ("audio", "image", "text"):
        vectors = read_embeddings(whole / "embeddings" / f"{name}.parquet").embedding
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    stages = [json.loads(line)["stage"] for line in (whole / "model" / "train_log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == ["pretraining", "stage1", "stage2"]
    page = (whole / "report.html").read_text()
    assert "made-up" in page
    assert len(page) > 100_000


def test_every_table_and_page_of_the_demo_says_that_the_animals_are_made_up(whole: Path) -> None:
    printed = whole.with_name("demo.out").read_text()
    assert "these animals do not exist" in printed
    assert "Report: " in printed
    assert printed.count("  1. ") == 3
    assert printed.count("  sure") == 3
    for path in (whole / "model" / "README.md", whole / "dataset" / "card.md"):
        assert "made up" in path.read_text().lower().replace("-", " ")


def test_a_reader_of_the_demo_can_follow_it_step_by_step(whole: Path) -> None:
    told = whole.with_name("demo.err").read_text()
    for n in range(1, STEPS + 1):
        assert f"[{n}/{STEPS}] " in told
    assert told.count("\n$ biovita ") == STEPS


def test_no_withheld_species_is_in_any_training_item_of_the_demo(whole: Path) -> None:
    dataset = Dataset.open(whole / "dataset")
    withheld = set(dataset.taxa.filter("withheld")["species"])
    assert len(withheld) >= 5
    assert not withheld & set(dataset.media.filter(pl.col("split") != "test_unseen")["species"])
    tokens = json.loads((whole / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    for species in withheld:
        assert f"{species.split()[0].lower()}</w>" not in tokens or species.split()[0] in {
            name.split()[0] for name in dataset.taxa.filter(~pl.col("withheld"))["species"]
        }


def test_a_second_demo_does_nothing_and_shows_the_results_again(whole: Path) -> None:
    before = snapshot(whole)
    done = run(whole, "--json", "--quiet")
    assert done.stderr == ""
    shown = json.loads(done.stdout)
    assert shown["mean"] == json.loads((whole / "results.json").read_text())["mean"]
    assert len(shown["identified"]) == 3
    for one in shown["identified"]:
        assert Path(one["path"]).is_file()
        assert len(one["taxa"]) == 3
    assert snapshot(whole) == before


@pytest.mark.parametrize("other", [("--seed", "2"), ("--species", "14"), ("--epochs", "0.3")])
def test_other_numbers_in_the_same_folder_are_refused(whole: Path, other: tuple[str, str]) -> None:
    before = snapshot(whole)
    done = run(whole, *other, code=2)
    assert done.stderr == f"biovita: {whole}: holds a demo of other numbers; remove it, or choose another --out\n"
    assert done.stdout == ""
    assert snapshot(whole) == before


def n_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else 0


def holds(path: Path, text: str) -> bool:
    return path.is_file() and text in path.read_text()


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while the world is made": lambda out: n_files(out / "world") > 20,
    "while files are checked": lambda out: (out / ".steps" / "world.json").is_file() and n_files(out / "dataset") > 0,
    "while sounds are decoded": lambda out: n_files(out / "dataset" / ".features") > 0,
    "in the middle of stage 1": lambda out: any(
        holds(path, '"stage1"') for path in (out / "models").glob(".stage1.*.part/train_log.jsonl")
    ),
    "while vectors are made": lambda out: n_files(out / "embeddings") > 0,
}


def kill_when(moment: Callable[[Path], bool], out: Path) -> None:
    """Start the demo and kill it, and only it, without a warning; what it had started must go by itself."""
    with subprocess.Popen(
        words(out, "--quiet"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 200
            while not moment(out):
                assert process.poll() is None, "the demo ended before the moment came"
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.kill()
            process.wait()
            deadline = time.monotonic() + 20
            while is_alive(process.pid):
                assert time.monotonic() < deadline, "processes of the killed demo are still there"
                time.sleep(0.05)
        finally:
            if is_alive(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def timeless(path: Path) -> Any:
    """A results file without what says when and where it was made."""
    return {
        key: value for key, value in json.loads(path.read_text()).items() if key not in ("run", "embeddings", "bench")
    }


def same_demo(one: Path, other: Path) -> None:
    for name in ("model/model.safetensors", "model/tokenizer.json", "dataset/media.parquet", "dataset/taxa.parquet"):
        assert sha256_file(one / name) == sha256_file(other / name), name
    assert timeless(one / "results.json") == timeless(other / "results.json")
    for name in ("audio", "image", "text"):
        tables = [read_embeddings(folder / "embeddings" / f"{name}.parquet") for folder in (one, other)]
        assert tables[0].ids == tables[1].ids
        assert (tables[0].embedding == tables[1].embedding).all()


def test_a_demo_killed_at_every_stage_ends_like_one_that_was_not(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    for moment in MOMENTS.values():
        kill_when(moment, out)
        assert not (out / "report.html").exists()
    # Without marks, as after a kill between the end of a step and its mark, every command takes up its own output.
    shutil.rmtree(out / ".steps")
    run(out, "--quiet")
    same_demo(out, request.getfixturevalue("whole"))  # asked for last: another process may make it meanwhile


def test_too_few_species_are_refused_with_the_reason(tmp_path: Path) -> None:
    done = run(tmp_path / "demo", "--species", "4", code=2)
    assert "biovita: " in done.stderr
    assert "Traceback" not in done.stderr
