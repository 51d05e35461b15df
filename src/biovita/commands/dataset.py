"""`biovita data check|verify|card|shard|export`: verdicts on files; a finished dataset folder proved and passed on."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from biovita.errors import EXIT_BAD_ITEMS, ConfigError, DatasetError
from biovita.log import N_LISTED, SETTINGS, emit, say, warn


@dataclass(frozen=True, kw_only=True)
class Check:
    """Check files and folders; one verdict for every entry."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """files, or folders that are walked"""
    workers: int = 2
    """processes that look at files"""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Prove a dataset folder: hashes, files, no leak between splits."""

    dataset: tyro.conf.Positional[Path]
    """the dataset folder"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Write a dataset's card again from its tables."""

    dataset: tyro.conf.Positional[Path]
    """the dataset folder"""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Write WebDataset tar shards of a dataset, for training at large."""

    dataset: tyro.conf.Positional[Path]
    """the dataset folder"""
    out: Path
    """the folder of shards; a finished shard is not written again"""
    split: Literal["", "train", "val", "test_seen", "test_unseen"] = ""
    """only this split; all four by default"""
    shard_mb: int = 1000
    """most megabytes of media in a shard"""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a dataset in a form that others read."""

    dataset: tyro.conf.Positional[Path]
    """the dataset folder"""
    out: Path
    """a new folder"""
    to: Literal["hub-parquet", "camtrap-dp"]
    """hub-parquet: what Hugging Face `datasets` loads, with image and audio columns; camtrap-dp: packages for field
    collections, one a licence"""
    license: str = ""
    """hub-parquet: licence families to publish; by default the open ones. Non-commercial ones must be named, and works
    that may not be changed are never published"""
    acoustic: bool = False
    """camtrap-dp: use the terms of the bioacoustics pilot"""


def run_check(config: Check) -> int:
    """Print a verdict for every entry, as a table or as JSON lines."""
    from biovita.log import Progress
    from biovita.media.check import Verdict, check_files

    if not config.paths:
        raise ConfigError("data check: name at least one file or folder")
    if config.workers < 1:
        raise ConfigError(f"--workers {config.workers}: use at least 1")
    paths = [entry for path in config.paths for entry in walk(path)]
    reasons: Counter[str] = Counter()

    def line(verdict: Verdict) -> str:
        facts = [
            f"{verdict.duration_s:.1f} s" if verdict.duration_s is not None else "",
            f"{verdict.sample_rate_hz} Hz" if verdict.sample_rate_hz else "",
            f"{verdict.size[0]} x {verdict.size[1]} px" if verdict.size else "",
            *verdict.flags,
            verdict.detail,
        ]
        shown = ascii(verdict.path)[1:-1] if not verdict.path.isprintable() else verdict.path
        return f"{verdict.reason or 'ok':<20} {shown}  {', '.join(fact for fact in facts if fact)}".rstrip()

    with Progress("check", len(paths), "files") as bar:
        for verdict in check_files(paths, workers=config.workers):
            if SETTINGS.json:
                emit(verdict.row())
            else:
                print(line(verdict).encode(errors="backslashreplace").decode(), flush=True)
            reasons[verdict.reason or "ok"] += 1
            bar.advance(bad=not verdict.ok)
    n_bad = sum(reasons.values()) - reasons["ok"]
    say(", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common()) or "no files")
    return EXIT_BAD_ITEMS if n_bad else 0


def run_verify(config: Verify) -> int:
    """Verify tables, files and laws; a broken one is an error that names it."""
    from biovita.data.dataset import Dataset, problems

    dataset = Dataset.open(config.dataset, verify=True)
    found = problems(dataset)
    for problem in found[:N_LISTED]:
        warn(problem)
    if SETTINGS.json:
        emit({"dataset": str(config.dataset), "problems": found, "counts": dataset.manifest["counts"]})
    if found:
        raise DatasetError(f"{config.dataset}: {len(found)} broken laws, first: {found[0]}; build it again")
    splits = ", ".join(f"{n:,} {name}" for name, n in sorted(dataset.media["split"].value_counts().iter_rows()))
    say(f"{config.dataset}: sound; {len(dataset.media):,} files ({splits}), {len(dataset.taxa):,} species")
    return 0


def run_card(config: Card) -> int:
    """Write the card again, and the manifest that pins it."""
    from biovita.data.build import finish
    from biovita.data.dataset import Dataset
    from biovita.data.export import identity
    from biovita.files import sha256_file
    from biovita.report.card_plots import draw_card

    dataset = Dataset.open(config.dataset, verify=False)
    for name, digest in identity(dataset).items():  # the card may be gone; what it tells of may not have changed
        if not (config.dataset / name).is_file() or sha256_file(config.dataset / name) != digest:
            raise DatasetError(f"{config.dataset / name}: changed since manifest.json was written; build it again")
    facts = {key: value for key, value in dataset.manifest.items() if key != "sha256"}
    finish(Dataset(config.dataset, facts), draw_card)
    say(f"{config.dataset / 'card.md'}: written")
    if SETTINGS.json:
        emit({"card": str(config.dataset / "card.md")})
    return 0


def run_shard(config: Shard) -> int:
    """Write shards and say how many."""
    from biovita.data.dataset import Dataset
    from biovita.data.shards import write_shards

    if config.shard_mb < 1:
        raise ConfigError(f"--shard-mb {config.shard_mb}: use at least 1")
    size = {"shard_bytes": config.shard_mb * 1_000_000}
    manifest = write_shards(Dataset.open(config.dataset), config.out, split=config.split or None, **size)
    say(f"{config.out}: {sum(manifest['samples'].values()):,} samples in {len(manifest['samples']):,} shards")
    if SETTINGS.json:
        emit({"shards": str(config.out), "samples": manifest["samples"]})
    return 0


def run_export(config: Export) -> int:
    """Export and say what was left out."""
    from biovita.commands.data import families_of
    from biovita.data.camtrap import write_camtrap_dp
    from biovita.data.dataset import Dataset
    from biovita.data.hub_parquet import OPEN, write_hub_parquet

    if config.to == "camtrap-dp" and config.license:
        raise ConfigError(f"--license {config.license}: camtrap-dp writes a package for every licence; leave it out")
    if config.to == "hub-parquet" and config.acoustic:
        raise ConfigError("--acoustic: its terms are those of camtrap-dp; leave it out")
    dataset = Dataset.open(config.dataset)
    if config.to == "camtrap-dp":
        manifest = write_camtrap_dp(dataset, config.out, acoustic=config.acoustic)
    else:
        manifest = write_hub_parquet(dataset, config.out, licences=families_of(config.license) or OPEN)
    left_out = manifest["left_out"]
    say(f"{config.out}: written" + "".join(f", {n:,} left out ({why})" for why, n in left_out.items()))
    if SETTINGS.json:
        emit({"out": str(config.out), "left_out": left_out})
    return 0


def walk(path: Path) -> list[Path]:
    """List a file, or everything in a folder that is no folder itself.

    Links are listed, not followed; so is a folder that may not be read.
    """
    if path.is_symlink() or not path.is_dir():
        return [path]
    entries: list[Path] = []
    unread: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=unread.append):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        entries += [Path(folder, name) for name in (*names, *links)]
    return sorted([*entries, *(Path(error.filename) for error in unread)])
