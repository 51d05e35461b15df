"""Kill training at random moments and run it again: is it, in the end, the run that nobody disturbed?

    python benchmarks/kills.py [--kills 50] [--processes 1 2] [--seed 1]

A tiny model learns a made-up world of 12 species from all three losses. One run is left alone. The others are killed at
a moment drawn evenly over its whole time, from the start of Python to the last file, and the same command is given
again, until the run is finished; then the next one begins, until so many kills have fallen. SIGTERM goes to the command
(under torchrun, to torchrun); SIGKILL to all its processes at once; `one of two` is SIGKILL to a single one, whose
fellow is left waiting. Wrong is a finished run whose losses, gradient norms or validation differ in any digit from the
undisturbed one (train_log.jsonl, of every step the last line, all but the times), or whose model.safetensors differ in
any byte. One torch thread a process. Prints one line a number of processes and writes docs/results/kills.md, in which
the lines that were not asked for stay. Linux.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from biovita.files import sha256_file

PAGE = Path(__file__).parents[1] / "docs" / "results" / "kills.md"
LOG = "train_log.jsonl"
TIMES = ("samples_per_s", "wait_share", "peak_share")
WAYS = {1: ("SIGTERM", "SIGKILL"), 2: ("SIGTERM", "SIGKILL", "one of two")}
PATIENCE_S = 300  # for a process that was asked to stop
RUN_FILE = """
[recipe]
stage = "killed"
audio_text = 1.0
audio_image = 0.5
image_text = 0.5
ramp_epochs = 0.5
trained = ["audio_model.*", "audio_projection.*", "clip.text_model.*", "clip.text_projection.*", "logit_scale"]
epochs = 10
min_per_species = 10
batch_size = 8
accumulate = 2
freeze_batch_norm = true
learning_rate = 1e-3
schedule = "cosine"
ema = 0.9
validate_every = 2
keep = "best"
"""


@dataclass
class Outcome:
    """What became of the runs with so many processes.

    Attributes:
        kills: that fell, by way.
        while_training: of them, those that fell after the first step of their process.
        finished: runs that came to their end and were compared.
        wrong: of them, those that differ.
        seconds: in all.
    """

    kills: Counter[str] = field(default_factory=Counter)
    while_training: int = 0
    finished: int = 0
    wrong: int = 0
    seconds: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2], choices=sorted(WAYS))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    lines = old_lines() if PAGE.is_file() else {}
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_dataset(folder)
        for n in args.processes:
            outcome = disturb(folder, n, args.kills, rng)
            bad += outcome.wrong
            each = ", ".join(f"{outcome.kills[way]} {way}" for way in WAYS[n])
            lines[n] = (
                f"| {n} | {outcome.kills.total()} ({each}) | {outcome.while_training} | {outcome.finished} | "
                f"{outcome.wrong} | {outcome.seconds:,.0f} |"
            )
            print(lines[n], flush=True)
    PAGE.write_text(
        "# Training killed at random moments\n\n"
        "A run is killed, the same command given again, and again, until it is finished. Wrong is a finished run that\n"
        "differs from the one that nobody disturbed: in any digit of the losses, gradient norms or validation of any\n"
        "step, or in any byte of the weights. The ways: SIGTERM, which training answers by saving; SIGKILL to all\n"
        "processes at once; with two processes also SIGKILL to one of them.\n\n"
        f"    python benchmarks/kills.py --kills {args.kills} --seed {args.seed}\n\n"
        "| processes | kills | after the first step | runs finished | wrong | s |\n|---|---|---|---|---|---|\n"
        + "\n".join(lines[n] for n in sorted(lines))
        + "\n\nTiny model, made-up world of 12 species, three losses with gradient accumulation, averaged weights,\n"
        "validation every other epoch; a checkpoint every second and at SIGTERM; gloo on one CPU.\n"
    )
    return 1 if bad else 0


def old_lines() -> dict[int, str]:
    """Read the table of the page, by number of processes."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(("| 1 ", "| 2 "))]
    return {int(line.split()[1]): line for line in rows}


