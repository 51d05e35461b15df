"""Whether our vectors are those that the published weights mean, at the size of the published models.

    python -m pip install --no-deps --target PEERS --requirement requirements-peers.lock
    python benchmarks/parity.py WORK --media ../shared/data/wildlife --peers PEERS NEWER:PEERS --mteb MTEB/bin/python

WORK/release becomes a folder in the layout of `risashinoda/BioVITA`, with random weights; 2.3 GB, and as much again in
WORK/cache. NEWER holds another open_clip; MTEB is an environment with mteb, torchaudio and torchcodec. Writes
docs/results/parity.md, or what `--out` names. A peer whose answers are in WORK is not asked again.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from biovita.config import commit
from biovita.files import write_text
from biovita.media.audio import read_audio
from biovita.media.window import fit, onset_s
from biovita.models.encoder import Encoder
from biovita.models.hub import load_encoder
from biovita.models.mel import LogMel

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "parity.md"
CHILD = HERE / "parity_peer.py"
RATE_HZ, N_SAMPLES = 48_000, 480_000
BOUND = 2e-6


@dataclass(frozen=True)
class Row:
    """One comparison of unit vectors."""

    modality: str
    peer: str
    what: str
    ours: np.ndarray
    theirs: np.ndarray

    def text(self) -> str:
        apart = abs(self.ours - self.theirs).max(axis=1)
        cosine = (self.ours.astype(np.float64) * self.theirs).sum(axis=1)
        return (
            f"| {self.modality} | {self.peer} | {self.what} | {len(self.ours)} | {apart.max():.1e} | "
            f"{np.median(apart):.1e} | {min(1.0, cosine.min()):.7f} |"
        )


def choose(media: Path, most: int, scratch: Path) -> dict[str, Any]:
    """Take photos, recordings and names evenly from a folder with a manifest, and write down what we hear in them."""
    with (media / "manifest.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    paths = {kind: [media / row["path"] for row in rows if row["modality"] == kind] for kind in ("audio", "image")}
    paths = {kind: some[:: max(1, len(some) // most)][:most] for kind, some in paths.items()}
    names = sorted({row[column] for row in rows for column in ("scientific_name", "common_name")})
    items: dict[str, Any] = {"texts": names, "images": [str(path) for path in paths["image"]], "clips": []}
    items["recordings"] = []
    scratch.mkdir(parents=True, exist_ok=True)
    for n, path in enumerate(paths["audio"]):
        wave = read_audio(path)
        start = round(onset_s(wave) * RATE_HZ)
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        here = {name: str(scratch / f"{n}_{name}.npy") for name in ("clip", "wave", "samples")}
        np.save(here["clip"], fit(wave[start : start + N_SAMPLES], N_SAMPLES))
        np.save(here["wave"], wave)
        np.save(here["samples"], samples.mean(axis=1))
        items["clips"].append(here["clip"])
        items["recordings"].append({"path": str(path), "rate_hz": rate_hz, **here})
    return items


def run_peer(python: Path, peers: str, folder: Path, *words: object) -> None:
    environment = {**os.environ, "PYTHONPATH": peers}
    done = subprocess.run(
        [python, CHILD, folder, *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def read(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def embed(ours: Encoder, items: dict[str, Any]) -> dict[str, np.ndarray]:
    clips = [(np.load(path), RATE_HZ) for path in items["clips"]]
    waves = [(np.load(item["wave"]), RATE_HZ) for item in items["recordings"]]
    files = [item["path"] for item in items["recordings"]]
    return {
        "clip": ours.embed_audio(clips, window="centre"),
        "wave": ours.embed_audio(waves),
        "file": ours.embed_audio(files),
        "image": ours.embed_image(items["images"]),
        "text": ours.embed_text(items["texts"]),
    }


def log_mel_lines(ours: Encoder, items: dict[str, Any], theirs: np.ndarray) -> list[str]:
    """Compare dB, frame by frame and band by band."""
    mel = LogMel(ours.processor.feature_extractor)
    apart = np.stack([abs(mel(torch.from_numpy(np.load(path)[None]))[0].numpy() - peer)
                      for path, peer in zip(items["clips"], theirs, strict=True)])  # fmt: skip
    return [
        f"Log-mel against `ClapFeatureExtractor`, {apart.size:,} values of {len(apart)} clips: at most "
        f"{apart.max():.1e} dB apart, on the mean {apart.mean():.1e} dB (bound: 5e-4 dB)."
    ]


def spread_lines(found: dict[str, np.ndarray]) -> list[str]:
    lines = [
        "| modality | items | cosine between two different items, least | median | greatest |",
        "|---|---|---|---|---|",
    ]
    for name in ("clip", "image", "text"):
        vectors = found[name]
        cosine = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
        label = "audio" if name == "clip" else name
        lines.append(
            f"| {label} | {len(vectors)} | {cosine.min():.3f} | {np.median(cosine):.3f} | {cosine.max():.4f} |"
        )
    return lines


def file_lines(found: dict[str, np.ndarray], mteb: dict[str, Any], items: dict[str, Any]) -> list[str]:
    """Say how far whole files are apart where the other resampler, or the other decoder too, had its say."""
    rate_hz = np.array([item["rate_hz"] for item in items["recordings"]])
    native, lower = rate_hz == RATE_HZ, rate_hz < 32_000
    decoded = np.isfinite(mteb["audio_file"]).all(axis=1)
    lines = ["| what is theirs | recordings | max abs difference | median | least cosine |", "|---|---|---|---|---|"]
    for label, ours, theirs, chosen in (
        ("onset rule, padding, log-mel, network", found["wave"], mteb["audio"], native | True),
        ("decoder too (torchcodec), files at 48 kHz", found["file"], mteb["audio_file"], native & decoded),
        ("resampler (torchaudio), files at 44.1 kHz", found["file"], mteb["audio_same_samples"], ~native & ~lower),
        ("resampler, files at 8 to 22.05 kHz", found["file"], mteb["audio_same_samples"], lower),
        ("resampler and decoder, all that it decodes", found["file"], mteb["audio_file"], decoded),
    ):  # fmt: skip
        if not chosen.any():
            continue
        apart = abs(ours - theirs).max(axis=1)[chosen]
        cosine = (ours.astype(np.float64) * theirs).sum(axis=1)[chosen]
        lines.append(
            f"| {label} | {chosen.sum()} | {apart.max():.1e} | {np.median(apart):.1e} | {min(1.0, cosine.min()):.6f} |"
        )
    refused = [Path(item["path"]).name for item, there in zip(items["recordings"], decoded, strict=True) if not there]
    return [
        *lines,
        *(["", f"Its decoder gives up on {', '.join(refused)}; ours reads what is left."] if refused else []),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--media", type=Path, required=True, help="folder with manifest.tsv, photos and recordings")
    parser.add_argument("--peers", nargs="+", required=True, help="PYTHONPATH of each open_clip to compare with")
    parser.add_argument("--mteb", type=Path, help="a Python that has mteb")
    parser.add_argument("--most", type=int, default=32, help="photos, and recordings")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    os.environ["BIOVITA_HOME"] = str(args.work / "cache")
    python, folder = Path(sys.executable), args.work.resolve() / "release"
    if not folder.is_dir():
        run_peer(python, args.peers[0], folder, "make")
    items = choose(args.media.resolve(), args.most, args.work.resolve() / "items")
    described = args.work.resolve() / "items.json"
    described.write_text(json.dumps(items))

    ours = load_encoder(folder, device="cpu")
    found = embed(ours, items)
    rows, versions = [], [f"ours: Python {platform.python_version()}, torch {torch.__version__}, commit {commit()}"]
    jobs = [("open_clip", python, peers) for peers in args.peers] + [("clap", python, "")]
    jobs += [("mteb", args.mteb, "")] if args.mteb else []
    answers: dict[str, dict[str, Any]] = {}
    for n, (job, with_python, peers) in enumerate(jobs):
        out = args.work.resolve() / f"answers{n}"
        if not (out / f"{job}.npz").is_file():
            run_peer(with_python, peers, folder, job, "--items", described, "--out", out)
        answers[job] = answer = read(out / f"{job}.npz")
        versions.append(f"{job}: {answer['versions']}")
        installed = dict(part.rsplit(" ", 1) for part in str(answer["versions"]).split(", "))
        if job == "open_clip":
            name = f"open_clip {installed['open_clip_torch']}"
            rows.append(Row("image", name, "files, its evaluation transform", found["image"], answer["image"]))
            rows.append(Row("text", name, "names, its tokenizer", found["text"], answer["text"]))
        elif job == "clap":
            name = f"transformers {installed['transformers']}"
            rows.append(Row("audio", name, "10 s at 48 kHz, ClapFeatureExtractor", found["clip"], answer["audio"]))
        else:
            name = f"MTEB {installed['mteb']}"
            rows.append(Row("image", name, "same pixels", found["image"], answer["image_same_pixels"]))
            rows.append(Row("text", name, "names", found["text"], answer["text"]))
            rows.append(
                Row("audio", name, "whole recordings at 48 kHz, its onset rule", found["wave"], answer["audio"])
            )

    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    lines = [
        "# Parity with the published models",
        "",
        "Command, on real photos, recordings and names (`data/wildlife` of the shared material), fp32, CPU:",
        "",
        f"    python benchmarks/parity.py WORK --media DIR --peers PEERS NEWER:PEERS --mteb PYTHON --most {args.most}",
        "",
        "A folder in the layout of `risashinoda/BioVITA` (ViT-L/14, 12-layer text tower, HTS-AT, adapter 512 to 768),",
        "with random weights, is loaded by `biovita.load` and by each peer.",
        f"Bound: {BOUND:.0e} between components of unit vectors.",
        "",
        "| modality | peer | input | items | max abs difference | median of items | least cosine |",
        "|---|---|---|---|---|---|---|",
        *(row.text() for row in rows),
        "",
        *log_mel_lines(ours, items, answers["clap"]["log_mel"]),
        "",
        "The weights are drawn so that every layer has a say (`wake` in benchmarks/parity_peer.py). So vectors of",
        "different items differ; else the numbers above would be small whatever we did.",
        "",
        *spread_lines(found),
    ]
    if "mteb" in answers:
        random_crop = Row("", "", "", found["image"], answers["mteb"]["image"])
        cosine = (random_crop.ours * random_crop.theirs).sum(axis=1)
        lines += [
            "",
            "## Where MTEB's wrapper differs from the evaluation that open_clip means",
            "",
            "Its pictures go through the transform for training, with a random crop of 90 to 100 %, so its vector of a",
            "photo is another one each time. The rows above put open_clip's evaluation transform in its place; as it",
            f"is installed, its cosine to ours is {cosine.min():.4f} to {cosine.max():.4f}.",
            "",
            "Recordings are decoded by torchcodec and resampled by torchaudio's sinc, ours by libsndfile and soxr HQ.",
            "The resamplers differ most in the bands above half the file's own rate, where there is nothing but what",
            "they leave there:",
            "",
            *file_lines(found, answers["mteb"], items),
        ]
    lines += [
        "",
        "## Versions",
        "",
        *(f"- {line}" for line in versions),
        f"- {machine}",
        "",
    ]
    write_text(args.out, "\n".join(lines))
    failed = [row for row in rows if not abs(row.ours - row.theirs).max() < BOUND]
    print("\n".join(lines))
    raise SystemExit(f"{len(failed)} of {len(rows)} rows are not below {BOUND}" if failed else 0)


if __name__ == "__main__":
    main()
