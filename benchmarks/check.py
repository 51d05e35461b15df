"""Checking sounds (hash, limits, silence, fingerprint, in a limited child) beside librosa merely loading them.

    OMP_NUM_THREADS=1 python benchmarks/check.py FOLDER [--runs 5] [--most 40]

FOLDER holds recordings. The first of them (in order of a hash of their names, so from everywhere) are written as wav,
flac, mp3 and ogg in their own rate and channels; an mp3 is taken as it is. Both sides take every file twelve times with
one worker, in turn, in this run; librosa as it loads unless told otherwise (mono, 22,050 Hz), at the 48 kHz that our
readers give, and without resampling (sr=None). The start of the child counts as well. On a busy machine only processor
time means something, so that is the first figure; the wall time is beside it. Writes docs/results/check.md.
"""

import argparse
import hashlib
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import soundfile

from biovita.errors import MediaError
from biovita.media.audio import SAMPLE_RATE_HZ, audio_info
from biovita.media.check import Limits, check_files

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")  # librosa opens no m4a without FFmpeg
LIBROSA_HZ = 22_050  # its default
RATES_HZ = {"default": LIBROSA_HZ, "48 kHz": SAMPLE_RATE_HZ, "own rate": None}
TIMES = 12  # so that the start of a child, 0.2 s, is shared by some hundred files; in a build, by all of them
PAGE = Path(__file__).parents[1] / "docs" / "results" / "check.md"


def recordings(folder: Path, most: int) -> list[Path]:
    """Choose sounds of 2 to 60 s that soundfile reads."""
    found = []
    for path in sorted(folder.rglob("*"), key=lambda path: hashlib.sha256(path.name.encode()).digest()):
        if path.suffix not in SUFFIXES or len(found) == most:
            continue
        try:
            if 2 <= audio_info(path).duration_s <= 60:
                soundfile.read(path)
                found.append(path)
        except (MediaError, soundfile.LibsndfileError):
            continue
    return found


def write_formats(paths: list[Path], folder: Path) -> dict[str, list[Path]]:
    written: dict[str, list[Path]] = {suffix: [] for suffix in SUFFIXES}
    for n, path in enumerate(paths):
        wave, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        for suffix, group in written.items():
            group.append(folder / f"{n}{suffix}")
            if suffix == path.suffix == ".mp3":
                group[-1].write_bytes(path.read_bytes())
                continue
            with soundfile.SoundFile(group[-1], "w", rate_hz, wave.shape[1]) as file:
                for block in np.array_split(wave, max(1, len(wave) // 4096)):  # one large write crashes its Vorbis
                    file.write(block)
    return written


def load_all(paths: list[Path], rate_hz: int | None) -> None:
    for path in paths:
        librosa.load(path, sr=rate_hz)


def check_all(paths: list[Path]) -> None:
    assert all(verdict.ok for verdict in check_files(paths, workers=1, limits=Limits(seconds=60)))


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Return processor and wall seconds; our children have ended when `work` returns, so their time counts."""

    def processor_s() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    cpu_s, wall_s = processor_s(), time.perf_counter()
    work()
    return processor_s() - cpu_s, time.perf_counter() - wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=int, default=40)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    lines, rates = [], []
    with tempfile.TemporaryDirectory() as scratch:
        chosen = recordings(args.folder, args.most)
        groups = write_formats(chosen, Path(scratch))
        mean_s = statistics.mean(audio_info(path).duration_s for path in groups[".wav"])
        load_all(groups[".wav"][:2], SAMPLE_RATE_HZ)  # librosa compiles and imports at its first call
        for suffix, paths in groups.items():
            many = paths * TIMES
            work: dict[str, Callable[[], object]] = {
                name: lambda many=many, rate_hz=rate_hz: load_all(many, rate_hz) for name, rate_hz in RATES_HZ.items()
            }
            work["ours"] = lambda many=many: check_all(many)
            runs: dict[str, list[tuple[float, float]]] = {who: [] for who in work}
            for _ in range(args.runs):
                for who, act in work.items():
                    runs[who].append(spent(act))
            cpu, wall = (
                {who: len(many) / statistics.median(run[i] for run in of) for who, of in runs.items()} for i in (0, 1)
            )
            lines.append(
                f"| {suffix[1:]} | "
                + " | ".join(f"{cpu[who]:,.1f}" for who in (*RATES_HZ, "ours"))
                + " | "
                + " | ".join(f"{kind['ours'] / kind[who]:.2f}" for who in RATES_HZ for kind in (cpu, wall))
                + " |"
            )
            print(lines[-1], flush=True)
            rates.append(cpu)
    together = {who: len(rates) / sum(1 / cpu[who] for cpu in rates) for who in rates[0]}
    lines.append(
        "| as many of each | "
        + " | ".join(f"{rate:,.1f}" for rate in together.values())
        + " | "
        + " |  | ".join(f"{together['ours'] / together[who]:.2f}" for who in RATES_HZ)
        + " |  |"
    )
    PAGE.write_text(
        "# Checking a sound beside loading it with librosa\n\n"
        f"    OMP_NUM_THREADS=1 python benchmarks/check.py {args.folder} --runs {args.runs} --most {args.most}\n\n"
        f"{len(chosen)} recordings of {mean_s:.1f} s on average, each {TIMES} times, one worker, medians of "
        f"{args.runs} runs in turn; librosa {librosa.__version__}, Python {platform.python_version()}.\n"
        "Ours hashes, decodes every sample, judges, takes the fingerprint, and runs in a limited child, whose start\n"
        "is counted. Files a second of processor time; then ours / librosa by processor time and, beside it, by\n"
        "wall time (which says little where others use the cores). librosa's default is mono at 22,050 Hz.\n\n"
        "| format | librosa, default | librosa, 48 kHz | librosa, own rate | ours | ratio to default | wall | "
        "ratio to 48 kHz | wall | ratio to own rate | wall |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
