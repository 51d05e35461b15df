"""What two stages, each loss, pretraining and each recipe are worth, on a world made for it; three seeds of everything.

    python benchmarks/study.py FOLDER [--seeds 1 2 3] [--variants two_stages ours ...] > page.md

For each seed a world of 320 made-up species, of which 100 are withheld, is made, with its dataset and its benchmark of
36 scenarios. All variants of a seed start from the same image-text pretraining, which stands in for BioCLIP 2, and see
as many samples; tiny towers; the run files are in runs/study. Two commands run at a time, with one torch thread each.
What is finished lies in FOLDER under the hash of its run files and flags and is not run again; after a change of a run
file only what depends on it is, after a change of the code choose another FOLDER. Intervals are Student's over the
seeds; differences are paired by seed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from biovita.config import commit
from biovita.files import MANIFEST, read_json, sha256_json

RUNS = Path(__file__).parents[1] / "runs" / "study"
DIRECTIONS = ("a2t", "t2a", "a2i", "i2a", "i2t", "t2i")
SPLITS = ("seen", "unseen")
SPECIES, WITHHELD, RECORDINGS, IMAGES = 320, 100, 6, 6
AT_ONCE = 2
QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # Student's t, 97.5 %, n values
BASE = "two_stages"


@dataclass(frozen=True)
class Stage:
    """A run file of runs/study, and flags that change it."""

    name: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A recipe of one or more stages."""

    title: str
    stages: tuple[Stage, ...]


def without(loss: str) -> Stage:
    return Stage("stage2", (f"--recipe.{loss}", "0"))


def faster(name: str) -> Stage:
    """Take a stage of the released code at ten times its rates, which were chosen for towers that know something."""
    recipe = tomllib.loads((RUNS / f"{name}.toml").read_text())["recipe"]
    flags = ["--recipe.learning-rate", str(10 * recipe["learning_rate"])]
    if "rates" in recipe:
        flags += [
            "--recipe.rates",
            *(w for pattern, rate in recipe["rates"].items() for w in (pattern, str(10 * rate))),
        ]
    return Stage(name, tuple(flags))


RELEASE = ("stage1_release", "stage2_release_warmup", "stage2_release")
PRE, FIRST, SECOND = Stage("pretraining"), Stage("stage1"), Stage("stage2")
VARIANTS = {
    BASE: Variant("two stages, in the paper's order", (PRE, FIRST, SECOND)),
    "stage1": Variant("stage 1 alone, as long as both", (PRE, Stage("stage1", ("--recipe.epochs", "13")))),
    "all_losses": Variant(
        "all losses from the start",
        (PRE, Stage("stage2", ("--recipe.epochs=13", "--recipe.ramp-epochs=0", "--recipe.learning-rate=1e-3"))),
    ),
    "no_atc": Variant("two stages, stage 2 without ATC", (PRE, FIRST, without("audio-text"))),
    "no_aic": Variant("two stages, stage 2 without AIC", (PRE, FIRST, without("audio-image"))),
    "no_itc": Variant("two stages, stage 2 without ITC", (PRE, FIRST, without("image-text"))),
    "no_pretraining": Variant("two stages, no pretraining", (FIRST, SECOND)),
    "paper": Variant("the paper's numbers", (PRE, Stage("stage1_paper"), Stage("stage2_paper"))),
    "release": Variant("the released code's", (PRE, *map(Stage, RELEASE))),
    "release_faster": Variant("the released code's, at ten times its rates", (PRE, *map(faster, RELEASE))),
    "ours": Variant("ours", (PRE, Stage("ours"))),
    "no_kinship": Variant("ours without kinship", (PRE, Stage("ours", ("--recipe.kinship", "0")))),
}


@dataclass(frozen=True)
class World:
    """What one seed makes.

    Attributes:
        folder: of all that belongs to the seed.
        seed: of the world, the splits, the candidate pools and the training.
    """

    folder: Path
    seed: int

    def make(self) -> None:
        """Make world, dataset and benchmark."""
        world, data, bench, seed = self.folder / "world", self.data, self.bench, ["--seed", str(self.seed)]
        if not (data / MANIFEST).is_file():
            counts = ["--species", str(SPECIES), "--recordings", str(RECORDINGS), "--images", str(IMAGES)]
            biovita("world", "make", "--out", world, *counts, *seed, "--workers", "1")
            how = ["--withheld", str(WITHHELD), *seed, "--workers", "1"]
            biovita("data", "build", "--manifest", world / "records.parquet", "--out", data, *how)
        biovita("bench", "make", data, "--out", bench, *seed)

    @property
    def data(self) -> Path:
        return self.folder / "dataset"

    @property
    def bench(self) -> Path:
        return self.folder / "bench"

    def model(self, stages: Sequence[Stage]) -> Path:
        """Name the folder of the model that these stages leave."""
        made_of = [[(RUNS / f"{stage.name}.toml").read_text(), stage.flags] for stage in stages]
        return self.folder / "models" / f"{stages[-1].name}-{sha256_json(made_of)[:10]}"

    def train(self, stages: Sequence[Stage]) -> None:
        """Run the last of these stages."""
        out, last = self.model(stages), stages[-1]
        if not out.is_dir():
            start = self.model(stages[:-1]) if len(stages) > 1 else "tiny"
            words = ["--data", self.data, "--from", start, "--out", out, "--recipe.seed", str(self.seed)]
            biovita("train", RUNS / f"{last.name}.toml", *words, *last.flags)

    def score(self, stages: Sequence[Stage]) -> None:
        """Embed the benchmark with the model of these stages, and score it."""
        model, out = self.model(stages), self.results(stages)
        if not out.is_file():
            vectors = out.with_name("vectors")
            biovita("bench", "embed", self.bench, "--model", model, "--out", vectors)
            biovita("bench", "score", self.bench, "--embeddings", vectors, "--out", out)

    def results(self, stages: Sequence[Stage]) -> Path:
        return self.folder / "scores" / self.model(stages).name / "results.json"


