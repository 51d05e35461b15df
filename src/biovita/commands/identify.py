"""`biovita identify`: name the animal in photos and recordings."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from biovita.errors import ConfigError
from biovita.log import SETTINGS, emit, warn


@dataclass(frozen=True, kw_only=True)
class Identify:
    """Rank taxa for each file: photo or recording, told apart by content."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Photos and recordings, mixed as you like."""
    model: Path
    """Model folder or hub name."""
    labels: Path | None = None
    """Table of species to choose from (columns kingdom to species, common_name); default: the model's labels.csv."""
    k: int = 5
    """Taxa to print a file."""


def run_identify(config: Identify) -> int:
    """Print ranked taxa; files that cannot be used are listed with the reason, and the exit code is 3."""
    if not config.files:
        raise ConfigError("no files given; name photos or recordings: biovita identify FILE… --model MODEL")
    from biovita.identify.answer import Identifier
    from biovita.media.check import check_files
    from biovita.models.hub import load

    encoder = load(str(config.model))
    identifier = Identifier(encoder, read_labels(config.labels, encoder.folder))
    n_bad = 0
    for verdict in check_files(config.files):
        if verdict.verdict != "ok" or verdict.modality is None:
            n_bad += 1
            if SETTINGS.json:
                emit({"path": str(verdict.path), "verdict": "reject", "reason": verdict.reason})
            warn(f"{verdict.path}: not identified: {verdict.reason} ({verdict.detail})")
            continue
        found = identifier.rank(Path(verdict.path), verdict.modality, k=config.k)
        taxa = [{**one.taxon.row(), "score": round(one.score, 4)} for one in found]
        if SETTINGS.json:
            emit({"path": str(verdict.path), "verdict": "ok", "modality": verdict.modality, "taxa": taxa})
        else:
            print(f"{verdict.path}  ({verdict.modality})")
            for n, row in enumerate(taxa, 1):
                name = f"{row['species']} ({row['common_name']})" if row["common_name"] else row["species"]
                print(f"  {n}. {name:<60} {row['family']:<20} score {row['score']:+.3f}")
    return 3 if n_bad else 0


def read_labels(table: Path | None, folder: Path | None) -> list:
    """Read the species to choose from.

    Raises:
        ConfigError: there is no table, or it lacks a column.
    """
    import polars as pl

    from biovita.taxonomy.rank import LEVELS
    from biovita.taxonomy.taxon import Taxon

    path = table or (folder / "labels.csv" if folder else None)
    if path is None or not path.is_file():
        raise ConfigError(f"{path or 'labels'}: no such table of species; give one with --labels TABLE")
    rows = pl.read_csv(path, infer_schema=False)
    missing = [level for level in LEVELS if level not in rows.columns]
    if missing:
        raise ConfigError(f"{path}: lacks the column(s) {', '.join(missing)}; it has {', '.join(rows.columns)}")
    return [Taxon.from_row(row) for row in rows.iter_rows(named=True)]
