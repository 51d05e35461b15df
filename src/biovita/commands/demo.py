"""`biovita demo`: the whole of BioVITA on a made-up biosphere; every step is the command that users type.

A finished step leaves a mark in OUT/.steps with the hash of its words and of the steps before it; an interrupted demo
goes on behind the last mark, and each command goes on by itself where it can.
"""

import contextlib
import io
import math
import shlex
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from biovita.commands.table import call
from biovita.errors import ConfigError
from biovita.files import MANIFEST, read_json, sha256_json, write_json
from biovita.log import SETTINGS, duration, emit, say

TITLE = "BioVITA on a made-up biosphere"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Make a biosphere, build the dataset, train both stages, score 36 scenarios, write a report, name three files."""

    out: Path = Path("demo")
    """Folder for everything; run the same command again to go on after an interruption."""
    seed: int = 1
    """Of the biosphere, the splits, the training and the candidate pools."""
    species: int = 400
    """Species in the biosphere; a quarter of them is withheld from training."""
    epochs: float = 1.0
    """Factor on the length of all training stages."""


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Attributes:
        name: of its mark.
        title: what it does, for people.
        words: the command as a user would type it, without `biovita`.
        output: what it leaves behind when it is finished.
        share: its share of the whole time, measured on two cores (docs/results/demo.md); used for the time left.
    """

    name: str
    title: str
    words: list[str]
    output: Path
    share: float


