"""Memory of embedding: 100,000 made-up things and one recording of ten hours, with the tiny model.

    .venv/bin/python benchmarks/embed_memory.py FOLDER > docs/results/embed_memory.md

FOLDER receives a few hundred made-up files and the vectors, and is removed afterwards. Every file is embedded many
times under other ids: what counts is how the process grows, not what it hears. Each kind has a process of its own.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from PIL import Image

from biovita.config import commit
from biovita.embed import extract
from biovita.embed.extract import How, embed_media, embed_names
from biovita.log import say
from biovita.models import hub

N = {"names": 70_000, "pictures": 25_000, "sounds": 5_000, "windows": 10 * 360}  # 100,000, and ten hours of windows
WHAT = {"sounds": "recordings of half a second", "windows": "windows of one recording of 10 h"}
N_FILES = 100  # of each kind
WARM_SHARE = 0.1  # of the vectors
LIMIT_MB = 200
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Watch(threading.Thread):
    """Looks at this process's resident memory twenty times a second, before and after it is warm."""

    def __init__(self, kind: str) -> None:
        super().__init__(daemon=True)
        self.n_warm = WARM_SHARE * N[kind]
        self.n_done = 0
        self.warm_mb = self.most_mb = 0.0

    def run(self) -> None:
        while True:
            if self.n_done < self.n_warm:
                self.warm_mb = max(self.warm_mb, resident_mb())
            else:
                self.most_mb = max(self.most_mb, resident_mb())
            time.sleep(0.05)


def resident_mb() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def make_files(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for n in range(N_FILES):
        soundfile.write(folder / f"{n}.wav", rng.normal(0, 0.1, 8_000), 16_000)
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).save(folder / f"{n}.jpg")
    minute = np.concatenate([rng.normal(0, 0.1, 16_000), np.zeros(59 * 16_000)])
    with soundfile.SoundFile(folder / "long.flac", "w", 16_000, 1) as file:
        for _ in range(N["windows"] // 6):
            file.write(minute)


def child(folder: Path, kind: str) -> None:
    """Embed all things of one kind, and print what it took."""
    encoder = hub.start("tiny", ["Turdus merula"] * 3, seed=1)
    out, n = folder / f"{kind}.parquet", N[kind]
    ids = [f"Made-up item {n}" for n in range(n)]
    watch = Watch(kind)
    write = extract.Parts.write

    def counted(parts: extract.Parts, block: list, **how: str | None) -> int:
        watch.n_done += sum(len(item.vectors) for item in block)
        return write(parts, block, **how)

    extract.Parts.write = counted  # pyright: ignore[reportAttributeAccessIssue]
    started, cpu_started = time.monotonic(), time.process_time()
    watch.start()
    if kind == "names":
        embed_names(encoder, out, names=ids)
    elif kind == "windows":
        how = How(window="windows", pool=None)
        embed_media(encoder, out, ids=["long"], paths=[folder / "long.flac"], modality="audio", how=how)
    else:
        suffix, modality = (".wav", "audio") if kind == "sounds" else (".jpg", "image")
        paths = [folder / f"{n % N_FILES}{suffix}" for n in range(n)]
        embed_media(encoder, out, ids=ids, paths=paths, modality=modality)
    seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu_started
    assert pq.read_metadata(out).num_rows == n
    size_mb = out.stat().st_size / 2**20
    numbers = {"seconds": seconds, "cpu_s": cpu_s, "size_mb": size_mb, "warm_mb": watch.warm_mb}
    print(json.dumps({**numbers, "growth_mb": watch.most_mb - watch.warm_mb}))


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    found = {}
    try:
        make_files(folder)
        for kind in N:
            say(kind)
            line = [sys.executable, __file__, str(folder), kind]
            done = subprocess.run(line, env={**os.environ, **THREADS}, stdout=subprocess.PIPE, check=True)
            found[kind] = json.loads(done.stdout)
    finally:
        shutil.rmtree(folder)
    most = max(one["growth_mb"] for one in found.values())
    print(f"""# Memory of embedding

Command:

    python benchmarks/embed_memory.py FOLDER

Commit {commit()}, Python {platform.python_version()}, torch {torch.__version__}, one thread, {os.cpu_count()} cores.
The tiny model, so that the memory of the run shows and not that of the weights; its vectors have 768 numbers, as those
of the full model. Resident memory of the process, twenty times a second, with reading, embedding, writing the parts
and joining them; "warm" is the most until {WARM_SHARE:.0%} of the vectors are there, "growth" what came on top of it.

| things | vectors | file, MB | s | CPU s | warm, MB | growth, MB |
|---|---|---|---|---|---|---|""")
    for kind, one in found.items():
        numbers = [one[key] for key in ("size_mb", "seconds", "cpu_s", "warm_mb", "growth_mb")]
        print(f"| {WHAT.get(kind, kind)} | {N[kind]:,} | " + " | ".join(f"{number:,.0f}" for number in numbers) + " |")
    print(f"\nThe most that any grew is {most:.0f} MB; the bound is {LIMIT_MB} MB.")
    return int(most >= LIMIT_MB)


if __name__ == "__main__":
    sys.exit(child(Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) == 3 else main())
