"""Speed of the card and of the exports: a card at full size, shards and Parquet beside a plain copy.

    .venv/bin/python benchmarks/export.py FOLDER

The card's tables are random numbers of the size of the paper's set; the media are a made-up world of 200 species.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from biovita.commands.table import call
from biovita.data.camtrap import write_camtrap_dp
from biovita.data.card import write_card
from biovita.data.dataset import MEDIA_SCHEMA, QUARANTINE_SCHEMA, SCHEMA_VERSION, TAXA_SCHEMA, Dataset
from biovita.data.hub_parquet import write_hub_parquet
from biovita.data.shards import read_shards, write_shards
from biovita.report.card_plots import draw_card
from biovita.tables import write_table
from biovita.taxonomy.traits import TRAITS

N_AUDIO, N_IMAGE, N_SPECIES, N_REFUSED = 1_300_000, 2_300_000, 14_133, 60_000
CLASSES = ("Aves", "Insecta", "Amphibia", "Mammalia", "Reptilia", "Actinopterygii")
MB = 1e6


def make_tables(folder: Path) -> Dataset:
    """Write tables of full size: species of unequal richness, four sources, some holes."""
    rng = np.random.default_rng(0)
    n = N_AUDIO + N_IMAGE
    species = np.minimum(rng.zipf(1.15, n) - 1, rng.integers(0, N_SPECIES, n))
    klass = rng.choice(len(CLASSES), N_SPECIES, p=(0.6, 0.2, 0.08, 0.07, 0.04, 0.01))
    number = pl.Series("n", np.arange(n, dtype=np.int64))
    is_audio = np.arange(n) < N_AUDIO
    start = int(datetime(2010, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    names = pl.Series([f"Genus{i // 5} species{i}" for i in range(N_SPECIES)])
    frame = pl.DataFrame(
        {
            "modality": pl.Series(np.where(is_audio, "audio", "image")),
            "source": pl.Series(np.array(["xc", "inat", "gbif", "asa"])[rng.integers(0, 4, n)]),
            "licence": pl.Series(np.array(["CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0"])[rng.integers(0, 3, n)]),
            "rights_holder": pl.Series([f"Holder {i}" for i in range(5_000)])[rng.integers(0, 5_000, n)],
            "recorded_at": pl.Series(start + rng.integers(0, int(4e14), n)).cast(pl.Datetime("us", "UTC")),
            "latitude_deg": rng.normal(30, 22, n).clip(-89, 89),
            "longitude_deg": rng.normal(-40, 70, n).clip(-180, 180),
            "split": pl.Series(np.array(["train"] * 17 + ["val", "test_seen", "test_seen"])[rng.integers(0, 20, n)]),
            "species": names[species],
            "class": pl.Series(CLASSES)[klass[species]],
            "duration_s": pl.Series(np.where(is_audio, rng.lognormal(3, 1, n).clip(0.1, 7_200), np.nan)).fill_nan(None),
            "sample_rate_hz": pl.Series(np.where(is_audio, rng.choice([22_050, 44_100, 48_000], n), 0)).replace(
                0, None
            ),
            "width_px": pl.Series(np.where(is_audio, 0, rng.integers(200, 4_000, n))).replace(0, None),
            "height_px": pl.Series(np.where(is_audio, 0, rng.integers(200, 4_000, n))).replace(0, None),
        }
    ).with_columns(
        pl.format("s:{}", number).alias("media_id"),
        pl.format("inat:{}", number // 2).alias("individual"),
        pl.format("media/{}", number).alias("path"),
    )
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in MEDIA_SCHEMA.items() if name not in frame.columns]
    write_table(folder / "media.parquet", frame.with_columns(absent), MEDIA_SCHEMA)
    taxa = pl.DataFrame({"species": names, "class": pl.Series(CLASSES)[klass], "common_name": names}).with_columns(
        pl.lit(value=False).alias("withheld"),
        *(pl.Series(t, rng.integers(0, 3, N_SPECIES)).replace_strict({0: True, 1: False, 2: None}) for t in TRAITS),
    )
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in TAXA_SCHEMA.items() if name not in taxa.columns]
    write_table(folder / "taxa.parquet", taxa.with_columns(absent), TAXA_SCHEMA)
    reasons = np.array(["name_unresolved", "duplicate", "truncated", "html_document"])[rng.integers(0, 4, N_REFUSED)]
    refused = {"media_id": [f"r:{i}" for i in range(N_REFUSED)], "reason": reasons, "detail": reasons}
    write_table(folder / "quarantine.parquet", pl.DataFrame(refused), QUARANTINE_SCHEMA)
    counts = {"records": n + N_REFUSED, "quarantined": N_REFUSED, "withheld": 0, "near_duplicates": 9, "groups": 4}
    return Dataset(folder, {"schema": SCHEMA_VERSION, "made_up": False, "seed": 0, "counts": counts})


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Measure the time on the clock, and that of all processors."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def plain_copy(source: Path, target: Path) -> None:
    """Copy file by file, and sync once."""
    target.mkdir()
    for path in source.rglob("*"):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    os.sync()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    tables = folder / "full"
    dataset = make_tables(tables)
    print("# Speed of the card and of the exports\n")
    print(
        "Command: `python benchmarks/export.py FOLDER`, two cores that other work shared; compare processor seconds.\n"
    )
    print(f"## The card of {N_AUDIO + N_IMAGE:,} files of {N_SPECIES:,} species (random tables)\n")
    print("| step | seconds | processor seconds |\n| --- | --- | --- |")
    cards: dict[str, Callable[[], object]] = {
        "card.md, croissant.json, CREDITS.csv": lambda: write_card(dataset),
        "card.png": lambda: draw_card(tables, tables / "card.png"),
    }
    for name, work in cards.items():
        print("| {} | {:.1f} | {:.1f} |".format(name, *seconds(work)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"\nPeak memory, making the tables included: {peak / 1e9:.1f} GB.\n")
    world = ["--species", "200", "--recordings", "6", "--images", "6", "--seed", "1"]
    if not (folder / "world" / "manifest.json").is_file():
        call(["world", "make", "--out", str(folder / "world"), *world])
    if not (folder / "dataset" / "manifest.json").is_file():
        table = str(folder / "world" / "records.parquet")
        call(["data", "build", "--manifest", table, "--out", str(folder / "dataset")])
    media = Dataset.open(folder / "dataset")
    size = sum(len(path.read_bytes()) for path in (folder / "dataset" / "media").rglob("*") if path.is_file()) / MB
    for name in ("copy", "shards", "hub", "camtrap"):
        shutil.rmtree(folder / name, ignore_errors=True)
    families = ("cc0", "cc-by", "cc-by-nc")
    steps: dict[str, Callable[[], object]] = {
        "plain copy of the files, synced": lambda: plain_copy(folder / "dataset" / "media", folder / "copy"),
        "shards, hashes proved": lambda: write_shards(media, folder / "shards"),
        "reading the shards, hashes proved": lambda: sum(1 for _ in read_shards(folder / "shards")),
        "Parquet for the hub, hashes proved": lambda: write_hub_parquet(media, folder / "hub", licences=families),
        "Camtrap DP with its media, hashes proved": lambda: write_camtrap_dp(media, folder / "camtrap"),
    }
    print(f"## Exports of {len(media.media):,} files ({size:,.0f} MB), once all are in the page cache\n")
    print("| step | seconds | processor seconds | MB/s | files/s |\n| --- | --- | --- | --- | --- |")
    for name, work in steps.items():
        took, cpu = seconds(work)
        print(f"| {name} | {took:.2f} | {cpu:.2f} | {size / took:,.0f} | {len(media.media) / took:,.0f} |")


if __name__ == "__main__":
    main()
