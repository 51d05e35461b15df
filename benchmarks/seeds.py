"""The demo with several seeds: other animals, other splits, other training.

    .venv/bin/python benchmarks/seeds.py FOLDER 1 2 3 4 > docs/results/seeds.md

Each demo lies in FOLDER/sN; finished ones are not run again.
"""

import contextlib
import sys
from pathlib import Path

from biovita.commands.table import call
from biovita.files import read_json

DIRECTIONS = ("a2t", "t2a", "a2i", "i2a", "i2t", "t2i")


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
    folder, seeds = Path(sys.argv[1]), sys.argv[2:]
    found = {}
    for seed in seeds:
        out = folder / f"s{seed}"
        if not (out / "results.json").is_file():
            with contextlib.redirect_stdout(sys.stderr):
                call(["demo", "--seed", seed, "--out", str(out)])
        found[seed] = read_json(out / "results.json")
    print("# The demo with several seeds\n")
    print("Made-up animals: these numbers say nothing about real species.\n")
    print(f"Command: `python benchmarks/seeds.py FOLDER {' '.join(seeds)}`. Seed 1 is the shipped one.\n")
    print("Top-1 in percent with 95 % intervals over taxa; species level, 100 candidates (chance 1.0).\n")
    for split in ("seen", "unseen"):
        print(f"## {split.capitalize()} species\n")
        print(f"| seed | {' | '.join(DIRECTIONS)} | mean |\n|---|{'---|' * 7}")
        print("\n".join(row(seed, results, split) for seed, results in found.items()) + "\n")
        print("| seed | mean of six directions: species | genus | family |\n|---|---|---|---|")
        for seed, results in found.items():
            means = [f"{100 * results['mean'][level][split]['top1']:.1f}" for level in ("species", "genus", "family")]
            print(f"| {seed} | {' | '.join(means)} |")
        print()


if __name__ == "__main__":
    main()
