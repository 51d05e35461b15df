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
from biovita.sources.tree import SOURCE, known_licence, read_tree, walk_files
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

_TWICE = re.compile(r"_duplicated_\d+$")  # what polars adds to a name that stands twice in a header
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
    records = read_manifest_table(path, licence=licence)
    return Reading(records=records, counts=Counter(records=len(records)))


def read_manifest_table(path: Path, *, licence: str | None = None) -> pl.DataFrame:
    """Read a table of local files as records with the columns of RECORDS_SCHEMA.

    Args:
        path: TSV, CSV or Parquet.
        licence: of the files, if the table has no column for it.

    Raises:
        DatasetError: no such table or column, a modality that is neither audio nor image, an id that occurs twice.
    """
    path = Path(path)
    table = _own_columns(read_table(path), path)
    if "url" in table.columns and "path" not in table.columns:  # a list of files to fetch
        table = table.with_columns(pl.lit(None, pl.String()).alias("path"))
    if "common_name" in table.columns and "scientific_name" not in table.columns:
        raise DatasetError(f"{path}: no column 'scientific_name'; a common name alone names no species for certain")
    require_columns(table, REQUIRED, path)
    table = table.with_columns(
        _filled(name) for name in table.columns if name != "media_id" and table.schema[name] == pl.String
    )
    is_blank = table.select(pl.all_horizontal(pl.all().is_null())).to_series()
    _check_modality(table["modality"], is_blank, path)
    table = table.filter(~is_blank)
    if licence and "licence" not in table.columns:
        table = table.with_columns(pl.lit(known_licence(licence, path)).alias("licence"))
    names = table["path"].cast(pl.String).fill_null("")
    _check_lines(table, path)
    root = path.resolve().parent
    table = table.with_columns(local_files(_with_slashes(names, root), root).alias("file"), names.alias("path"))
    for name, dtype in RECORD_SCHEMA.items():
        if name not in table.columns:
            table = table.with_columns(pl.lit(None, dtype).alias(name))
    if "common_name" not in table.columns:
        table = table.with_columns(pl.lit(None, pl.String()).alias("common_name"))
    grade = pl.col("quality").cast(pl.String).str.strip_chars().str.to_uppercase()
    records = table.with_columns(
        pl.col("modality").str.strip_chars().str.to_lowercase(),
        pl.col("source").fill_null(SOURCE),
        pl.when(grade.is_in(["A", "B", "C", "D", "E"])).then(grade).otherwise("quality").alias("quality"),
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
    records = records.with_columns(pl.col("latitude_deg", "longitude_deg").fill_nan(None))
    _check_degrees(records, path)
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


def _own_columns(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Give the columns their proper names; one that has it already wins over one that is only an alias for it."""
    found: dict[str, list[str]] = {}
    for name in table.columns:
        plain = _TWICE.sub("", name).strip().lower()
        found.setdefault(ALIASES.get(plain, plain), []).append(name)
    columns = []
    for proper, names in found.items():
        best = [name for name in names if _TWICE.sub("", name).strip().lower() == proper] or names
        if len(best) > 1 and proper in (*RECORDS_SCHEMA, "path", "common_name"):
            said = " and ".join(f"'{_TWICE.sub('', name)}'" for name in best)
            raise DatasetError(f"{path}: the columns {said} mean '{proper}'; leave one")
        columns.append(pl.col(best[0]).alias(proper))
    return table.select(columns)


def _filled(name: str) -> pl.Expr:
    """Read blank text as null, and so NA, which R writes for it."""
    return pl.when(~pl.col(name).str.strip_chars().is_in(["", "NA"])).then(name).alias(name)


def _with_slashes(names: pl.Series, root: Path) -> pl.Series:
    r"""Write `sub\a.wav`, as Windows does, with slashes, unless a file is really called so."""
    windows = names.filter(names.str.contains("\\", literal=True))
    other = {name: name.replace("\\", "/") for name in windows if not os.path.lexists(f"{root}/{name}")}
    return names.replace(other)


def _check_modality(modality: pl.Series, is_blank: pl.Series, path: Path) -> None:
    text = modality.cast(pl.String)
    is_known = text.str.strip_chars().str.to_lowercase().is_in(MODALITIES).fill_null(value=False)
    bad = (~is_known & ~is_blank).arg_true()
    if len(bad):
        # the header is line 1
        raise DatasetError(f"{path}: line {bad[0] + 2}: modality '{text[bad[0]] or ''}'; use audio or image")


def _check_lines(table: pl.DataFrame, path: Path) -> None:
    """Refuse a tab-separated table in which a lone quote has taken the next lines into its field."""
    if path.suffix.lower() not in (".tsv", ".txt"):
        return
    taken = table.filter(pl.any_horizontal(pl.col(pl.String).str.contains(r"\n[^\n]*\t")))
    if len(taken):
        raise DatasetError(
            f"{path}: in the row of '{taken['path'][0] or ''}' a quote opens and takes in the lines below; double it"
        )


def _check_degrees(records: pl.DataFrame, path: Path) -> None:
    for name, limit in (("latitude_deg", 90), ("longitude_deg", 180)):
        beyond = records.filter(pl.col(name).abs() > limit)
        if len(beyond):
            raise DatasetError(
                f"{path}: '{beyond['media_id'][0]}': {name} {beyond[name][0]:g} is beyond {limit} degrees"
            )


def _cast(column: pl.Series, dtype: pl.DataType, path: Path) -> pl.Series:
    if column.dtype == pl.String and dtype != pl.String:
        column = column.set(column.str.strip_chars() == "", None)
    try:
        return column.cast(dtype)
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{path}: column '{column.name}': {str(error).splitlines()[0]}") from error