def steps_of(config: Demo) -> list[Step]:
    """List the demo's commands in order."""
    out, seed = config.out, str(config.seed)
    data, model, bench = str(out / "dataset"), str(out / "model"), str(out / "bench")
    results, vectors = str(out / "results.json"), str(out / "embeddings")
    world = ["--species", str(config.species), "--recordings", "6", "--images", "6", "--seed", seed, "--workers", "2"]
    withheld = str(max(5, config.species // 4))
    return [
        Step(
            "world",
            "make a biosphere",
            ["world", "make", "--out", str(out / "world"), *world],
            out / "world" / MANIFEST,
            0.17,
        ),
        Step(
            "dataset",
            "check every file, split, withhold species",
            [
                *("data", "build", "--manifest", str(out / "world" / "records.parquet"), "--out", data),
                *("--withheld", withheld, "--seed", seed, "--workers", "2"),
            ],
            out / "dataset" / MANIFEST,
            0.05,
        ),
        _stage(
            config, "pretraining", "tiny", "models/pretraining", "image-text pretraining, in place of BioCLIP 2", 0.27
        ),
        _stage(config, "stage1", "models/pretraining", "models/stage1", "stage 1: sound to name", 0.25),
        _stage(config, "stage2", "models/stage1", "model", "stage 2: sound, picture and name", 0.16),
        Step(
            "calibrate",
            "make scores probabilities",
            ["model", "calibrate", model, "--data", data, "--seed", seed],
            out / "model" / "calibration.json",
            0.02,
        ),
        Step(
            "bench",
            "make 36 scenarios",
            ["bench", "make", data, "--out", bench, "--seed", seed],
            out / "bench" / MANIFEST,
            0.01,
        ),
        Step(
            "embed",
            "embed test media",
            ["bench", "embed", bench, "--model", model, "--out", vectors],
            out / "embeddings" / "run.json",
            0.03,
        ),
        Step(
            "score",
            "score",
            ["bench", "score", bench, "--embeddings", vectors, "--out", results],
            out / "results.json",
            0.01,
        ),
        Step(
            "report",
            "write the report",
            [
                *("report", results, "--out", str(out / "report.html"), "--model", model, "--dataset", data),
                *("--bench", bench, "--embeddings", vectors, "--title", TITLE),
            ],
            out / "report.html",
            0.03,
        ),
    ]


def _stage(config: Demo, name: str, start: str, end: str, title: str, share: float) -> Step:
    run_file = str(package_files("biovita") / "runs" / "demo" / f"{name}.toml")
    start = start if start == "tiny" else str(config.out / start)
    words = ["train", run_file, "--data", str(config.out / "dataset"), "--from", start, "--out", str(config.out / end)]
    words += ["--recipe.seed", str(config.seed)]
    if config.epochs != 1.0:
        import tomllib

        epochs = tomllib.loads(Path(run_file).read_text(encoding="utf-8"))["recipe"]["epochs"]
        words += ["--recipe.epochs", str(max(1, round(epochs * config.epochs)))]
    return Step(name, title, words, config.out / end / "run.json", share)


def run_demo(config: Demo) -> int:
    """Run what is not finished yet, then show the table, the report's path and three identified files."""
    if not 0 < config.epochs < math.inf:
        raise ConfigError(f"--epochs {config.epochs:g}: give a factor above 0")
    steps = steps_of(config)
    marks = config.out / ".steps"
    began, done_before, done = time.monotonic(), 0.0, 0.0
    key = ""
    for n, step in enumerate(steps, 1):
        key = sha256_json([key, _words_for_key(step, config)])
        mark = marks / f"{step.name}.json"
        if mark.is_file():
            if read_json(mark)["key"] != key:
                raise ConfigError(f"{config.out}: holds a demo of other numbers; remove it, or choose another --out")
            if step.output.exists():
                done_before += step.share
                done += step.share
                continue
        elapsed = time.monotonic() - began
        fresh = done - done_before
        left = f", about {duration(elapsed * (1 - done) / fresh)} left" if fresh else ""
        say(f"\n[{n}/{len(steps)}] {step.title}{left}\n$ biovita {shlex.join(step.words)}")
        started = time.monotonic()
        run_step(step.words)
        done += step.share
        write_json(mark, {"key": key, "seconds": round(time.monotonic() - started, 1)})
    seconds = {step.name: read_json(marks / f"{step.name}.json")["seconds"] for step in steps}
    show(config, seconds)
    return 0


def run_step(words: list[str]) -> None:
    """Run a command inside the demo; what it would print on standard output is talk here."""
    wanted_json, SETTINGS.json = SETTINGS.json, False
    try:
        with contextlib.redirect_stdout(io.StringIO() if SETTINGS.quiet else sys.stderr):
            code = call(words)
    finally:
        SETTINGS.json = wanted_json
    if code:
        raise ConfigError(f"biovita {shlex.join(words)}: ended with exit code {code}")


def _words_for_key(step: Step, config: Demo) -> list[str]:
    """Leave the folder's own name out, so that a demo folder may be moved."""
    run_files = [Path(word).read_text(encoding="utf-8") for word in step.words if word.endswith(".toml")]
    return [version("biovita"), *run_files, *(word.replace(str(config.out), "OUT") for word in step.words[2:])]


def show(config: Demo, seconds: dict[str, float]) -> None:
    """Print the table, the path of the report and three identified files with the truth beside them."""
    from biovita.bench.run import text_table
    from biovita.data.dataset import Dataset

    results = read_json(config.out / "results.json")
    picks = pick_files(Dataset.open(config.out / "dataset"), config.seed)
    answers = name_files(config.out / "model", [path for path, _ in picks])
    if SETTINGS.json:
        emit(
            {
                "report": str(config.out / "report.html"),
                "mean": results["mean"],
                "seconds": seconds,
                "identified": [
                    {
                        "path": str(path),
                        "truth": truth,
                        "taxa": [one.name for one in found.taxa],
                        "sure": found.sure and found.sure.name,
                    }
                    for (path, truth), found in zip(picks, answers, strict=True)
                ],
            }
        )
        return
    print(f"\n{TITLE}: these animals do not exist.\n\n{text_table(results)}\n")
    print(f"Report: {config.out / 'report.html'}   ({duration(sum(seconds.values()))} in all)\n")
    for (path, truth), found in zip(picks, answers, strict=True):
        print(f"{path}\n  is {truth}")
        for n, one in enumerate(found.taxa, 1):
            right = "  <- right" if one.name == truth.split(" (")[0] else ""
            how_sure = f"score {one.score:+.3f}" if one.prob is None else f"probability {one.prob:.0%}"
            print(f"  {n}. {one.name} ({one.common_name}), {how_sure}{right}")
        sure = found.sure
        print(f"  sure: {sure.rank} {sure.name}, {sure.prob:.0%}" if sure else "  sure of no rank")


def pick_files(dataset: Any, seed: int) -> list[tuple[Path, str]]:
    """Draw three test files by the seed: a photo and a recording of seen species, a recording of an unseen one."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng([seed, 91])
    picks = []
    for modality, split in (("image", "test_seen"), ("audio", "test_seen"), ("audio", "test_unseen")):
        rows = dataset.media.filter((pl.col("modality") == modality) & (pl.col("split") == split))
        row = rows.row(int(rng.integers(len(rows))), named=True)
        picks.append(
            (dataset.path(row["path"]), f"{row['species']} ({row['common_name']}), {split.replace('_', ', ')}")
        )
    return picks


def name_files(model: Path, paths: list[Path]) -> list[Any]:
    """Rank the model's own species for each file."""
    from biovita.identify.answer import WINDOW, Identifier
    from biovita.identify.calibrate import read_calibration
    from biovita.identify.labels import read_labels
    from biovita.models.hub import load

    encoder = load(str(model))
    identifier = Identifier(encoder, read_labels(encoder), calibration=read_calibration(encoder.folder))
    answers = []
    for path in paths:
        kind = "image" if path.suffix in (".jpg", ".png") else "audio"
        vectors = encoder.embed_image([path]) if kind == "image" else encoder.embed_audio([path], window=WINDOW)
        answers += identifier.answers(vectors, kind, k=3)
    return answers
