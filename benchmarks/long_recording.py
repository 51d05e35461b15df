"""`biovita identify` on a made-up recording of ten hours: memory, speed, and a kill in the middle.

    .venv/bin/python benchmarks/long_recording.py FOLDER MODEL > docs/results/long_recording.md

FOLDER receives the recordings and the tables, and is removed afterwards. MODEL is a tiny one, that of `biovita demo`,
so that the memory of the run shows and not that of the weights. Each run is the real command in a process of its own;
memory is that of the process and of the checker's children together, five times a second. A second table reads ten
hours of every format window by window, without a model.
"""

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import torch

from biovita.config import commit
from biovita.log import say
from biovita.media.audio import audio_info, read_windows
from biovita.media.window import CLIP_S, windows

HOURS = 10
RATE_HZ = 24_000
LOW_HZ = 8_000
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
LIMIT_MB = 1_500
KILL_AT = 0.5  # of the blocks of the whole run
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
FORMATS = ("csv", "parquet", "raven", "audacity", "birdnet")


def make_recording(path: Path) -> None:
    """Write noise with calls: chirps of changing pitch, some every minute, none the same."""
    rng = np.random.default_rng(1)
    t = np.arange(RATE_HZ) / RATE_HZ
    with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
        for _ in range(HOURS * 60):
            minute = rng.normal(0, 0.01, 60 * RATE_HZ).astype(np.float32)
            for start in rng.choice(59, 8, replace=False) * RATE_HZ:
                low, high = rng.uniform(500, 9_000, 2)
                minute[start : start + RATE_HZ] += 0.3 * np.sin(2 * np.pi * (low + (high - low) * t / 2) * t)
            file.write(minute)


def resident_mb(process: int) -> tuple[float, float]:
    """Return the memory of a process, and that of its children."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(stat.parent.name) == process or int(fields[1]) == process:
            found[int(stat.parent.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    own = found.pop(process, 0.0)
    return own, sum(found.values())


def identify(sound: Path, model: Path, out: Path, *, kill_after: int = 0) -> dict[str, float]:
    """Run the command and return what it took; with `kill_after` it is killed when so many blocks are kept."""
    words = ["-m", "biovita", "identify", str(sound), "--model", str(model), "--out", str(out), "--quiet"]
    started, most, most_children, journal = time.monotonic(), 0.0, 0.0, out / "journal.jsonl"
    before = os.times()
    n_blocks = 0
    with subprocess.Popen([sys.executable, *words, "--format", *FORMATS], env={**os.environ, **THREADS}) as process:
        checked_s = 0.0
        while process.poll() is None:
            own, children = resident_mb(process.pid)
            most, most_children = max(most, own + children), max(most_children, children)
            n_blocks = max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0
            checked_s = checked_s or (time.monotonic() - started) * (n_blocks > 0)
            if kill_after and n_blocks >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.2)
    assert process.returncode in (0, -signal.SIGKILL), process.returncode
    after = os.times()
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return {
        "seconds": time.monotonic() - started,
        "cpu_s": cpu_s,
        "most_mb": most,
        "children_mb": most_children,
        "n_blocks": n_blocks,
    }


def write_plain(path: Path) -> None:
    """Write ten hours of noise at a low rate in the format that the suffix names."""
    minute = np.random.default_rng(1).normal(0, 0.1, 60 * LOW_HZ).astype(np.float32)
    if path.suffix != ".m4a":
        with soundfile.SoundFile(path, "w", LOW_HZ, 1) as file:
            for _ in range(HOURS * 60):
                for part in minute.reshape(60, -1):  # one large write of Vorbis crashes libsndfile
                    file.write(part)
        return
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=LOW_HZ, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for n in range(HOURS * 60):
            frame = av.AudioFrame.from_ndarray(minute[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = LOW_HZ, n * len(minute), Fraction(1, LOW_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_all(path: Path) -> None:
    """Read all windows of a recording, and print how many, the CPU seconds and the most memory."""
    start_mb, started = resident_mb(os.getpid())[0], time.process_time()
    n_windows = sum(1 for _ in read_windows(path, windows(audio_info(path).duration_s, CLIP_S)))
    most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([n_windows, time.process_time() - started, start_mb, most_mb]))


def reading(folder: Path) -> None:
    """Print the table of reading alone."""
    print(f"""