def make_dataset(folder: Path) -> None:
    world, dataset = folder / "world", folder / "dataset"
    biovita("world", "make", "--species", "12", "--recordings", "4", "--images", "4", "--seed", "1", "--out", world)
    words = ["--withheld", "2", "--seed", "1", "--workers", "1", "--out", dataset]
    biovita("data", "build", "--manifest", world / "records.parquet", *words)
    (folder / "run.toml").write_text(RUN_FILE)


def biovita(*words: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "biovita", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def disturb(folder: Path, n: int, n_kills: int, rng: np.random.Generator) -> Outcome:
    """Train once undisturbed, then under kills, with so many processes."""
    began, outcome = time.monotonic(), Outcome()
    whole = folder / f"whole{n}"
    seconds = train(folder, whole, n)
    wanted = curve(whole), sha256_file(whole / "model.safetensors")
    while outcome.kills.total() < n_kills:
        out = folder / f"run{n}-{outcome.finished}"
        while outcome.kills.total() < n_kills:
            way = str(rng.choice(WAYS[n]))
            before = n_steps(out)
            if not kill(folder, start(folder, out, n), way, rng.uniform(0, 1.05 * seconds), rng):
                break
            outcome.kills[way] += 1
            outcome.while_training += n_steps(out) > before
            print(f"{n}: kill {outcome.kills.total()}, {way}, {n_steps(out)} lines", file=sys.stderr, flush=True)
        if not out.is_dir():
            train(folder, out, n)
        outcome.finished += 1
        if (curve(out), sha256_file(out / "model.safetensors")) != wanted:
            outcome.wrong += 1
            print(f"{n}: run {outcome.finished} differs", file=sys.stderr, flush=True)
    outcome.seconds = time.monotonic() - began
    return outcome


def start(folder: Path, out: Path, n: int) -> "subprocess.Popen[bytes]":
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)] if n > 1 else []
    words = ["train", folder / "run.toml", "--data", folder / "dataset", "--out", out, "--checkpoint-minutes", "0.0167"]
    with (folder / "stderr.txt").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, *torchrun, "-m", "biovita", *map(str, words)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def train(folder: Path, out: Path, n: int) -> float:
    """Train to the end; return the seconds."""
    began = time.monotonic()
    assert start(folder, out, n).wait() == 0, (folder / "stderr.txt").read_text()[-2000:]
    return time.monotonic() - began


def kill(folder: Path, process: "subprocess.Popen[bytes]", way: str, after_s: float, rng: np.random.Generator) -> bool:
    """Kill a command after so many seconds; tell whether it was still at work."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        assert process.wait(timeout=after_s) == 0, (folder / "stderr.txt").read_text()[-2000:]
        return False
    family = list(descendants(process.pid))
    if way == "one of two" and len(family) > 1:  # before torchrun has started them, it is torchrun itself
        family = [int(rng.choice(list(children(process.pid))))]
    for pid in [process.pid] if way == "SIGTERM" else family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
    process.wait(timeout=PATIENCE_S)
    return True


def descendants(pid: int) -> Iterator[int]:
    """Name a process and all below it."""
    yield pid
    for child in children(pid):
        yield from descendants(child)


def children(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())


def n_steps(out: Path) -> int:
    """Count the lines that a run has written so far."""
    logs = [out / LOG, *out.parent.glob(f".{out.name}.*.part/{LOG}")]
    return sum(path.read_bytes().count(b"\n") for path in logs if path.is_file())


def curve(out: Path) -> dict[str, str]:
    """Return what the log says last of each step and look, without the times, every digit as it was written."""
    found = {}
    for line in (out / LOG).read_text().splitlines():
        record = json.loads(line)
        kept = {name: value for name, value in record.items() if name not in TIMES}
        found[f"{record['step']} {'look' if 'val' in record else 'step'}"] = json.dumps(kept)
    return found


if __name__ == "__main__":
    sys.exit(main())
