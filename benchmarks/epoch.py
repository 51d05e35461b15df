"""What an epoch walks through, drawn from 1.3 million recordings: ours beside pandas, as the released code draws it.

    python benchmarks/epoch.py [--recordings 1300000] [--pictures 2300000] [--species 14133] [--runs 3]

Made-up rows, as many of each species as chance gives with a long tail. Release is its way: its table as text, grouped
by species, of each group 20 rows at most, all below 20, five with replacement below 5, put together and shuffled.
Pandas is the same from a table of labels alone, without a loop over groups. Lexsort is numpy's: one sort of random
keys, the first 20 of each species. All must give as many rows of each species. They run in turn in this process;
medians of `--runs`, processor time. Writes docs/results/epoch.md.
"""

import argparse
import platform
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from biovita.train.batches import Sampler
from biovita.train.features import Features
from biovita.train.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "results" / "epoch.md"
LEAST, MOST, SEED, GOAL = 5, 20, 1, 40
OF_SPECIES = ("scientific_name", "accepted_name", "class", "order", "family", "genus", "com")
OF_RECORDING = ("file_name", "recording_id", "download_url", "recorded_at", "rights_holder")
OF_FEW = ("source", "licence", "quality", "latitude", "longitude")


def draw_labels(n_rows: int, n_species: int) -> np.ndarray:
    """Give each species one row, and the others by shares with a long tail; rows in no order."""
    rng = np.random.default_rng([SEED, n_rows])
    share = rng.lognormal(0, 2, n_species)
    counts = 1 + rng.multinomial(n_rows - n_species, share / share.sum())
    return rng.permutation(np.repeat(np.arange(n_species), counts))


def released_table(label: np.ndarray) -> pd.DataFrame:
    """Make a table of the release's size: 17 columns of text."""
    rows = np.arange(len(label))
    values = dict.fromkeys(OF_SPECIES, label)
    values |= dict.fromkeys(OF_RECORDING, rows) | dict.fromkeys(OF_FEW, rows % 97)
    return pd.DataFrame({column: pd.array([f"{column} {n}" for n in found], "str") for column, found in values.items()})


def release(table: pd.DataFrame, epoch: int) -> pd.DataFrame:
    picked = []
    for species, group in table.groupby("scientific_name", sort=False):
        seed = zlib.crc32(f"{epoch} {species}".encode())
        if len(group) < LEAST:
            picked.append(group.sample(LEAST, replace=True, random_state=seed))
        else:
            picked.append(group.sample(min(len(group), MOST), random_state=seed))
    return pd.concat(picked, ignore_index=True).sample(frac=1, random_state=epoch).reset_index(drop=True)


def lean_pandas(table: pd.DataFrame, epoch: int) -> pd.Series:
    shuffled = table.sample(frac=1, random_state=epoch)
    by_species = shuffled.groupby("label")["label"]
    size = by_species.transform("size")
    rare = shuffled[size < LEAST].groupby("label").sample(LEAST, replace=True, random_state=epoch)
    common = shuffled[(size >= LEAST) & (by_species.cumcount() < MOST)]
    return pd.concat([common, rare]).sample(frac=1, random_state=epoch)["label"]


def lexsort(label: np.ndarray, epoch: int) -> np.ndarray:
    rng = np.random.default_rng(epoch)
    order = np.lexsort((rng.random(len(label)), label))
    counts = np.bincount(label)
    starts = np.cumsum(counts) - counts
    nth = np.arange(len(label)) - np.repeat(starts, counts)
    rare = np.flatnonzero(counts < LEAST)
    extra = np.repeat(rare, LEAST - counts[rare])
    again = order[starts[extra] + (rng.random(len(extra)) * counts[extra]).astype(int)]
    return rng.permutation(np.concatenate([order[nth < MOST], again]))


