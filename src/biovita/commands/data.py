"""`biovita data build|check|verify|card`: a table of files becomes a dataset folder; files get verdicts."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from biovita.errors import ConfigError, DatasetError
from biovita.log import SETTINGS, emit, say, warn

N_LISTED = 20  # refused items shown one by one; the rest is counted
EXIT_BAD_ITEMS = 3


@dataclass(frozen=True, kw_only=True)
class Build:
    """Build a dataset folder from a table of local files."""

    manifest: Path
    """TSV, CSV or Parquet with path (relative to the table), scientific_name, modality, and any other record columns"""
    out: Path
    """the dataset folder; the same build goes on where it was stopped"""
    taxa: tuple[Path, ...] = ()
    """name lists, the most trusted first: a table with the seven ranks, the eBird CSV, BirdNET-Go's genus JSON; by
    default taxa.parquet beside the manifest"""
    seed: int = 0
    """of the splits; another seed withholds other species"""
    withheld: float = 0.1
    """species kept out of training for test_unseen: a number of them, or a share below 1"""
    license: str = ""
    """comma-separated licence families to use, like cc0,public-domain,cc-by; by default every known licence"""
    workers: int = 2
    """processes that check files; the result does not depend on it"""


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


def run_build(config: Build) -> int:
    """Build the dataset, say what came of it, and list what was refused."""
    from biovita.config import describe_run, write_run
    from biovita.data.build import build_dataset
    from biovita.files import sha256_file
    from biovita.sources.folder import read_manifest_table
    from biovita.taxonomy.checklist import Checklist

    if config.withheld < 0:
        raise ConfigError(f"--withheld {config.withheld:g}: use a number of species, or a share below 1")
    licences = _families(config.license)
    records = read_manifest_table(config.manifest)
    checklist = Checklist.open(_name_lists(config))
    facts = {"inputs": {str(path): sha256_file(path) for path in (config.manifest, *_name_lists(config))}}
    report = build_dataset(
        records,
        checklist,
        config.out,
        seed=config.seed,
        withheld=config.withheld,
        licences=licences,
        workers=config.workers,
        run=describe_run(config, **facts),
    )
    write_run(config.out, config, **facts)
    say(
        f"{config.out}: {report.n_ok:,} files of {report.n_species:,} species ({report.n_withheld:,} withheld), "
        f"{report.n_quarantined:,} refused"
    )
    _list_refused(report.refused)
    if SETTINGS.json:
        reasons = Counter(reason for _, reason, _ in report.refused)
        emit({"dataset": str(config.out), "ok": report.n_ok, "quarantined": report.n_quarantined, "reasons": reasons})
    return EXIT_BAD_ITEMS if report.n_bad_media else 0


def run_check(config: Check) -> int:
    """Print a verdict for every entry, as a table or as JSON lines."""
    from biovita.log import Progress
    from biovita.media.check import Verdict, check_files

    if not config.paths:
        raise ConfigError("data check: name at least one file or folder")
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
    if found:
        raise DatasetError(f"{config.dataset}: {len(found)} broken laws, first: {found[0]}; build it again")
    splits = ", ".join(f"{n:,} {name}" for name, n in sorted(dataset.media["split"].value_counts().iter_rows()))
    say(f"{config.dataset}: sound; {len(dataset.media):,} files ({splits}), {len(dataset.taxa):,} species")
    if SETTINGS.json:
        emit({"dataset": str(config.dataset), "problems": found, "counts": dataset.manifest["counts"]})
    return 0


def run_card(config: Card) -> int:
    """Write card.md, croissant.json and CREDITS.csv again, and the manifest that pins them."""
    from biovita.data.build import TABLES
    from biovita.data.card import write_card
    from biovita.data.dataset import Dataset
    from biovita.files import write_manifest

    dataset = Dataset.open(config.dataset, verify=False)
    write_card(dataset)
    facts = {key: value for key, value in dataset.manifest.items() if key != "sha256"}
    write_manifest(config.dataset, TABLES, **facts)
    say(f"{config.dataset / 'card.md'}: written")
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


def _name_lists(config: Build) -> list[Path]:
    if config.taxa:
        return list(config.taxa)
    beside = config.manifest.parent / "taxa.parquet"
    if not beside.is_file():
        raise ConfigError(f"--taxa: name a list of species; there is no {beside} to take instead")
    return [beside]


def _families(text: str) -> list[str] | None:
    from biovita.sources.licence import FAMILIES

    families = [family.strip().lower() for family in text.split(",") if family.strip()]
    for family in families:
        if family not in FAMILIES:
            raise ConfigError(f"--license {family}: unknown; use {', '.join(FAMILIES)}")
    return families or None


def _list_refused(refused: list[tuple[str, str, str]]) -> None:
    for media_id, reason, detail in refused[:N_LISTED]:
        say(f"  {reason}: {media_id} ({detail})")
    if len(refused) > N_LISTED:
        rest = Counter(reason for _, reason, _ in refused[N_LISTED:])
        say(f"  and {len(refused) - N_LISTED:,} more: {', '.join(f'{n:,} {r}' for r, n in rest.most_common())}")
    if refused:
        say("  quarantine.parquet has them all")
