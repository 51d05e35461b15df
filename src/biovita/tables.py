"""Tables on disk: TSV, CSV and Parquet read with errors that name file and column; Parquet written reproducibly."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from biovita.errors import DatasetError
from biovita.files import atomic_path

ROWS_PER_GROUP = 100_000  # fixed, since the default depends on the number of threads


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file, or a TSV or CSV file as strings (UTF-8, with or without a byte order mark).

    Raises:
        DatasetError: the file is missing, has another suffix, or is no table.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such table")
    separators = {".tsv": "\t", ".txt": "\t", ".csv": ","}
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        if suffix in separators:
            table = pl.read_csv(path, separator=separators[suffix], infer_schema=False, glob=False)
            _check_header(table.columns, path)
            return table
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{path}: not a readable table ({str(error).splitlines()[0]}){_advice(error)}") from error
    raise DatasetError(f"{path}: a table ends in .tsv, .csv or .parquet")


def _check_header(columns: Sequence[str], path: Path) -> None:
    """Refuse text that another program divides in another way."""
    if columns[0].startswith(("\ufffd\ufffd", "\xff\xfe", "\xfe\xff")) or "\0" in columns[0]:
        raise DatasetError(f"{path}: its text is UTF-16; save it as UTF-8")
    if any("\r" in name for name in columns):
        raise DatasetError(f"{path}: its lines end with a bare carriage return; save it with ordinary line ends")
    found = [sign for sign in ";,\t|" if sign in columns[0]]
    if len(columns) == 1 and found:
        raise DatasetError(
            f"{path}: its columns are divided by {found[0]!r}; save it with commas as .csv, or with tabs as .tsv"
        )


def _advice(error: Exception) -> str:
    """Say what to do about what polars met in a text."""
    said = str(error)
    if "utf-8" in said:
        return "; save it as UTF-8"
    if "more fields" in said:
        return "; a row has more fields than the first line: put quotes around a field that holds a separator"
    if "could not parse" in said or "malformed" in said:
        return "; a quote within a field may be the cause: double it"
    return ""


def require_columns(table: pl.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Refuse a table that lacks a column, and name the nearest one that it has."""
    for column in columns:
        if column not in table.columns:
            near = difflib.get_close_matches(column, table.columns, n=1, cutoff=0.5)
            hint = f"is '{near[0]}' meant?" if near else f"it has {', '.join(table.columns)}"
            raise DatasetError(f"{path}: no column '{column}'; {hint}")


def occurs_again(column: pl.Series) -> pl.Series:
    """Mark the values that occur more than once; null never does.

    Texts are compared only where their hashes are equal: hashes are sorted many times faster.
    """
    hashes = column.hash()
    ordered = np.sort(hashes.to_numpy())
    suspect = _among(hashes, ordered[1:][ordered[1:] == ordered[:-1]]) & column.is_not_null()
    marks = suspect.to_numpy(writable=True)
    marks[marks] = column.filter(suspect).is_duplicated().to_numpy()
    return pl.Series(column.name, marks)


def stands_beside_several(column: pl.Series, other: pl.Series) -> pl.Series:
    """Mark the values of a column beside which several values of another stand; null never does.

    As in `occurs_again`, texts are compared only where their hashes make it possible.
    """
    hashes = column.hash()
    order = np.argsort(hashes.to_numpy())
    here, beside = hashes.to_numpy()[order], other.hash().to_numpy()[order]
    differs = (here[1:] == here[:-1]) & (beside[1:] != beside[:-1])
    suspect = _among(hashes, here[1:][differs]) & column.is_not_null()
    pairs = pl.DataFrame({"here": column, "beside": other}).filter(suspect)
    marks = suspect.to_numpy(writable=True)
    marks[marks] = pairs.select(pl.col("beside").n_unique().over("here") > 1).to_series().to_numpy()
    return pl.Series(column.name, marks)


def _among(hashes: pl.Series, few: np.ndarray) -> pl.Series:
    return hashes.is_in(pl.Series(np.unique(few)).implode())


def write_table(path: Path, table: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> None:
    """Write exactly the columns of a schema, atomically; equal rows give equal bytes."""
    with atomic_path(path) as part:
        table.select(pl.col(name).cast(dtype) for name, dtype in schema.items()).write_parquet(
            part, compression="zstd", row_group_size=ROWS_PER_GROUP
        )
