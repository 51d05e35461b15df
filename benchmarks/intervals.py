"""Do 95 % intervals of `bench score` hold the true share 95 times in 100? A simulation over made-up taxa.

    python benchmarks/intervals.py [--trials 1000]

Each trial draws taxa, a skill for each (beta, so that hits of one taxon are alike by a given correlation) and its
queries, and asks whether the interval of the share of hits holds the share that was put in. Taxa have one query each,
15 each, or 1 to 10 as in the released unseen split. Beside ours, on the same draws: Wilson's interval over queries,
which takes them for independent. Writes docs/results/intervals.md.
"""

import argparse
import itertools
import os
import platform
from pathlib import Path
from statistics import NormalDist

import numpy as np

from biovita.bench.metrics import N_RESAMPLES, interval

PAGE = Path(__file__).parents[1] / "docs" / "results" / "intervals.md"
TAXA = (20, 50, 100, 325)
SIZES = ("1", "1 to 10", "15")  # queries a taxon
SHARES = (0.03, 0.1, 0.35, 0.7, 0.95)
LIKENESS = (0.0, 0.1, 0.3, 0.6)
REALISTIC = ((100, 325), ("1 to 10", "15"), (0.1, 0.35, 0.7, 0.95), (0.0, 0.1, 0.3))
LEAST, MOST = 0.93, 0.97


def draw(rng: np.random.Generator, n_taxa: int, sizes: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw hits (query, setting), a column for each likeness and share, and the taxon of each query."""
    size = np.full(n_taxa, int(sizes)) if sizes.isdigit() else np.minimum(rng.geometric(0.32, n_taxa), 10)
    taxon = np.repeat(np.arange(n_taxa), size)
    hits = []
    for likeness, share in itertools.product(LIKENESS, SHARES):
        spread = 1 / likeness - 1 if likeness else np.inf
        skill = rng.beta(share * spread, (1 - share) * spread, n_taxa) if likeness else np.full(n_taxa, share)
        hits.append(rng.random(len(taxon)) < skill[taxon])
    return np.stack(hits, axis=1), taxon


def wilson_over_queries(hits: np.ndarray) -> list[tuple[float, float]]:
    n, z = len(hits), NormalDist().inv_cdf(0.975)
    share = hits.mean(axis=0)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [*zip(centre - half, centre + half, strict=True)]


def cover(n_taxa: int, sizes: str, n_trials: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share of trials in which ours and Wilson's hold the truth, and the mean width of ours."""
    rng = np.random.default_rng([n_taxa, SIZES.index(sizes)])
    true = np.array([share for _, share in itertools.product(LIKENESS, SHARES)])
    held, wilson, width = np.zeros(len(true)), np.zeros(len(true)), np.zeros(len(true))
    for _ in range(n_trials):
        hits, taxon = draw(rng, n_taxa, sizes)
        low, high = np.array(interval(hits, taxon)).T
        held += (low <= true) & (true <= high)
        width += high - low
        low, high = np.array(wilson_over_queries(hits)).T
        wilson += (low <= true) & (true <= high)
    return held / n_trials, wilson / n_trials, width / n_trials


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    args = parser.parse_args()
    lines, kept, naive, outside = [], [], [], []
    for n_taxa, sizes in itertools.product(TAXA, SIZES):
        held, wilson, width = cover(n_taxa, sizes, args.trials)
        cells = iter(zip(held, wilson, width, strict=True))
        for likeness in LIKENESS:
            row = []
            for share in SHARES:
                one, plain, wide = next(cells)
                row.append(f"{100 * one:.1f} ({100 * plain:.0f})")
                if all(
                    value in values for value, values in zip((n_taxa, sizes, share, likeness), REALISTIC, strict=True)
                ):
                    kept.append(one)
                    naive.append(plain)
                    if not LEAST <= one <= MOST:
                        outside.append(
                            f"- {n_taxa} taxa, {sizes} queries each, likeness {likeness}, share {share}: "
                            f"{100 * one:.1f} % (mean width {100 * wide:.1f} points)"
                        )
            lines.append(f"| {n_taxa} | {sizes} | {likeness} | {' | '.join(row)} |")
            print(lines[-1], flush=True)
    noise = 100 * 2 * np.sqrt(0.95 * 0.05 / args.trials)
    inside = len(kept) - len(outside)
    PAGE.write_text(
        "# Do the intervals hold?\n\n"
        f"    python benchmarks/intervals.py --trials {args.trials}\n\n"
        f"How often, in %, the 95 % interval of a share holds the true one; in brackets Wilson's interval that takes\n"
        f"queries for independent. {args.trials:,} trials a setting, so a cell is good to {noise:.1f} points; "
        f"{N_RESAMPLES:,} draws of taxa an\ninterval; Python {platform.python_version()}, numpy {np.__version__}, "
        f"{os.cpu_count()} cores. Likeness: the correlation of hits within a taxon.\n\n"
        f"Realistic settings: {' or '.join(map(str, REALISTIC[0]))} taxa, {' or '.join(REALISTIC[1])} queries each, "
        f"shares {REALISTIC[2][0]} to {REALISTIC[2][-1]}, likeness to {REALISTIC[3][-1]}. There ours hold\n"
        f"{100 * np.mean(kept):.1f} % on the mean ({100 * min(kept):.1f} to {100 * max(kept):.1f}), "
        f"{inside} of {len(kept)} settings within {100 * LEAST:.0f} to {100 * MOST:.0f} %; Wilson's over queries "
        f"{100 * np.mean(naive):.1f} % ({100 * min(naive):.1f} to {100 * max(naive):.1f}).\n\n"
        + ("Outside:\n\n" + "\n".join(outside) + "\n\n" if outside else "")
        + "| taxa | queries a taxon | likeness | "
        + " | ".join(f"share {share}" for share in SHARES)
        + " |\n"
        + "|---" * (3 + len(SHARES))
        + "|\n"
        + "\n".join(lines)
        + "\n"
    )
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
