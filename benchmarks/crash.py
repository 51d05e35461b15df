"""Kill a build at every rename, fsync and write, then run it again: are the tables those of an undisturbed build?

    python benchmarks/crash.py [--calls rename fsync fdatasync write pwrite64] [--every 1]

strace injects SIGKILL into the N-th call of a kind in the building process, for N = 1, 2, ... until a build survives
without having been hit. Each kind is a run of its own, since strace counts each system call by itself. Prints one line
a kind and writes docs/results/crash.md, in which the lines of kinds that were not asked for stay. Linux with strace.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIOVITA = str(Path(sys.executable).parent / "biovita")
CALLS = ("rename", "fsync", "fdatasync", "write", "pwrite64")
OTHERS = ("renameat", "renameat2", "sync_file_range", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile")
TABLES = ("media.parquet", "taxa.parquet", "quarantine.parquet", "names.parquet", "card.md", "croissant.json",
          "CREDITS.csv", "card.png")  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "results" / "crash.md"


def build(world: Path, out: Path, *before: str) -> subprocess.CompletedProcess[bytes]:
    command = [BIOVITA, "data", "build", "--quiet", "--manifest", str(world / "records.parquet"), "--out", str(out)]
    return subprocess.run([*before, *command, "--seed", "1", "--withheld", "1", "--workers", "1"], capture_output=True)


def contents(out: Path) -> dict[str, str]:
    names = [*TABLES, *(str(p.relative_to(out)) for p in sorted((out / "media").rglob("*")) if p.is_file())]
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def left_over(out: Path) -> list[str]:
    return [str(p.relative_to(out)) for p in out.rglob("*.part")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", nargs="+", default=CALLS, choices=CALLS)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("benchmarks/crash.py: needs strace")
    bad = 0
    lines = dict.fromkeys(CALLS, "")
    if PAGE.is_file():
        rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
        lines |= {line.split()[1]: line for line in rows if line.split()[1] in CALLS}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        world = root / "world"
        words = [BIOVITA, "world", "make", "--species", "12", "--recordings", "1", "--images", "1", "--seed", "1"]
        subprocess.run([*words, "--out", str(world)], check=True, capture_output=True)
        done = build(world, root / "whole" / "dataset")
        assert done.returncode == 0, done.stderr
        whole = contents(root / "whole" / "dataset")
        traced = build(
            world, root / "traced" / "dataset", "strace", "-e", f"trace={','.join(OTHERS)}", "-e", "signal=none"
        )
        assert b"(" not in traced.stderr, f"the build now writes by calls that no kind names: {traced.stderr[:200]}"
        for kind in args.calls:
            started, n, hits, wrong = time.monotonic(), 1, 0, 0
            while True:
                out = root / f"{kind}{n}" / "dataset"
                inject = f"inject={kind}:signal=KILL:when={n}"
                # without -f: only the building process itself, not its children that decode
                killed = build(world, out, "strace", "-o", os.devnull, "-e", inject)
                if killed.returncode == 0:
                    break
                hits += 1
                again = build(world, out)
                same = again.returncode == 0 and contents(out) == whole and not left_over(out)
                if not same:
                    wrong += 1
                    print(f"{kind} {n}: exit {again.returncode}, {again.stderr.decode()[-300:]} {left_over(out)}")
                shutil.rmtree(out.parent)
                n += args.every
            bad += wrong
            lines[kind] = f"| {kind} | {hits} | {wrong} | {time.monotonic() - started:,.0f} |"
            print(lines[kind], flush=True)
    PAGE.write_text(
        "# A build killed at every rename, fsync and write\n\n"
        "A build of a made-up world (12 species) is killed at every system call of a kind, and run again.\n"
        "Wrong is any byte of tables or media that differs from an undisturbed build, or a left-over file.\n\n"
        f"    python benchmarks/crash.py{' --every ' + str(args.every) if args.every > 1 else ''}\n\n"
        "| call | builds killed | wrong after the second run | s |\n|---|---|---|---|\n"
        + "\n".join(lines[kind] for kind in CALLS if lines[kind])
        + "\n"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
