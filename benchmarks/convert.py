"""Conversion at full size: what it costs, and that no bit changes on the way there and back.

    python benchmarks/parity_peer.py FOLDER make   # needs open_clip; random weights in the release's layout
    python benchmarks/convert.py FOLDER

Prints a table in Markdown. Every step is a process of its own; memory is the largest that it or its child held.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

from biovita.files import sha256_file
from biovita.models.open_clip import WEIGHTS
from biovita.models.pickles import read_pickle

LOAD = """
import sys, time
import biovita
started = time.monotonic()
model = biovita.load(sys.argv[1], device="cpu")
print(model.weights_sha256, time.monotonic() - started)
"""


def run(*words: object, home: Path) -> tuple[str, dict[str, float]]:
    """Run one Python process and measure it."""
    line = ["/usr/bin/env", f"BIOVITA_HOME={home}", "HF_HUB_OFFLINE=1", sys.executable, *map(str, words)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert done.stdout
    said = done.stdout.read()
    _, status, usage = os.wait4(done.pid, 0)
    assert status == 0, line
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return said, {"wall_s": time.monotonic() - started, "cpu_s": cpu_s, "rss_mb": usage.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    convert = ("-m", "biovita", "model", "convert")
    rows = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        out = Path(scratch)
        home = out / "home"
        first, cost = run("-c", LOAD, folder, home=home)
        rows.append(("biovita.load, first time: two pickles converted and kept", cost))
        again, cost = run("-c", LOAD, folder, home=home)
        rows.append(("biovita.load, later: hashes compared, converted folder read", cost))
        assert first.split()[0] == again.split()[0]
        _, cost = run(*convert, folder, "--out", out / "ours", "--quiet", home=home)
        rows.append(("model convert --to biovita", cost))
        own, cost = run("-c", LOAD, out / "ours", home=home)
        rows.append(("biovita.load of the converted folder", cost))
        assert own.split()[0] == first.split()[0] == sha256_file(out / "ours" / "model.safetensors")
        line = ("--to", "official", "--clap", folder / "clap", "--quiet")
        _, cost = run(*convert, out / "ours", "--out", out / "official", *line, home=home)
        rows.append(("model convert --to official", cost))
        run(*convert, out / "official", "--out", out / "back", "--quiet", home=home)
        same = sha256_file(out / "back" / "model.safetensors") == first.split()[0]
        _, cost = run(*convert, out / "ours", "--out", out / "towers", "--to", "open_clip", "--quiet", home=home)
        rows.append(("model convert --to open_clip", cost))
        theirs, ours = read_pickle(folder / WEIGHTS[1]), load_file(out / "towers" / WEIGHTS[0])
        equal = theirs.keys() == ours.keys() and all(theirs[name].equal(ours[name]) for name in theirs)
        one, other = (json.loads((path / "open_clip_config.json").read_text()) for path in (folder, out / "towers"))
    print("| step | seconds | CPU seconds | memory, MB |\n|---|---|---|---|")
    for name, cost in rows:
        print(f"| {name} | {cost['wall_s']:.1f} | {cost['cpu_s']:.1f} | {cost['rss_mb']:,.0f} |")
    print(f"\nrelease -> ours -> release -> ours: model.safetensors {'identical' if same else 'DIFFERENT'}")
    print(f"open_clip -> ours -> open_clip: {len(ours)} tensors {'identical' if equal else 'DIFFERENT'}", end="")
    print(f", configuration {'identical' if one == other else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
