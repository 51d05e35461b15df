"""What a draw costs: a 10 s window of a 60 s recording, kept decoded, or decoded from a folder or from shards.

    python benchmarks/feed.py [--recordings 24] [--draws 200] [--runs 3]

Made-up recordings (noise and a whistle), a third each FLAC at 44.1 kHz, MP3 at 48 kHz and M4A at 48 kHz, built into a
dataset folder and shards of it. The ways draw the same windows in turn, in one process with one thread; medians of
`--runs`, processor time. Files are in the system's cache. Writes docs/results/feed.md.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from biovita.data.split import SPLITS
from biovita.media.audio import write_audio
from biovita.models import hub
from biovita.train.features import prepare
from biovita.train.source import Originals, Source, open_data

PAGE = Path(__file__).parents[1] / "docs" / "results" / "feed.md"
KINDS = ((".flac", 44_100), (".mp3", 48_000), (".m4a", 48_000))
LENGTH_S = 60
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")


def make(folder: Path, n_recordings: int) -> None:
    """Write recordings, a dataset folder of them, and shards of that."""
    rng, rows = np.random.default_rng(1), []
    for n in range(n_recordings):
        suffix, rate_hz = KINDS[n % len(KINDS)]
        at_s = np.arange(LENGTH_S * rate_hz) / rate_hz
        wave = 0.2 * np.sin(2 * np.pi * (400 + 50 * n) * at_s) + rng.normal(0, 0.02, len(at_s))
        write_audio(folder / f"{n}{suffix}", wave, rate_hz)
        rows.append((f"{n}{suffix}", f"Genus species{chr(97 + n % 26)}", "audio", "CC0-1.0"))
    table = pl.DataFrame(rows, ["path", "scientific_name", "modality", "licence"], orient="row")
    table.write_csv(folder / "records.csv")
    taxa = table.select(pl.col("scientific_name").alias("species")).unique().sort("species")
    taxa.with_columns(pl.lit(rank.title()).alias(rank) for rank in RANKS).write_parquet(folder / "taxa.parquet")
    for words in (
        "data build --manifest records.csv --taxa taxa.parquet --withheld 0 --out dataset",
        "data shard dataset --out shards",
    ):
        subprocess.run([sys.executable, "-m", "biovita", *words.split(), "--quiet"], cwd=folder, check=True)


def draw(source: Source, n_draws: int) -> float:
    """Draw windows, and return the processor's seconds for each."""
    rng = np.random.default_rng(2)
    rows, shifts = rng.integers(len(source.media), size=n_draws), rng.random(n_draws)
    begun = time.process_time()
    for row, shift in zip(rows, shifts, strict=True):
        source.mel(int(row), float(shift))
    return (time.process_time() - begun) / n_draws


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("recordings", 24), ("draws", 200), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = hub.start("tiny", ["Genus speciesa", "Genus speciesb"] * 3, seed=1)
    with tempfile.TemporaryDirectory() as home:
        make(Path(home), args.recordings)
        folder, shards = open_data(Path(home) / "dataset"), open_data(Path(home) / "shards")
        ways: dict[str, Source] = {
            "kept (`--media kept`)": prepare(folder, encoder, splits=SPLITS),
            "from the folder (`--media fresh`)": Originals(folder, encoder, splits=SPLITS),
            "from shards (`--media fresh`)": Originals(shards, encoder, splits=SPLITS),
        }
        spent = {way: [draw(source, args.draws) for _ in range(args.runs)] for way, source in ways.items()}
        kept_mb = sum(path.stat().st_size for path in folder.folder.glob(".features/*/mels.bin")) / 1e6
        media_mb = sum(path.stat().st_size for path in folder.folder.glob("media/*/*")) / 1e6
    lines = [
        f"| {way} | {1e3 * statistics.median(runs):.2f} | {1 / statistics.median(runs):,.0f} |"
        for way, runs in spent.items()
    ]
    PAGE.write_text(
        "# What a draw costs\n\n"
        f"    python benchmarks/feed.py --recordings {args.recordings} --draws {args.draws} --runs {args.runs}\n\n"
        f"The log-mel of a 10 s window of {args.recordings} recordings of {LENGTH_S} s (FLAC, MP3, M4A), in one thread;"
        f" processor time, medians of\n{args.runs} runs of {args.draws} draws; torch {torch.__version__}, Python "
        f"{platform.python_version()}. Files lie in the system's cache. From shards, a\nmedium is read as a whole and "
        "proved by its hash; from the folder, only the window is read.\n\n"
        "| way | ms a window | windows a second and core |\n|---|---|---|\n" + "\n".join(lines) + "\n\n"
        f"Kept, these recordings take {kept_mb:,.0f} MB; their files take {media_mb:,.0f} MB.\n"
    )
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
