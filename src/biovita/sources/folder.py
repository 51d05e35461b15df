"""Files of your own: a table that names them, a tree of species folders, or selection tables beside recordings.

The table (TSV, CSV or Parquet) needs `path` (relative to itself), `scientific_name` and `modality`; every other record
column is optional, and a few other spellings are understood (`ALIASES`). A path that would leave the table's folder
gets no file: the build refuses that row, as `unsafe_name`. Trees are read by `tree`, selections by `selections`.
"""

import os
import re
from collections import Counter
from pathlib import Path

import polars as pl

from biovita.errors import DatasetError
from biovita.sources.licence import normalise_licence
from biovita.sources.record import MODALITIES, RECORD_SCHEMA, RECORDS_SCHEMA, Reading, each, instants
from biovita.sources.selections import read_selections, selection_columns
from biovita.sources.tree import SOURCE, read_tree, walk_files
from biovita.tables import read_table, require_columns

REQUIRED = ("path", "scientific_name", "modality")
ALIASES = {
    "license": "licence",
    "origin": "page_url",
    "notes": "remarks",
    "scientificname": "scientific_name",
    "species": "scientific_name",
    "file": "path",
    "file_path": "path",
    "filename": "path",
    "rightsholder": "rights_holder",
    "latitude": "latitude_deg",
    "longitude": "longitude_deg",
    "date": "recorded_at",
    "individual_id": "individual",
}

_HOLDERS = ("remarks", "licence")  # where a holder may stand who has no column
_HOLDER = re.compile(
    r"(?:\(c\)|©|photo credit)\s+(?P<credit>.+?)\s*(?:,\s|;|/|$)"  # (c) NAME, some rights reserved
    r"|^(?P<commons>.+?)\s*/ Wikimedia Commons"
    r"|^public domain \((?P<agency>[^)]+)\)",
    re.IGNORECASE,
)


def read(path: Path, *, licence: str | None = None) -> Reading:
    """Read a table of files, a selection table, a folder with selection tables, or a tree of species folders.

    Args:
        path: a file or a folder.
        licence: of the files, where no table says it: needed for all but a table of files.

    Raises:
        DatasetError: it is none of these, or has no licence.
    """
    path = Path(path)
    if path.is_dir():
        files, _ = walk_files(path)
        marked = any(selection_columns(path / name) for name in files)
        return read_selections(path, licence=licence) if marked else read_tree(path, licence=licence)
    if path.is_file() and selection_columns(path):
        return read_selections(path, licence=licence)
    records = read_manifest_table(path)
    return Reading(records=records, counts=Counter(records=len(records)))


def read_manifest_table(path: Path) -> pl.DataFrame:
    """Read a table of local files as records with the columns of RECORDS_SCHEMA.

    Raises:
        DatasetError: no such table or column, a modality that is neither audio nor image, an id that occurs twice.
    """
    path = Path(path)
    table = read_table(path)
    given = {name: ALIASES.get(name.strip().lower(), name.strip().lower()) for name in table.columns}
    # a column that already has its proper name wins over one that is only an alias for it
    table = table.select(
        pl.col(name).alias(proper)
        for name, proper in given.items()
        if name.strip().lower() == proper or proper not in {other.strip().lower() for other in table.columns}
    )
    require_columns(table, REQUIRED, path)
    _check_modality(table, path)
    names = table["path"].cast(pl.String).fill_null("")
    table = table.with_columns(local_files(names, path.resolve().parent).alias("file"), names.alias("path"))
    for name, dtype in RECORD_SCHEMA.items():
        if name not in table.columns:
            table = table.with_columns(pl.lit(None, dtype).alias(name))
    if "common_name" not in table.columns:
        table = table.with_columns(pl.lit(None, pl.String()).alias("common_name"))
    records = table.with_columns(
        pl.col("modality").str.strip_chars().str.to_lowercase(),
        pl.col("source").fill_null(SOURCE),
        each(table["licence"].cast(pl.String), normalise_licence),
        pl.coalesce("rights_holder", *(each(table[name].cast(pl.String), rights_holder) for name in _HOLDERS)),
        pl.col("common_name").cast(pl.String).alias("given_common_name"),
        # a row with a URL and no path is fetched
        pl.when((pl.col("path") != "") | pl.col("url").is_null()).then(pl.col("path")).alias("given_path"),
        instants(table["recorded_at"], path),
    ).with_columns(pl.col("media_id").fill_null(pl.format("{}:{}", "source", pl.coalesce("given_path", "url"))))
    hints = [pl.lit(None, pl.String()).alias(name) for name in RECORDS_SCHEMA if name not in records.columns]
    records = records.with_columns(hints)
    records = records.select(_cast(records[name], dtype, path) for name, dtype in RECORDS_SCHEMA.items())
    twice = records.filter(pl.col("media_id").is_duplicated())["media_id"]
    if len(twice):
        raise DatasetError(f"{path}: media_id '{twice[0]}' stands in {(twice == twice[0]).sum()} rows; make it unique")
    return records


def local_files(names: pl.Series, root: Path) -> pl.Series:
    """Find the absolute path of each name; null where it is empty, absolute or leaves the folder, also by a link.

    Args:
        names: as given, relative to the folder; no nulls.
        root: the folder, resolved.
    """
    if not len(names):
        return names.alias("file")
    name = pl.col("name")
    table = names.alias("name").to_frame().with_columns(folder=name.str.extract(r"(?s)^(.*)/", 1).fill_null(""))
    folders = table["folder"].unique()
    inside = [os.path.realpath(root / folder) if "\0" not in folder else "" for folder in folders]
    within = pl.Series([Path(place).is_relative_to(root) for place in inside], dtype=pl.Boolean)
    leaves = (
        (name.str.strip_chars() == "")
        | name.str.contains("\0", literal=True)
        | name.str.contains(r"(^|[/\\])\.\.([/\\]|$)")
        | name.str.starts_with("/")
    )
    plain = ~leaves & pl.col("folder").replace_strict(folders, within)
    untidy = names.filter(names.str.contains(r"(^|/)\.?(/|$)")).unique()  # a//b, ./a
    tidy = pl.Series([str(root / odd) for odd in untidy], dtype=pl.String)
    joined = pl.concat_str(pl.lit(str(root).rstrip("/") + "/"), name)
    path = pl.coalesce(name.replace_strict(untidy, tidy, default=None, return_dtype=pl.String), joined)
    return table.select(pl.when(plain).then(path).alias("file"))["file"]


def rights_holder(remarks: str | None) -> str | None:
    """Find the holder in '(c) NAME, some rights reserved', 'photo credit NAME; ...' or 'Public domain (NAME)'."""
    found = _HOLDER.search(remarks or "")
    return found[found.lastgroup or 0] if found else None


def _check_modality(table: pl.DataFrame, path: Path) -> None:
    known = pl.col("modality").str.strip_chars().str.to_lowercase().is_in(MODALITIES)
    bad = table.with_row_index("row").filter(known.not_() | pl.col("modality").is_null())
    if len(bad):
        row = bad.row(0, named=True)
        # the header is line 1
        raise DatasetError(f"{path}: line {row['row'] + 2}: modality '{row['modality']}'; use audio or image")


def _cast(column: pl.Series, dtype: pl.DataType, path: Path) -> pl.Series:
    if column.dtype == pl.String and dtype != pl.String:
        column = column.set(column.str.strip_chars() == "", None)
    try:
        return column.cast(dtype)
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{path}: column '{column.name}': {str(error).splitlines()[0]}") from error
