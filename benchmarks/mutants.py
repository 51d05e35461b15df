"""Mutated media through the checker: does every file get a verdict, in time, without a lost child?

    python benchmarks/mutants.py [--n 10000] [--seed 0]

Twenty good parents (every container and picture format that we take) are cut, flipped, spliced, overwritten and padded.
Writes docs/results/mutants.md; exits with 1 if a child died or a file took more than 5 s.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from biovita.media.audio import write_audio
from biovita.media.check import check_files

SLOW_S = 5.0
BLOCK = 500
PAGE = Path(__file__).parents[1] / "docs" / "results" / "mutants.md"


def parents(folder: Path) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    wave = (0.3 * np.sin(np.arange(48_000) * 0.05) + 0.02 * rng.standard_normal(48_000)).astype(np.float32)
    for name in ("a.wav", "a.flac", "a.mp3", "a.m4a"):
        write_audio(folder / name, wave, 48_000)
    soundfile.write(folder / "float.wav", wave, 44_100, subtype="FLOAT")
    soundfile.write(folder / "deep.wav", np.stack([wave] * 8, axis=1), 96_000, subtype="PCM_24")
    soundfile.write(folder / "b.aiff", wave, 22_050)
    soundfile.write(folder / "opus.ogg", wave, 48_000, format="OGG", subtype="OPUS")
    soundfile.write(folder / "vorbis.ogg", wave[:20_000], 48_000, format="OGG", subtype="VORBIS")
    with av.open(str(folder / "alac.m4a"), "w", format="ipod") as box:
        stream = box.add_stream("alac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray((wave[None] * 32_000).astype(np.int16), format="s16p", layout="mono")
        frame.rate = 44_100
        for packet in (*stream.encode(frame), *stream.encode(None)):
            box.mux(packet)
    photo = Image.fromarray(rng.integers(0, 255, (80, 120, 3), np.uint8)).resize((360, 240))
    photo.save(folder / "a.jpg")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.save(folder / "progressive.jpg", progressive=True)
    for name in ("a.png", "a.webp", "a.gif", "a.tif", "a.bmp", "a.avif"):
        photo.save(folder / name)
    Image.fromarray(rng.integers(0, 65_535, (80, 120), np.uint16)).save(folder / "deep.png")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutate(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, length = draw.randrange(len(body)), draw.choice((1, 4, 64, 1024))
        match draw.randrange(8):
            case 0:
                body = body[: max(1, at)]
            case 1:
                for _ in range(draw.choice((1, 8, 64))):
                    body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
            case 2:
                body[at : at + length] = bytes(draw.choice((0, 255)) for _ in range(length))
            case 3:
                body[at:at] = draw.randbytes(length)
            case 4:
                del body[at : at + length]
            case 5:
                other = draw.choice(others)
                body = body[:at] + other[draw.randrange(len(other)) :]
            case 6:  # headers are where the lies are
                body[draw.randrange(min(64, len(body)))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            case _:
                body += draw.randbytes(length)
        if not body:
            body = bytearray(b"\0")
    return bytes(body)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, reasons, slow, died = random.Random(args.seed), Counter(), [], []
    n_verdicts, slowest, started = 0, 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "parents").mkdir()
        whole = parents(root / "parents")
        refused = [v for v in check_files(sorted((root / "parents").iterdir())) if not v.ok]
        assert not refused, refused
        names = list(whole)
        for first in range(0, args.n, BLOCK):
            paths = []
            for n in range(first, min(first + BLOCK, args.n)):
                name = draw.choice(names)
                path = root / f"{n}-{name}"
                path.write_bytes(mutate(whole[name], list(whole.values()), draw))
                paths.append(path)
            for path, verdict in zip(paths, check_files(paths, workers=2), strict=True):
                n_verdicts += 1
                reasons[verdict.reason or "ok"] += 1
                slowest = max(slowest, verdict.elapsed_s)
                if verdict.elapsed_s > SLOW_S or "no verdict within" in verdict.detail:
                    slow.append((path.name, verdict))
                if "the decoder died" in verdict.detail:
                    died.append((path.name, verdict))
                path.unlink()
    seconds = time.monotonic() - started
    for name, verdict in (*slow, *died):
        print(name, verdict)
    table = "\n".join(f"| {reason} | {n:,} |" for reason, n in reasons.most_common())
    summary = (
        f"{n_verdicts:,} mutants of {len(whole)} parents: {n_verdicts:,} verdicts, {len(died)} lost children, "
        f"{len(slow)} over {SLOW_S:g} s, slowest {slowest:.2f} s, {n_verdicts / seconds:,.0f} files/s."
    )
    print(summary)
    PAGE.write_text(
        f"# Mutated media through the checker\n\n    python benchmarks/mutants.py --n {args.n} --seed {args.seed}\n\n"
        f"{summary}\n\n| verdict | files |\n|---|---|\n{table}\n"
    )
    return 1 if slow or died else 0


if __name__ == "__main__":
    sys.exit(main())
