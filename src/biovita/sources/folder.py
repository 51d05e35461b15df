"""Files of your own with a table that names them: TSV, CSV or Parquet.

The table needs `path` (relative to itself), `scientific_name` and `modality`; every other record column is optional,
and a few other spellings are understood (`ALIASES`). A path that would leave the table's folder gets no file: the
build refuses that row, as `unsafe_name`.
"""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl

from biovita.errors import DatasetError
from biovita.sources.licence import normalise_licence
from biovita.sources.record import FILE_SCHEMA, MODALITIES, RECORD_SCHEMA
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
DEFAULT_SOURCE = "folder"

_HOLDERS = ("remarks", "licence")  # where a holder may stand who has no column
_HOLDER = re.compile(
    r"(?:\(c\)|©|photo credit)\s+(?P<credit>.+?)\s*(?:,\s|;|/|$)"  # (c) NAME, some rights reserved
    r"|^(?P<commons>.+?)\s*/ Wikimedia Commons"
    r"|^public domain \((?P<agency>[^)]+)\)",
    re.IGNORECASE,
)


def read_manifest_table(path: Path) -> pl.DataFrame:
    """Read a table of local files as records with the columns of RECORD_SCHEMA and FILE_SCHEMA.

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
    root = path.resolve().parent
    inside = functools.cache(lambda folder: Path(os.path.realpath(root / folder)).is_relative_to(root))
    names = table["path"].cast(pl.String).fill_null("").to_list()
    files = [str(root / name) if _is_plain(name) and inside(os.path.dirname(name)) else None for name in names]  # noqa: PTH120
    table = table.with_columns(pl.Series("file", files, pl.String()), pl.Series("path", names, pl.String()))
    for name, dtype in RECORD_SCHEMA.items():
        if name not in table.columns:
            table = table.with_columns(pl.lit(None, dtype).alias(name))
    if "common_name" not in table.columns:
        table = table.with_columns(pl.lit(None, pl.String()).alias("common_name"))
    records = table.with_columns(
        pl.col("modality").str.strip_chars().str.to_lowercase(),
        pl.col("source").fill_null(DEFAULT_SOURCE),
        _each(table["licence"].cast(pl.String), normalise_licence),
        pl.coalesce("rights_holder", *(_each(table[name].cast(pl.String), rights_holder) for name in _HOLDERS)),
        pl.col("common_name").cast(pl.String).alias("given_common_name"),
        pl.col("path").alias("given_path"),
        _instant(table["recorded_at"], path),
    ).with_columns(pl.col("media_id").fill_null(pl.format("{}:{}", "source", "path")))
    records = records.select(_cast(records[name], dtype, path) for name, dtype in (RECORD_SCHEMA | FILE_SCHEMA).items())
    twice = records.filter(pl.col("media_id").is_duplicated())["media_id"]
    if len(twice):
        raise DatasetError(f"{path}: media_id '{twice[0]}' stands in {(twice == twice[0]).sum()} rows; make it unique")
    return records


def rights_holder(remarks: str | None) -> str | None:
    """Find the holder in '(c) NAME, some rights reserved', 'photo credit NAME; ...' or 'Public domain (NAME)'."""
    found = _HOLDER.search(remarks or "")
    return found[found.lastgroup or 0] if found else None


def _is_plain(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return bool(name.strip()) and "\0" not in name and ".." not in parts and not name.startswith("/")


def _check_modality(table: pl.DataFrame, path: Path) -> None:
    known = pl.col("modality").str.strip_chars().str.to_lowercase().is_in(MODALITIES)
    bad = table.with_row_index("row").filter(known.not_() | pl.col("modality").is_null())
    if len(bad):
        row = bad.row(0, named=True)
        # the header is line 1
        raise DatasetError(f"{path}: line {row['row'] + 2}: modality '{row['modality']}'; use audio or image")


def _instant(column: pl.Series, path: Path) -> pl.Series:
    """Read times as UTC; a time without a zone counts as UTC, and a bare date as its midnight."""
    if column.dtype == pl.String:
        given = column.str.strip_chars()
        given = given.set(given == "", None)
        text = given.str.replace(" ", "T", literal=True)
        zoned = text.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
        plain = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
        dates = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
        column = zoned.fill_null(plain.fill_null(dates).dt.replace_time_zone("UTC"))
        lost = given.filter(column.is_null() & given.is_not_null())
        if len(lost):
            raise DatasetError(f"{path}: recorded_at '{lost[0]}' is no time; write 2026-05-01T04:30:00Z")
    elif isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is None:
        column = column.dt.replace_time_zone("UTC")
    return column.alias("recorded_at")


def _each(column: pl.Series, function: Callable[[str | None], str | None]) -> pl.Series:
    """Apply a function to the distinct values of a column, of which there are few."""
    values = column.unique()
    return column.replace_strict(values, pl.Series([function(v) for v in values], dtype=pl.String)).alias(column.name)


def _cast(column: pl.Series, dtype: pl.DataType, path: Path) -> pl.Series:
    if column.dtype == pl.String and dtype != pl.String:
        column = column.set(column.str.strip_chars() == "", None)
    try:
        return column.cast(dtype)
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{path}: column '{column.name}': {str(error).splitlines()[0]}") from error
