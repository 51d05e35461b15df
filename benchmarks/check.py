"""Checking sounds (hash, limits, silence, fingerprint, in a limited child) beside librosa merely loading them.

    python benchmarks/check.py FOLDER [--runs 5]

FOLDER holds wav, flac, mp3 or ogg files; both take every file with one worker, in turn, in this run. librosa keeps the
rate of the file (sr=None), as a build would. Prints files a second and the ratio of medians, by format and in all.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

import librosa

from biovita.media.check import Limits, check_files

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")  # librosa opens no m4a without FFmpeg


def load_all(paths: list[Path]) -> int:
    n = 0
    for path in paths:
        wave, _ = librosa.load(path, sr=None)
        n += len(wave)
    return n


def check_all(paths: list[Path]) -> int:
    return sum(verdict.ok for verdict in check_files(paths, workers=1, limits=Limits(seconds=60)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(args.folder.rglob("*")):
        if path.suffix in SUFFIXES:
            groups[path.suffix].append(path)
    groups["all"] = [path for paths in groups.values() for path in paths]
    load_all(groups["all"][:2])  # librosa compiles and imports at its first call
    print("| format | files | librosa, files/s | ours, files/s | ours / librosa |\n|---|---|---|---|---|")
    for name, paths in groups.items():
        seconds: dict[str, list[float]] = {"librosa": [], "ours": []}
        for _ in range(args.runs):
            for who, work in (("librosa", load_all), ("ours", check_all)):
                started = time.perf_counter()
                work(paths)
                seconds[who].append(time.perf_counter() - started)
        peer, ours = (len(paths) / statistics.median(seconds[who]) for who in ("librosa", "ours"))
        print(f"| {name} | {len(paths)} | {peer:,.1f} | {ours:,.1f} | {ours / peer:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