def biovita(*words: str | Path) -> None:
    command = [sys.executable, "-m", "biovita", *map(str, words), "--quiet"]
    began = time.monotonic()
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    print(f"{time.monotonic() - began:6.0f} s  {' '.join(command[3:])}", file=sys.stderr, flush=True)


def run(worlds: Sequence[World], variants: Iterable[Variant]) -> None:
    """Do all that is not done yet, stage by stage."""
    chains = list(dict.fromkeys(variant.stages for variant in variants))
    together([world.make for world in worlds])
    for n in range(1, max(map(len, chains)) + 1):
        begun = dict.fromkeys(chain[:n] for chain in chains if len(chain) >= n)
        together(partial(world.train, stages) for world in worlds for stages in begun)
    together(partial(world.score, stages) for world in worlds for stages in chains)


def together(jobs: Iterable[Callable[[], None]]) -> None:
    """Do jobs, so many at a time; after one that fails begin no other."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def interval(values: Sequence[float]) -> str:
    """Write the mean of some shares in percent, with what lies to either side of it."""
    mean = 100 * statistics.mean(values)
    if len(values) not in QUANTILE:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {100 * QUANTILE[len(values)] * statistics.stdev(values) / len(values) ** 0.5:.1f}"


def top1(results: dict[str, Any], split: str, direction: str) -> float:
    wanted = (direction, "species", split)
    return next(s["top1"] for s in results["scenarios"] if (s["direction"], s["level"], s["split"]) == wanted)


def page(worlds: Sequence[World], variants: dict[str, Variant]) -> str:
    """Write the tables."""
    found = {name: [read_json(world.results(v.stages)) for world in worlds] for name, v in variants.items()}
    means = {
        (name, split): [results["mean"]["species"][split]["top1"] for results in many]
        for name, many in found.items()
        for split in SPLITS
    }
    lines = [
        "# Study: what the stages, the losses and the recipes are worth",
        "",
        "Made-up animals and tiny towers: these numbers compare recipes and say nothing about real species.",
        "",
        f"    python benchmarks/study.py FOLDER --seeds {' '.join(str(world.seed) for world in worlds)}",
        "",
        f"{SPECIES} species, {WITHHELD} of them withheld, about {RECORDINGS} recordings and {IMAGES} pictures each; a",
        f"world, splits, pools and training for each of {len(worlds)} seeds; commit {commit()}. Top-1 in percent at",
        "species level, mean of six directions, 100 candidates (chance 1.0); ±: half of a 95 % interval over the seeds",
        "(Student's). Difference: to the first row, paired by seed. Samples: draws after pretraining.",
        "",
        "| recipe | seen | unseen | difference, seen | difference, unseen | samples | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, variant in variants.items():
        cells = [interval(means[name, split]) for split in SPLITS]
        for split in SPLITS:
            pairs = zip(means[name, split], means[BASE, split], strict=True)
            cells.append("" if name == BASE else interval([one - other for one, other in pairs]))
        chains = [variant.stages[: n + 1] for n, stage in enumerate(variant.stages) if stage != PRE]
        stages = [read_json(world.model(chain) / "run.json") for world in worlds for chain in chains]
        samples = sum(run["n_steps"] * run["config"]["recipe"]["batch_size"] for run in stages) / len(worlds)
        minutes = sum(run["seconds"] for run in stages) / len(worlds) / 60
        lines.append(f"| {variant.title} | {' | '.join(cells)} | {samples:,.0f} | {minutes:.1f} |")
    for split in SPLITS:
        lines += ["", f"## {split.capitalize()} species, by direction", "", f"| recipe | {' | '.join(DIRECTIONS)} |"]
        lines.append("|---|" + "---|" * len(DIRECTIONS))
        for name, variant in variants.items():
            cells = [interval([top1(results, split, d) for results in found[name]]) for d in DIRECTIONS]
            lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    worlds = [World(args.folder / f"seed{seed}", seed) for seed in args.seeds]
    variants = {name: VARIANTS[name] for name in dict.fromkeys([BASE, *args.variants])}
    run(worlds, variants.values())
    print(page(worlds, variants))


if __name__ == "__main__":
    main()
