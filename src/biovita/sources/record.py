"""A record: one row of metadata about one sound or picture, before its file is fetched or looked at.

Every source returns a `Reading`: a table with exactly the columns of RECORDS_SCHEMA, and counts of what it met.
A source never invents: what a dump does not say is null. Its licence is the medium's, never the occurrence's.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from biovita.errors import DatasetError
from biovita.tables import occurs_again
from biovita.taxonomy.rank import RANKS

MODALITIES = ("audio", "image")

RECORD_SCHEMA: dict[str, pl.DataType] = {
    "media_id": pl.String(),  # source:source_id, unique
    "modality": pl.String(),
    "source": pl.String(),
    "url": pl.String(),
    "page_url": pl.String(),
    "scientific_name": pl.String(),  # as the source gives it
    "licence": pl.String(),  # SPDX id or "unknown"
    "rights_holder": pl.String(),
    "recorded_at": pl.Datetime("us", "UTC"),
    "latitude_deg": pl.Float64(),
    "longitude_deg": pl.Float64(),
    "quality": pl.String(),
    "individual": pl.String(),  # observation id: a photo and a sound of one animal share it
    "remarks": pl.String(),
}

HINT_SCHEMA: dict[str, pl.DataType] = {  # what else the source says, to tell things apart; not kept
    "given_individual": pl.String(),  # another id of the same observation, as another source spells it
    "given_common_name": pl.String(),
    **{f"given_{rank}": pl.String() for rank in RANKS[:-1]},
}

FILE_SCHEMA: dict[str, pl.DataType] = {  # where the bytes are, if they are on this machine already
    "given_path": pl.String(),
    "file": pl.String(),  # absolute; null where the given path would leave the source's folder, or there is only a URL
}

RECORDS_SCHEMA = RECORD_SCHEMA | HINT_SCHEMA | FILE_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a source gave.

    Attributes:
        records: one row a medium, with the columns of RECORDS_SCHEMA.
        counts: what was met besides, by a plain word (`observations without media`, `repaired names`).
    """

    records: pl.DataFrame
    counts: Counter[str] = field(default_factory=Counter)


def as_records(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Bring a table to RECORDS_SCHEMA: absent columns become null, others go, empty text becomes null.

    Args:
        table: has at least media_id, modality, source, scientific_name and licence.
        path: what it was read from, for errors.

    Raises:
        DatasetError: a needed column is absent, a value has the wrong type, or an id occurs twice.
    """
    needed = ("media_id", "modality", "source", "scientific_name", "licence")
    if absent := [name for name in needed if name not in table.columns]:
        raise DatasetError(f"{path}: records need the column(s) {', '.join(absent)}")
    given = {name: dtype for name, dtype in RECORDS_SCHEMA.items() if name in table.columns}
    columns = {name: pl.col(name) for name in given}
    for name in given:
        if table.schema[name] == pl.String:
            columns[name] = pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name)).alias(name)
    try:
        records = table.select(column.cast(given[name]) for name, column in columns.items())
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{path}: {str(error).splitlines()[0]}") from error
    empty = [pl.lit(None, dtype).alias(name) for name, dtype in RECORDS_SCHEMA.items() if name not in given]
    records = records.with_columns(empty).select(*RECORDS_SCHEMA)
    ids = records["media_id"]
    twice = ids.filter(occurs_again(ids))
    if len(twice):
        raise DatasetError(f"{path}: media_id '{twice[0]}' stands in {(ids == twice[0]).sum()} rows; make it unique")
    return records


def instants(column: pl.Series, path: Path) -> pl.Series:
    """Read times as UTC; a time without a zone counts as UTC, and a bare date as its midnight."""
    if column.dtype == pl.String:
        stripped = pl.col("given").str.strip_chars()
        rows = column.alias("given").to_frame().lazy().select(pl.when(stripped != "").then(stripped).alias("given"))
        rows = rows.with_columns(pl.col("given").str.replace(" ", "T", literal=True).alias("text"))
        time = pl.col("text").str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
        given, text, column = rows.with_columns(time.alias("time")).collect(engine="streaming")  # on all cores
        if column.null_count() > given.null_count():
            whole = text.str.replace(r"T(\d\d:\d\d)(Z|[+-]\d\d:\d\d)?$", "T$1:00$2")  # perhaps it has no seconds
            column = column.fill_null(whole.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False))
            plain = whole.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
            dates = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
            column = column.fill_null(plain.fill_null(dates).dt.replace_time_zone("UTC"))
        lost = given.filter(column.is_null() & given.is_not_null())
        if len(lost):
            raise DatasetError(f"{path}: recorded_at '{lost[0]}' is no time; write 2026-05-01T04:30:00Z")
    elif isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is None:
        column = column.dt.replace_time_zone("UTC")
    return column.alias("recorded_at")


def each(column: pl.Series, function: Callable[[str | None], str | None]) -> pl.Series:
    """Apply a function to the distinct values of a column, of which there are few."""
    values = column.unique()
    return column.replace_strict(values, pl.Series([function(v) for v in values], dtype=pl.String)).alias(column.name)
