"""Checking sounds (hash, limits, silence, fingerprint, in a limited child) beside librosa merely loading them.

    python benchmarks/check.py FOLDER [--runs 5] [--most 40]

FOLDER holds recordings. The first of them (in order of a hash of their names, so from everywhere) are written as wav,
flac, mp3 and ogg in their own rate and channels; an mp3 is taken as it is. Both sides take every file eight times with
one worker, in turn, in this run; librosa at the file's own rate (sr=None), and also at the 48 kHz that our readers
give. The start of the child counts as well. On a busy machine only processor time means something, so that is the
first figure; the wall time is beside it. Writes docs/results/check.md.
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
TIMES = 8  # so that the start of a child, 0.3 s, is shared as in a build
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
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        chosen = recordings(args.folder, args.most)
        groups = write_formats(chosen, Path(scratch))
        mean_s = statistics.mean(audio_info(path).duration_s for path in groups[".wav"])
        load_all(groups[".wav"][:2], SAMPLE_RATE_HZ)  # librosa compiles and imports at its first call
        for suffix, paths in groups.items():
            many = paths * TIMES
            work = {
                "librosa": lambda many=many: load_all(many, None),
                "librosa, 48 kHz": lambda many=many: load_all(many, SAMPLE_RATE_HZ),
                "ours": lambda many=many: check_all(many),
            }
            runs: dict[str, list[tuple[float, float]]] = {who: [] for who in work}
            for _ in range(args.runs):
                for who, act in work.items():
                    runs[who].append(spent(act))
            cpu, wall = (
                {who: len(many) / statistics.median(run[i] for run in of) for who, of in runs.items()} for i in (0, 1)
            )
            lines.append(
                f"| {suffix[1:]} | {cpu['librosa']:,.1f} | {cpu['librosa, 48 kHz']:,.1f} | {cpu['ours']:,.1f} | "
                f"{cpu['ours'] / cpu['librosa']:.2f} | {cpu['ours'] / cpu['librosa, 48 kHz']:.2f} | "
                f"{wall['ours'] / wall['librosa']:.2f} | {wall['ours'] / wall['librosa, 48 kHz']:.2f} |"
            )
            print(lines[-1], flush=True)
    PAGE.write_text(
        "# Checking a sound beside loading it with librosa\n\n"
        f"    python benchmarks/check.py {args.folder} --runs {args.runs} --most {args.most}\n\n"
        f"{len(chosen)} recordings of {mean_s:.1f} s on average, each {TIMES} times, one worker, medians of "
        f"{args.runs} runs in turn; librosa {librosa.__version__}, Python {platform.python_version()}.\n"
        "Ours hashes, decodes every sample, judges, takes the fingerprint, and runs in a limited child, whose start\n"
        "is counted. Files a second of processor time, then ours / librosa by processor time and by wall time\n"
        "(which says little where others use the cores).\n\n"
        "| format | librosa, own rate | librosa, 48 kHz | ours | ratio | ratio, 48 kHz | wall | wall, 48 kHz |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