def features_of(audio: np.ndarray, image: np.ndarray, n_species: int) -> Features:
    media = pl.concat(
        pl.DataFrame({"label": label}).select(
            "label", pl.int_range(pl.len()).alias("row"), modality=pl.lit(modality), split=pl.lit("train")
        )
        for modality, label in (("audio", audio), ("image", image))
    )
    return Features(
        media=media,
        species=[f"species {label}" for label in range(n_species)],
        lineage=np.stack([np.arange(n_species), np.arange(n_species) // 4, np.arange(n_species) // 40], axis=1),
        mels=np.empty((0, 64), np.float16),
        starts=np.zeros(len(audio) + 1, int),
        squares=np.empty((0, 224, 224, 3), np.uint8),
        repeats=True,
    )


def spent_s(work: Callable[[], object]) -> tuple[float, float, object]:
    """Measure processor time, which counts all threads, and time on the wall."""
    wall, begun = time.perf_counter(), time.process_time()
    found = work()
    return time.process_time() - begun, time.perf_counter() - wall, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=1_300_000)
    parser.add_argument("--pictures", type=int, default=2_300_000)
    parser.add_argument("--species", type=int, default=14_133)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    label = draw_labels(args.recordings, args.species)
    features = features_of(label, draw_labels(args.pictures, args.species), args.species)
    table, labels = released_table(label), pd.DataFrame({"label": label})
    recipe = Recipe(batch_size=512, min_per_species=LEAST, max_per_species=MOST, audio_image=0.1, image_text=0.1)
    sampler = Sampler(features, recipe, n_prompts=5)
    hard = Sampler(features, Recipe(batch_size=512, hard_negatives="genus"), n_prompts=5)
    distinct = Sampler(features, Recipe(batch_size=512, distinct_species=True), n_prompts=5)

    def rows_of(found: pd.DataFrame) -> np.ndarray:
        return np.bincount(found["scientific_name"].str.split(" ").str[1].astype(int), minlength=args.species)

    ways: dict[str, Callable[[int], object]] = {
        "release": lambda epoch: release(table, epoch),
        "pandas": lambda epoch: lean_pandas(labels, epoch),
        "lexsort": lambda epoch: lexsort(label, epoch),
        "ours, the view": sampler.view,
        "ours, with partners, prompts, shifts, ...": sampler.draws,
        "ours, with a genus side by side": hard.draws,
        "ours, no species twice in a batch": distinct.draws,
        "ours, building the index": lambda _: Sampler(features, recipe, n_prompts=5),
    }
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for epoch in range(args.runs):
        found = {}
        for way, work in ways.items():
            cpu, wall, found[way] = spent_s(lambda work=work, epoch=epoch: work(epoch))
            spent[way].append((cpu, wall))
            print(f"{way}: {cpu:.3f} s processor, {wall:.3f} s wall", flush=True)
        expected = np.clip(np.bincount(label), LEAST, MOST)
        for way, rows in {
            "release": rows_of(found["release"]),
            "pandas": np.bincount(found["pandas"]),
            "lexsort": np.bincount(label[found["lexsort"]]),
            "ours": np.bincount(found["ours, the view"][0]),
        }.items():
            if not np.array_equal(rows, expected):
                raise SystemExit(f"{way} draws another number of rows of a species")
    cpu_s, wall_s = ({way: statistics.median(run[n] for run in runs) for way, runs in spent.items()} for n in (0, 1))
    ratio = cpu_s["release"] / cpu_s["ours, the view"]
    counts = np.bincount(label)
    lines = [
        f"| {way} | {cpu_s[way]:,.3f} | {wall_s[way]:,.3f} | "
        + ("" if "index" in way else f"{cpu_s['release'] / cpu_s[way]:,.0f}")
        + " |"
        for way in ways
    ]
    PAGE.write_text(
        "# What an epoch walks through\n\n"
        f"    python benchmarks/epoch.py --recordings {args.recordings} --pictures {args.pictures} "
        f"--species {args.species} --runs {args.runs}\n\n"
        f"{len(label):,} made-up recordings of {args.species:,} species, {counts.min():,} to {counts.max():,} of each "
        f"and {np.median(counts):,.0f} in the\nmiddle; {args.pictures:,} pictures. An epoch has {sampler.n_draws:,} "
        "draws, as many of each species in all ways, which\nthe command checks. Release is the released code's way, "
        "with its 17 columns of text, which it copies; pandas has a\ncolumn of labels alone and no loop over species; "
        "lexsort is one sort of random keys; ours gives labels and rows.\n"
        f"Seconds, medians of {args.runs} runs in turn; numpy {np.__version__}, pandas {pd.__version__}, "
        f"polars {pl.__version__}, Python {platform.python_version()}.\n\n"
        "| way | processor | wall | release / this, processor |\n|---|---|---|---|\n" + "\n".join(lines) + "\n\n"
        f"Goal: {GOAL} times; the view is {ratio:,.0f} times, and everything that an epoch draws "
        f"{cpu_s['release'] / cpu_s['ours, with partners, prompts, shifts, ...']:,.0f} times. The index, built once a\n"
        "stage, holds the rows of recordings and pictures by species.\n"
    )
    print(f"release / ours: {ratio:,.0f}")


if __name__ == "__main__":
    main()