Reading alone, window by window, {HOURS} h of noise at {LOW_HZ:,} Hz:

| format | file, MB | windows | CPU s | memory before, MB | at most, MB |
|---|---|---|---|---|---|""")
    for suffix in SUFFIXES:
        path = folder / f"plain{suffix}"
        say(f"{suffix}: reading")
        write_plain(path)
        line = [sys.executable, __file__, "--read", str(path)]
        done = subprocess.run(line, stdout=subprocess.PIPE, env={**os.environ, **THREADS}, check=True)
        n_windows, cpu_s, start_mb, most_mb = json.loads(done.stdout)
        size_mb = path.stat().st_size / 2**20
        print(f"| {suffix[1:]} | {size_mb:,.0f} | {n_windows:,} | {cpu_s:.0f} | {start_mb:,.0f} | {most_mb:,.0f} |")
        path.unlink()


def tables(out: Path) -> dict[str, bytes]:
    """Read every table of an output."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("run.json", "journal.jsonl")
    }


def main() -> int:
    folder, model = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    found, is_good = {}, True
    try:
        for suffix in (".flac", ".mp3"):
            sound = folder / f"night{suffix}"
            say(f"{suffix}: writing {HOURS} hours")
            make_recording(sound)
            size_mb = sound.stat().st_size / 2**20
            say(f"{suffix}: in one go")
            whole = identify(sound, model, folder / f"whole{suffix}")
            n_rows = len((folder / f"whole{suffix}" / "predictions.csv").read_text().splitlines()) - 1
            say(f"{suffix}: killed, and again")
            killed = identify(sound, model, folder / f"out{suffix}", kill_after=round(KILL_AT * whole["n_blocks"]))
            again = identify(sound, model, folder / f"out{suffix}")
            is_same = tables(folder / f"out{suffix}") == tables(folder / f"whole{suffix}")
            most_mb = max(run["most_mb"] for run in (whole, killed, again))
            is_good &= is_same and most_mb < LIMIT_MB
            found[suffix] = (size_mb, n_rows, whole, killed, again, is_same)
            sound.unlink()
        report(found)
        reading(folder)
    finally:
        shutil.rmtree(folder)
    return int(not is_good)


def report(found: dict[str, tuple]) -> None:
    """Print what the runs took."""
    print(f"""# A recording of ten hours

Command:

    python benchmarks/long_recording.py FOLDER demo/model

Commit {commit()}, Python {platform.python_version()}, torch {torch.__version__},
{os.cpu_count()} cores, one thread for the model, which is the demo's: one of full size adds its weights and is slower.
{HOURS} h of made-up sound at {RATE_HZ:,} Hz, mono; windows of 10 s back to back; tables: {", ".join(FORMATS)}.
Memory is that of the process and of the checker's child together, at most; the bound is {LIMIT_MB:,} MB.

| file | MB | run | s | CPU s | hours of sound a minute | memory, MB | of it the child, MB |
|---|---|---|---|---|---|---|---|""")
    for suffix, (size_mb, _, whole, killed, again, _) in found.items():
        for name, run in (("in one go", whole), ("until the kill", killed), ("gone on", again)):
            rate = f"{HOURS / run['seconds'] * 60:,.1f}" if run is whole else ""
            numbers = [f"{run[key]:,.0f}" for key in ("seconds", "cpu_s", "most_mb", "children_mb")]
            print(f"| {suffix[1:]} | {size_mb:,.0f} | {name} | {' | '.join([*numbers[:2], rate, *numbers[2:]])} |")
    print()
    for suffix, (_, n_rows, whole, killed, _, is_same) in found.items():
        same = "the same bytes as" if is_same else "OTHER BYTES THAN"
        print(
            f"{suffix[1:]}: {n_rows:,} detections; killed with SIGKILL after {killed['n_blocks']} of "
            f"{whole['n_blocks']} blocks and run again: every table has {same} those of the run in one go."
        )


if __name__ == "__main__":
    sys.exit(read_all(Path(sys.argv[2])) if sys.argv[1] == "--read" else main())
