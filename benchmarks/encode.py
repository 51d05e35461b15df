"""What it costs to turn a recording, a photo or a name into a vector, beside the peers and beside the unavoidable.

    python benchmarks/encode.py FOLDER [--rows mp3 onset ...] [--threads 1 2] [--runs 9] [--device cpu]
        [--peer-python PYTHON] > docs/results/encode.md

FOLDER holds real recordings and photos. Eight recordings of 44.1 kHz and four of 48 kHz (the first in order of a hash
of their names) are also repeated up to 60 s and written in each format, with their own channels. Peer, ours and the
limit take turns in this run, on the same inputs, in random order; medians. Reads are warm.

PYTHON is an interpreter with torch 2.8, torchaudio 2.8, FFmpeg's libraries and open_clip: the reference loader as it
was released. Without it, the peer is what the released code does where torchaudio is 2.9 or newer, librosa reading the
whole file, and open_clip's transform restated with Pillow. `--rows` keeps the rows whose name holds one of the words.
"""

import argparse
import hashlib
import multiprocessing
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import encode_front
import encode_towers
import numpy as np
import soundfile
import torch
from encode_rows import Measured, Setup, measure, together
from PIL import Image
from threadpoolctl import threadpool_limits

from biovita.media.audio import audio_info, write_audio
from biovita.media.window import fit, read_onset

LONG_S = 60
N_RECORDINGS = {44_100: 8, 48_000: 4}  # most published recordings have the first rate; the second needs no resampling
LIBRARIES = ("torch", "transformers", "numpy", "soundfile", "av", "soxr", "pillow", "simplejpeg")
HEAD = (
    "work", "peer", "peer, cpu", "ours", "ratio", "peer, wall", "ours", "ratio",
    "limit", "share", "what the limit is", "largest difference",
)  # fmt: skip


def hashed(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())


def is_jpeg(path: Path) -> bool:
    with Image.open(path) as image:  # some are something else
        return image.format == "JPEG"


def write_long(recordings: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Repeat each recording up to 60 s and write it in every format; beside them, their onset windows."""
    sounds: dict[str, list[Path]] = {}
    for n, path in enumerate(recordings):
        wave, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        wave = np.resize(wave, (LONG_S * rate_hz, wave.shape[1]))
        for suffix in encode_front.FORMATS:
            long = folder / f"{n}.{suffix}"
            sounds.setdefault(encode_front.kind(suffix, rate_hz), []).append(long)
            if suffix == "m4a":
                write_audio(long, wave, rate_hz)
                continue
            with soundfile.SoundFile(long, "w", rate_hz, wave.shape[1]) as file:
                for begin in range(0, len(wave), 4_096):  # one large write crashes its Vorbis
                    file.write(wave[begin : begin + 4_096])
    clips = [fit(read_onset(path), encode_front.N_SAMPLES) for path in sounds["wav"]]
    np.save(folder / "clips.npy", np.stack(clips))
    return sounds


def line(measured: Measured) -> str:
    row, cpu, wall = measured.row, measured.cpu_s, measured.wall_s
    goals = {"cpu": "", "wall": ""}
    if row.goal is not None:
        missed = "" if measured.ratio(row.judged_by) >= row.goal else ", missed"
        goals[row.judged_by] = f" (goal {row.goal:g}{missed})"
    judged = {"cpu": cpu, "wall": wall}[row.judged_by]
    limit = f"{1e3 * judged['limit']:.2f}" if "limit" in judged else ""
    share = f"{100 * judged['limit'] / judged['ours']:.0f} %" if limit else ""
    cells = [row.name, measured.peer_name]
    for clock, spent in (("cpu", cpu), ("wall", wall)):
        cells += [f"{1e3 * spent['peer']:.2f}", f"{1e3 * spent['ours']:.2f}"]
        cells += [f"{measured.ratio(clock):.2f}{goals[clock]}"]
    cells += [limit, share, measured.limit_name, f"{measured.difference:.2g} {measured.unit}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="*", default=[])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer-python", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [*encode_front.ROWS, *encode_towers.ROWS]
    rows = [row for row in rows if not args.rows or any(word in row.name for word in args.rows)]
    files = hashed(path for path in args.folder.rglob("*") if path.is_file())
    recordings = [path for path in files if path.suffix in (".mp3", ".wav")]
    infos = {path: audio_info(path) for path in recordings}
    chosen = [
        path
        for rate_hz, most in N_RECORDINGS.items()
        for path in [path for path in recordings if infos[path].sample_rate_hz == rate_hz][:most]
    ]
    photos = [path for path in files if path.suffix in (".jpg", ".jpeg") and is_jpeg(path)]
    with tempfile.TemporaryDirectory() as scratch:
        # in another process: its large arrays would leave this one's allocator in another state than a fresh one's
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            sounds = pool.submit(write_long, chosen, Path(scratch)).result()
        clips = np.load(Path(scratch) / "clips.npy", mmap_mode="r")
        setup = Setup(recordings, sounds, clips, photos, torch.device(args.device), 1, Path(scratch), args.peer_python)
        made_from = (f"{path.name} ({infos[path].sample_rate_hz} Hz, {infos[path].n_channels} ch)" for path in chosen)
        print(
            "# From a file to a vector, beside the peers\n\n"
            f"    python {' '.join(sys.argv)}\n\n"
            f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}; "
            f"{os.cpu_count()} cores,\ndevice {args.device}. Milliseconds for one item, medians of {args.runs} rounds: "
            "peer, ours and limit in turn, warm reads; processor time, then wall time.\nThe limit is one step done "
            "alone, by the clock that judges the row; share: the limit's time over ours.\n\n"
            f"The 60 s files are made from {', '.join(made_from)}.\n{len(photos)} JPEGs, "
            f"{sum(encode_front.is_large(path) for path in photos)} of {encode_front.LARGE_PX} px or more.",
            flush=True,
        )
        for n_threads in args.threads:
            torch.set_num_threads(n_threads)
            print(f"\n## {n_threads} thread{'s' * (n_threads > 1)}\n\n| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
            with threadpool_limits(n_threads):
                for _, group in groupby(rows, key=lambda row: row.kind or row.name):
                    done = []
                    for row in group:
                        done.append(measure(row, replace(setup, n_threads=n_threads), args.runs))
                        print(line(done[-1]), flush=True)
                    if len(done) > 1:
                        print(line(together(done)), flush=True)


if __name__ == "__main__":
    main()
