"""The dataset builder at full size, metadata only, beside the same work in pandas.

    .venv/bin/python benchmarks/build.py FOLDER > docs/results/build.md

FOLDER takes the made-up records (14,133 species, 1.3 M recordings, 2.3 M pictures; about 2 GB) and the tables of both
sides. Every run is a process of its own; figures are medians. Both sides read the same files and must come to the same
tables, row for row; the names are parsed and matched by the same code on both sides.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from biovita import log
from biovita.data.build import Choice, plan_dataset, write_tables
from biovita.data.card import CREDIT_COLUMNS, FORMULA_STARTS, write_card
from biovita.data.dataset import MEDIA_SCHEMA, SCHEMA_VERSION, Dataset
from biovita.data.groups import merged
from biovita.data.split import choose_withheld, split
from biovita.sources.licence import licence_family
from biovita.sources.record import as_records, instants
from biovita.tables import read_table
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.rank import LEVELS
from biovita.taxonomy.traits import TRAITS
from biovita.world.publish import make_world

N_SPECIES, N_RECORDINGS, N_IMAGES, SEED = 14_133, 93, 163, 1
TABLES = ("audio", "image", "again")
SUFFIXES, SIDES = ("csv", "parquet"), ("ours", "pandas")
LICENCES = ("cc0", "public-domain", "cc-by", "cc-by-nc")
CHOICE = Choice(licences=LICENCES, caps={"audio": 92, "image": 160}, quality="D")
WITHHELD = 325
NEEDED = ["scientific_name", "quality"]
Stage = Callable[[str], None]
Runs = dict[str, list[dict[str, Any]]]


def prepare(folder: Path) -> None:
    """Make a world and roughen it: subspecies, open names, unknown licences, recordings that come twice."""
    if (folder / "again.csv").is_file():
        return
    make_world(
        folder / "world", n_species=N_SPECIES, n_recordings=N_RECORDINGS, n_images=N_IMAGES, seed=SEED, media=False
    )
    records = pl.read_parquet(folder / "world" / "records.parquet").drop("path")
    draw = pl.Series("draw", np.random.default_rng(SEED).random(len(records)))
    name, address = pl.col("scientific_name"), pl.col("media_id").str.replace(":", "/", literal=True)
    records = (
        records.with_columns(draw)
        .with_columns(
            pl.when(draw < 0.03)
            .then(name + " minor")
            .when(draw > 0.99)
            .then(name.str.replace(" .*", " sp."))
            .otherwise(name),
            pl.when(draw.is_between(0.5, 0.51)).then(pl.lit("unknown")).otherwise("licence").alias("licence"),
            pl.format("https://media.invalid/{}/original", address).alias("url"),
            pl.format("https://pages.invalid/observations/{}", address).alias("page_url"),
        )
        .rename({"common_name": "given_common_name"})
    )
    again = records.filter((pl.col("modality") == "audio") & draw.is_between(0.2, 0.25))
    tables = {
        **{modality: records.filter(pl.col("modality") == modality) for modality in TABLES[:2]},
        "again": again.with_columns(source=pl.lit("release"), url=pl.col("url") + "?copy"),
    }
    for file, table in tables.items():
        table.drop("draw").write_parquet(folder / f"{file}.parquet")
        table.drop("draw").write_csv(folder / f"{file}.csv")


def build_ours(folder: Path, suffix: str, out: Path, stage: Stage) -> int:
    tables = [read_ours(folder / f"{name}.{suffix}") for name in TABLES]
    stage("load")
    checklist = Checklist.open([folder / "world" / "taxa.parquet"])
    plan = plan_dataset(tables, checklist, CHOICE, seed=SEED)
    del tables
    stage("dedupe by id, resolve, select")
    media = plan.wanted.with_columns(
        merged(plan.wanted.select(group=pl.coalesce("individual", "media_id")).to_series(), plan.wanted["individual"]),
        pl.col("media_id").alias("sha256"),  # there are no files; the laws want a hash
    )
    drawn = split(media, seed=SEED, withheld=WITHHELD)
    media = media.with_columns(drawn.of)
    stage("split")
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in MEDIA_SCHEMA.items() if name not in media.columns]
    refused = plan.refused.sort("media_id", "reason", "detail")
    taxa = write_tables(out, media.with_columns(absent), plan, refused, checklist, drawn.withheld)
    counts = {"records": int(plan.n_records["n"].sum()), "ok": len(media), "quarantined": len(refused)}
    n_left_out = int(plan.left_out["n"].sum())
    assert counts["records"] == len(media) + len(refused) + n_left_out, "a record was lost or doubled"
    del media, plan
    stage("traits, tables")
    facts = {"schema": SCHEMA_VERSION, "made_up": True, "seed": SEED, "counts": counts}
    facts["counts"] |= {"species": len(taxa), "withheld": len(drawn.withheld)}
    write_card(Dataset(out, facts))
    stage("card")
    return counts["records"]


def read_ours(path: Path) -> pl.DataFrame:
    rows = read_table(path)
    return as_records(rows.with_columns(instants(rows["recorded_at"], path)), path)


def build_pandas(folder: Path, suffix: str, out: Path, stage: Stage) -> int:
    read = pd.read_parquet if suffix == "parquet" else partial(pd.read_csv, parse_dates=["recorded_at"])
    records = pd.concat([read(folder / f"{name}.{suffix}") for name in TABLES], ignore_index=True)
    n_rows = len(records)
    stage("load")
    by_id = records.duplicated("media_id")
    by_url = (
        ~by_id & records["url"].notna() & records[~by_id].duplicated("url").reindex(records.index, fill_value=False)
    )
    twice = records.loc[by_id | by_url, ["media_id"]].assign(reason="duplicate")
    records = records[~(by_id | by_url)]
    checklist = Checklist.open([folder / "world" / "taxa.parquet"])
    names = checklist.decide_all(pl.DataFrame({"scientific_name": records["scientific_name"].unique().tolist()}))
    names = names.select("scientific_name", *LEVELS, "reason").to_pandas()
    records = records.merge(names, on="scientific_name", how="left")
    is_known = records["species"].notna()
    unknown = records.loc[~is_known, ["media_id"]].assign(reason="name_unresolved")
    records = records[is_known].drop(columns=["reason"])
    families = {licence: licence_family(licence) for licence in records["licence"].unique()}
    is_allowed = records["licence"].map(families).isin(LICENCES)
    refused = records.loc[~is_allowed, ["media_id"]].assign(reason="licence_refused")
    usable = records[is_allowed & ~(records["quality"] > CHOICE.quality)]
    del records
    crowded = usable.groupby(["species", "modality"])["media_id"].transform("size") > usable["modality"].map(
        CHOICE.caps
    )
    queue = usable.loc[crowded, ["media_id", "species", "modality"]]
    queue["key"] = [sha256(f"{SEED}:cap:{media_id}") for media_id in queue["media_id"]]
    queue = queue.sort_values("key")
    is_over = queue.groupby(["species", "modality"]).cumcount() >= queue["modality"].map(CHOICE.caps)
    media = usable.drop(index=queue.index[is_over])
    n_left_out = n_rows - len(twice) - len(unknown) - len(refused) - len(media)
    del usable
    stage("dedupe by id, resolve, select")
    media["group"] = media["individual"].fillna(media["media_id"])
    media["split"], withheld = split_pandas(media)
    stage("split")
    taxa = media[["kingdom", "phylum", "class", "order", "family", "genus", "species", "common_name"]]
    taxa = taxa.drop_duplicates("species").sort_values("species")
    taxa["withheld"] = taxa["species"].isin(withheld)
    taxa = taxa.merge(
        pd.read_parquet(folder / "world" / "taxa.parquet", columns=["species", *TRAITS]), on="species", how="left"
    )
    quarantine = pd.concat([twice, unknown, refused]).sort_values("media_id")
    media = media.drop(columns="group").sort_values("media_id")
    media.to_parquet(out / "media.parquet", index=False, compression="zstd")
    taxa.to_parquet(out / "taxa.parquet", index=False)
    quarantine.to_parquet(out / "quarantine.parquet", index=False)
    assert n_rows == len(media) + len(quarantine) + n_left_out
    stage("traits, tables")
    card = {
        "splits": media.groupby(["split", "modality"]).size(),
        "species": media.groupby("split")["species"].nunique(),
        "classes": media.groupby("class").agg(species=("species", "nunique"), n=("species", "size")),
        "files": media.groupby(["class", "modality"]).size(),
        "years": media["recorded_at"].dt.year.value_counts(),
        **{name: media[name].value_counts() for name in ("licence", "source", "rights_holder")},
        "reasons": quarantine["reason"].value_counts(),
        "null": media.isna().mean(),
        "single": media.groupby("species").size().eq(1),
        "traits": taxa.groupby("class")[list(TRAITS)].agg(lambda label: label.notna().mean()),
    }
    (out / "card.md").write_text("\n\n".join(f"{name}\n{table}" for name, table in card.items()))
    credits_ = media.reindex(columns=list(CREDIT_COLUMNS))
    for name in credits_.select_dtypes("str"):
        runs = credits_[name].str.startswith(FORMULA_STARTS, na=False)
        credits_[name] = credits_[name].mask(runs, "'" + credits_[name])
    credits_.to_csv(out / "CREDITS.csv", index=False)
    stage("card")
    return n_rows


def split_pandas(media: pd.DataFrame) -> tuple[pd.Series, set[str]]:
    """Split as pandas and plain Python would: counts by group from pandas, then a loop over the groups in hash order.

    The species to withhold come from our own code, which is a loop over 14,133 species on both sides.
    """
    counts = media.groupby(["group", "species", "modality"]).size().reset_index(name="n")
    owners = counts[["group", "species"]].drop_duplicates()
    shared = set(owners.loc[owners.duplicated("group", keep=False), "species"])
    columns = ["class", "species", "modality"]
    hidden = choose_withheld(pl.from_pandas(media[columns]), shared, seed=SEED, withheld=WITHHELD)
    counts = counts[~counts["species"].isin(hidden)]
    left: Counter[tuple[str, str]] = Counter()
    cells_of: dict[str, list[tuple[tuple[str, str], int]]] = defaultdict(list)
    for group, species, modality, n in zip(*(counts[name].tolist() for name in counts.columns), strict=True):
        cells_of[group].append(((species, modality), n))
        left[species, modality] += n
    goes: dict[str, str] = {}
    for name, share in (("test_seen", 0.1), ("val", 0.05)):
        order = sorted(cells_of, key=lambda group: sha256(f"{SEED}:{name}:{group}"))
        n_taken: Counter[tuple[str, str]] = Counter()
        for modality in ("audio", "image"):
            quota, due = {}, 0.5
            for cell in sorted((c for c in left if c[1] == modality), key=lambda c: sha256(f"{SEED}:{name}:{c[0]}")):
                n_files = left[cell] + n_taken[cell]
                due += share * n_files
                quota[cell] = min(int(due), n_files - 1)
                due -= quota[cell]
            for group in order:
                cells, is_own = cells_of.get(group, ()), False
                for cell, n in cells:
                    if left[cell] <= n:
                        break
                    if cell[1] == modality:
                        is_own = True
                        if n_taken[cell] + n > quota[cell]:
                            break
                else:
                    if is_own:
                        goes[group] = name
                        del cells_of[group]
                        for cell, n in cells:
                            n_taken[cell] += n
                            left[cell] -= n
    of = media["group"].map(goes).fillna("train")
    return of.mask(media["species"].isin(hidden), "test_unseen"), hidden


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def load_text(path: Path) -> pd.Series:
    table = pd.read_csv(path, dtype=str).fillna("")
    for name in table.columns:
        table[name] = table[name].str.strip()
    return table.groupby("scientific_name").size()


LOADERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pandas: all columns as text, fill, strip (as the official scripts)": ("csv", load_text),
    "pandas: read_csv": ("csv", lambda path: pd.read_csv(path).groupby("scientific_name").size()),
    "pandas: read_csv, needed columns": (
        "csv",
        lambda path: pd.read_csv(path, usecols=NEEDED).groupby("scientific_name").size(),
    ),
    "pandas: read_parquet": ("parquet", lambda path: pd.read_parquet(path).groupby("scientific_name").size()),
    "pandas: read_parquet, needed columns": (
        "parquet",
        lambda path: pd.read_parquet(path, columns=NEEDED).groupby("scientific_name").size(),
    ),
    "ours: scan of the CSV, needed columns": (
        "csv",
        lambda path: pl.scan_csv(path).select(NEEDED).group_by("scientific_name").len().collect(),
    ),
    "ours: scan of the Parquet, needed columns": (
        "parquet",
        lambda path: pl.scan_parquet(path).select(NEEDED).group_by("scientific_name").len().collect(),
    ),
}
PRUNED, SCANS = [list(LOADERS)[i] for i in (2, 4)], list(LOADERS)[-2:]  # CSV, Parquet


def measure(what: str, folder: Path) -> None:
    """Do one thing in this process, and print what it took as JSON."""
    log.SETTINGS.quiet = True
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    started = last = time.perf_counter()
    last_cpu = time.process_time()

    def stage(name: str) -> None:
        nonlocal last, last_cpu
        now, now_cpu = time.perf_counter(), time.process_time()
        seconds[name], cpu[name], last, last_cpu = now - last, now_cpu - last_cpu, now, now_cpu

    if what in LOADERS:
        suffix, load = LOADERS[what]
        n_rows = len(load(folder / f"audio.{suffix}"))
        stage("all")
    else:
        out = folder / what
        out.mkdir(exist_ok=True)
        side, suffix = what.split("-")
        n_rows = {"ours": build_ours, "pandas": build_pandas}[side](folder, suffix, out, stage)
    total = time.perf_counter() - started
    figures = {"seconds": seconds, "cpu": cpu, "total": total, "n_rows": n_rows, "peak_bytes": peak_bytes()}
    print(json.dumps(figures))


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def run(what: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder), "--measure", what]
    print(what, file=sys.stderr, flush=True)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout or "null")


def compare(folder: Path, suffix: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Assert that both sides wrote the same tables; return our media and quarantine."""

    def both(file: str, columns: list[str], order: list[str]) -> pl.DataFrame:
        ours, theirs = (
            pl.read_parquet(folder / f"{side}-{suffix}" / file, columns=columns).select(columns).sort(order)
            for side in ("ours", "pandas")
        )
        assert ours.equals(theirs), f"{file} differs"
        return ours

    media = both("media.parquet", ["media_id", "modality", "class", "species", "licence", "split"], ["media_id"])
    keys = ["species", "modality", "split"]
    counts = (pl.read_parquet(folder / f"{side}-{suffix}" / "media.parquet", columns=keys) for side in SIDES)
    ours, theirs = (table.group_by(keys).len().sort(keys) for table in counts)
    assert ours.equals(theirs), "the counts by species differ"
    both("taxa.parquet", ["species", "class", "withheld", *TRAITS], ["species"])
    return media, both("quarantine.parquet", ["media_id", "reason"], ["media_id", "reason"])


