"""What each part of the recipe is worth, on the demo's made-up biosphere.

    .venv/bin/biovita demo
    .venv/bin/python benchmarks/ablation.py demo > ablation.md

Every variant starts from the demo's dataset and is scored on the demo's benchmark; the first two are models that the
demo leaves behind. Finished variants are not trained again. Intervals are over taxa, from one training seed.
"""

import contextlib
import shutil
import sys
from pathlib import Path

from biovita.commands.table import call
from biovita.config import commit
from biovita.files import read_json, write_json

RUNS = Path(__file__).parents[1] / "runs"
DIRECTIONS = ("a2t", "t2a", "a2i", "i2a", "i2t", "t2i")


def variants(demo: Path) -> dict[str, tuple[str, list[tuple[str, Path, Path]]]]:
    """Name of each variant: what it is, and its stages as (run file, start, model folder)."""
    out, pretrained = demo / "ablation", demo / "models" / "pretraining"
    bare1, bare2 = out / "no_pretraining_stage1", out / "no_pretraining"
    return {
        "stage1_only": ("stage 1 only", [("demo/stage1", pretrained, demo / "models" / "stage1")]),
        "both": ("both stages (the demo)", [("demo/stage2", demo / "models" / "stage1", demo / "model")]),
        "all_from_start": (
            "all losses from the start",
            [("ablation/all_from_start", pretrained, out / "all_from_start")],
        ),
        "no_pretraining": (
            "both stages, no image-text pretraining",
            [("demo/stage1", Path("tiny"), bare1), ("demo/stage2", bare1, bare2)],
        ),
        "zeros": (
            "both stages, short clips filled with zeros",
            [
                ("demo/stage1", out / "zeros_start", out / "zeros_stage1"),
                ("demo/stage2", out / "zeros_stage1", out / "zeros"),
            ],
        ),
    }


def fill_with_zeros(pretrained: Path, folder: Path) -> None:
    """Copy a model folder and let it fill short clips with zeros, as the release does, instead of repeating them."""
    if folder.exists():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.copytree(pretrained, part, dirs_exist_ok=True)
    config = read_json(part / "processor_config.json")
    config["feature_extractor"]["padding"] = "pad"
    write_json(part / "processor_config.json", config)
    part.rename(folder)


def score(demo: Path, stages: list[tuple[str, Path, Path]], folder: Path, seed: str) -> dict:
    """Train what is not trained yet, embed, score; return the results."""
    for run_file, start, model in stages:
        if not model.exists():
            words = ["train", f"{RUNS / run_file}.toml", "--data", str(demo / "dataset"), "--from", str(start)]
            call([*words, "--out", str(model), "--recipe.seed", seed])
    results = folder / "results.json"
    if not results.is_file():
        bench, vectors = str(demo / "bench"), str(folder / "embeddings")
        call(["bench", "embed", bench, "--model", str(stages[-1][2]), "--out", vectors])
        call(["bench", "score", bench, "--embeddings", vectors, "--out", str(results)])
    return read_json(results)


def row(title: str, results: dict, split: str) -> str:
    """One line of the table: top-1 of the six directions with intervals, and their mean."""
    cells = []
    for direction in DIRECTIONS:
        one = next(
            s for s in results["scenarios"] if (s["direction"], s["level"], s["split"]) == (direction, "species", split)
        )
        low, high = one["ci95"]["top1"]
        cells.append(f"{100 * one['top1']:.1f} ({100 * low:.0f}-{100 * high:.0f})")
    mean = results["mean"]["species"][split]["top1"]
    return f"| {title} | {' | '.join(cells)} | {100 * mean:.1f} |"


def main() -> None:
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    seed = str(read_json(demo / "bench" / "manifest.json")["seed"])
    found = {}
    fill_with_zeros(demo / "models" / "pretraining", demo / "ablation" / "zeros_start")
    with contextlib.redirect_stdout(sys.stderr):
        for name, (title, stages) in variants(demo).items():
            found[title] = score(demo, stages, demo / "ablation" / f"{name}_scores", seed)
    print("# Ablation on the made-up biosphere\n")
    print("Made-up animals: these numbers compare recipes and say nothing about real species.\n")
    print(f"Command: `biovita demo --seed {seed}`, then `python benchmarks/ablation.py {demo}`; commit {commit()}.\n")
    print("Top-1 in percent at species level, 100 candidates (chance 1.0), with 95 % intervals over taxa.\n")
    for split in ("seen", "unseen"):
        print(f"## {split.capitalize()} species\n")
        print(f"| recipe | {' | '.join(DIRECTIONS)} | mean |\n|---|{'---|' * 7}")
        print("\n".join(row(title, results, split) for title, results in found.items()) + "\n")


if __name__ == "__main__":
    main()
