"""`biovita identify`: name the animal in photos and recordings."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from biovita.errors import ConfigError, MediaError
from biovita.log import SETTINGS, emit, warn


@dataclass(frozen=True, kw_only=True)
class Identify:
    """Rank taxa for each file: photo or recording, told apart by content."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Photos and recordings, mixed as you like."""
    model: Path
    """Model folder or hub name."""
    labels: Path | None = None
    """CSV, TSV or Parquet of species to choose from (columns kingdom to species, common_name); default: the model's
    own labels.csv."""
    k: int = 5
    """Taxa to print a file."""


def run_identify(config: Identify) -> int:
    """Print ranked taxa; files that cannot be used are listed with the reason, and the exit code is 3."""
    if not config.files:
        raise ConfigError("no files given; name photos or recordings: biovita identify FILE… --model MODEL")
    if config.k < 1:
        raise ConfigError(f"--k {config.k}: give at least 1")
    from biovita.identify.answer import Identifier
    from biovita.media.check import check_files
    from biovita.models.hub import load

    encoder = load(str(config.model))
    identifier = Identifier(encoder, read_labels(config.labels, encoder.folder))
    n_bad = 0
    for verdict in check_files(config.files):
        if verdict.verdict != "ok" or verdict.modality is None:
            n_bad += 1
            refuse(verdict.path, verdict.reason, verdict.detail)
            continue
        try:
            found = identifier.rank(Path(verdict.path), verdict.modality, k=config.k)
        except MediaError as error:  # the file passed the check and still does not decode, or changed since
            n_bad += 1
            refuse(verdict.path, error.reason, error.detail)
            continue
        taxa = [{**one.taxon.row(), "score": round(one.score, 4)} for one in found]
        if SETTINGS.json:
            emit({"path": str(verdict.path), "verdict": "ok", "modality": verdict.modality, "taxa": taxa})
        else:
            print(f"{verdict.path}  ({verdict.modality})")
            for n, row in enumerate(taxa, 1):
                name = f"{row['species']} ({row['common_name']})" if row["common_name"] else row["species"]
                print(f"  {n}. {name:<60} {row['family']:<20} score {row['score']:+.3f}")
    return 3 if n_bad else 0


def refuse(path: object, reason: str | None, detail: str) -> None:
    """Say that a file was not identified, and why."""
    if SETTINGS.json:
        emit({"path": str(path), "verdict": "reject", "reason": reason, "detail": detail})
    warn(f"{path}: not identified: {reason} ({detail})")


def read_labels(table: Path | None, folder: Path | None) -> list:
    """Read the species to choose from.

    Raises:
        ConfigError: there is no table, or it lacks a column.
    """
    from biovita.tables import read_table, require_columns
    from biovita.taxonomy.rank import LEVELS
    from biovita.taxonomy.taxon import Taxon

    path = table or (folder / "labels.csv" if folder else None)
    if path is None or not path.is_file():
        raise ConfigError(f"{path or 'labels'}: no such table of species; give one with --labels TABLE")
    rows = read_table(path)
    require_columns(rows, LEVELS, path)
    return [Taxon.from_row(row) for row in rows.iter_rows(named=True)]