def median(runs: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(map(value, runs))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    head = list(head)
    for line in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(line)} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", help="do one thing in this process (used by the script itself)")
    args = parser.parse_args()
    if args.measure == "prepare":
        return prepare(args.folder)
    if args.measure:
        return measure(args.measure, args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    run("prepare", args.folder)
    runs: Runs = defaultdict(list)
    load = os.getloadavg()[0]
    for _ in range(args.runs):
        for what in (*LOADERS, *(f"{side}-{suffix}" for suffix in SUFFIXES for side in SIDES)):
            runs[what].append(run(what, args.folder))
    tables = [compare(args.folder, suffix) for suffix in SUFFIXES]
    report(args, load, runs, *tables[0])


def report(args: argparse.Namespace, load: float, runs: Runs, media: pl.DataFrame, quarantine: pl.DataFrame) -> None:
    n_rows = runs["ours-csv"][0]["n_rows"]
    print("# The dataset builder at full size, metadata only\n")
    print("Made-up species and records; no file is fetched or checked here.\n")
    print(
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/build.py FOLDER --runs {args.runs}`; medians, every run in a "
        "process of its own. "
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, load {load:.1f} before the first run; "
        f"Python {platform.python_version()}, polars {pl.__version__}, pandas {pd.__version__}.\n"
    )
    refused = ", ".join(f"{n:,} {reason}" for reason, n in sorted(quarantine["reason"].value_counts().iter_rows()))
    print(
        f"{n_rows:,} records of {N_SPECIES:,} species: {len(media):,} kept, {refused}, "
        f"{n_rows - len(media) - len(quarantine):,} over a cap or below quality {CHOICE.quality}. Both sides wrote the "
        "same media, splits, refused records and traits, row for row.\n\nOurs does more: it checks columns and types "
        "at loading, says why each record is refused, checks the laws of the tables, and its card has distributions, "
        "hashes and a Croissant file. Names and the withheld species come from our code on both sides. pandas has "
        "nothing for the split, which goes group by group; there it is a plain loop over dicts.\n"
    )
    for suffix in SUFFIXES:
        print(f"## Whole build from {suffix.upper() if suffix == 'csv' else 'Parquet'}\n")
        sides = [runs[f"{side}-{suffix}"] for side in SIDES]
        lines = []
        values: dict[str, Callable[[dict[str, Any]], float]] = {
            **{name: (lambda r, name=name: r["seconds"][name]) for name in sides[0][0]["seconds"]},
            "**whole**": lambda r: r["total"],
            "whole without split": lambda r: r["total"] - r["seconds"]["split"],
            "whole, CPU seconds": lambda r: sum(r["cpu"].values()),
        }
        for name, value in values.items():
            ours, peer = (median(side, value) for side in sides)
            lines.append([name, f"{ours:.2f}", f"{n_rows / ours:,.0f}", f"{peer:.2f}", f"{peer / ours:.1f}"])
        table(("stage", "ours, s", "ours, records/s", "pandas, s", "pandas / ours"), lines)
        memory = [median(side, lambda r: r["peak_bytes"]) / 1e9 for side in sides]
        print(f"Peak memory: ours {memory[0]:.1f} GB, pandas {memory[1]:.1f} GB.\n")
    print("## Loading and grouping\n")
    n_audio = pl.scan_parquet(args.folder / "audio.parquet").select(pl.len()).collect().item()
    print(f"{n_audio:,} recordings, 15 columns; the number of files of each species.\n")
    official = median(runs[next(iter(LOADERS))], lambda r: r["total"])
    lines = []
    for name in LOADERS:
        seconds = median(runs[name], lambda r: r["total"])
        peak = median(runs[name], lambda r: r["peak_bytes"]) / 1e6
        lines.append([name, f"{seconds:.2f}", f"{peak:,.0f}", f"{official / seconds:.1f}"])
    table(("how", "s", "peak, MB", "times faster than the first"), lines)
    print("## Against the goals\n")
    whole = {what: median(of, lambda r: r["total"]) for what, of in runs.items()}
    peak = max(median(runs[f"ours-{suffix}"], lambda r: r["peak_bytes"]) for suffix in SUFFIXES) / 1e9
    print(f"- Under 10 minutes and 6 GB: {whole['ours-csv'] / 60:.1f} minutes from CSV, {peak:.1f} GB.")
    seconds = {name: median(runs[name], lambda r: r["total"]) for name in LOADERS}
    from_official = [official / seconds[ours] for ours in SCANS]
    alike = [seconds[peer] / seconds[ours] for peer, ours in zip(PRUNED, SCANS, strict=True)]
    print(
        f"- Loading and grouping at least 15 times faster: than the official way (CSV) {from_official[0]:.1f} from CSV "
        f"and {from_official[1]:.1f} from Parquet; than pandas with the same columns of the same file {alike[0]:.1f} "
        f"and {alike[1]:.1f}."
    )
    faster = [whole[f"pandas-{suffix}"] / whole[f"ours-{suffix}"] for suffix in SUFFIXES]
    print(
        f"- The whole at least 5 times faster than pandas: {faster[0]:.1f} from CSV and {faster[1]:.1f} from Parquet."
    )


if __name__ == "__main__":
    main()
