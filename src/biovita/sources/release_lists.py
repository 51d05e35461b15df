"""The lists of the official release: their columns under our names, and the file that each row means.

The source reads them into records, the benchmark into items; neither trusts a name that no file has.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from biovita.errors import DatasetError
from biovita.tables import read_table

ALIASES: Final[dict[str, tuple[str, ...]]] = {  # the names a column goes by; those of image_urls.csv are not known
    "url": ("download_url", "url", "image_url", "source_url", "photo_url", "identifier"),
    "scientific_name": ("scientific_name", "species", "scientificname"),
    "accepted_name": ("accepted_name",),
    "file_name": ("file_name",),
    "source": ("source",),
    "recording_id": ("recording_id",),
    "uuid": ("uuid", "treeoflife_id"),
    "common_name": ("com", "common_name", "com_canon"),
    "licence": ("licence", "license"),
    "rights_holder": ("rights_holder", "recordist", "author"),
    **{rank: (rank,) for rank in ("class", "order", "family", "genus")},
}
_ARCHIVE_ID = r"(?i)(?:^|/)(?:xc|inat|asa)_(\d+)\.[^./]*$"


def read_list(path: Path, one_of: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Read a list with its columns under our names; of each group of columns one must be there."""
    table = read_table(path)
    given = {name.strip().lower(): name for name in reversed(table.columns)}
    found = {proper: next((given[a] for a in names if a in given), None) for proper, names in ALIASES.items()}
    if found["url"] is None:
        found["url"] = next((name for lower, name in given.items() if "url" in lower), None)
    for group in one_of:
        if not any(found[proper] for proper in group):
            spellings = " or ".join(f"'{name}'" for proper in group for name in ALIASES[proper])
            raise DatasetError(f"{path}: no column {spellings}; it has {', '.join(table.columns)}")
    return with_all_columns(table.select(pl.col(name).alias(proper) for proper, name in found.items() if name))


def read_metadata(path: Path, media: Collection[str]) -> pl.DataFrame:
    """Read a list of recordings and find the file of each row among those that are there."""
    return find_files(read_list(path, (("scientific_name", "accepted_name"), ("url", "file_name"))), media)


def with_all_columns(table: pl.DataFrame) -> pl.DataFrame:
    """Add the columns that a list lacks and the number of each row; empty text and pandas' nan become null."""
    text = {
        name: pl.col(name).cast(pl.String).str.strip_chars() if name in table.columns else pl.lit(None, pl.String)
        for name in (*ALIASES, "path")
    }
    return table.select(
        pl.int_range(pl.len()).alias("row"),
        *(
            pl.when(~value.str.to_lowercase().is_in(["", "nan"])).then(value).alias(name)
            for name, value in text.items()
        ),
    ).with_columns(
        pl.col("recording_id").str.strip_suffix(".0"),  # pandas writes ids beside gaps as floats
        pl.col("source").str.to_lowercase(),
    )


def find_files(table: pl.DataFrame, media: Collection[str]) -> pl.DataFrame:
    """Find the file of each row, and say what became of the row.

    The downloader writes the path that it was told to write to, so a file is also found in the folder by its name
    alone, and a row without a name by the downloader's rule: archive, underscore, id (or number of the row).
    """
    there = pl.Series(sorted(media), dtype=pl.String)
    names, stems = _only_ones(there, r"([^/]+)$"), _only_ones(there, r"^audio/([^/]+)\.[^./]*$")
    exact = pl.when(pl.col("file_name").is_in(there.implode())).then("file_name")
    base = pl.col("file_name").str.extract(r"([^/\\]+)$", 1)
    stem = pl.concat_str("source", pl.coalesce("recording_id", pl.col("row").cast(pl.String)), separator="_")
    moved = (
        pl.when(pl.col("file_name").is_null())
        .then(stem.replace_strict(stems, default=None, return_dtype=pl.String))
        .otherwise(base.replace_strict(names, default=None, return_dtype=pl.String))
    )
    state = (
        pl.when(exact.is_not_null())
        .then(pl.lit("matched"))
        .when(moved.is_not_null())
        .then(pl.lit("renamed"))
        .when(pl.col("file_name").is_not_null())
        .then(pl.lit("missing"))
        .when(pl.col("url").is_not_null())
        .then(pl.lit("to fetch"))
        .otherwise(pl.lit("broken"))
    )
    return table.with_columns(path=pl.coalesce(exact, moved), state=state)


def repair_index(index: pl.DataFrame, metadata: pl.DataFrame, files: Collection[str]) -> pl.DataFrame:
    """Find the file of each row of an audio index; its own names are not those of the files.

    Index and metadata are two views of one table: within a species, the k-th row of one is the k-th of the other. This
    is taken only where it is not contradicted: in a species where a name or an archive id that can be checked
    disagrees, no row is renamed, and no file is given to two rows.

    Args:
        index: `file_path` and `species` at least, in the order of the file.
        metadata: `scientific_name` and `file_name`, perhaps `recording_id`, in the order of the file.
        files: what is there, named from the same folder as `file_path` and `file_name`.

    Returns:
        The index with `file_path` as repaired (null where there is none), `given_file_path`, `state` (`matched`,
        `renamed`, `missing` or `broken`) and `is_checked`: a renamed row whose archive id agrees.

    Source:
        The rule and its check on 994 of 1,024 rows: mteb, pull request #5153.
    """
    there = pl.Series(sorted(files), dtype=pl.String)
    listed = metadata.select(
        pl.col("scientific_name").alias("species"),
        pl.col("file_name").alias("listed"),
        (pl.col("recording_id") if "recording_id" in metadata.columns else pl.lit(None, pl.String)).alias("listed_id"),
        pl.int_range(pl.len()).over("scientific_name").alias("k"),
    )
    table = index.with_columns(
        given_file_path="file_path",
        k=pl.int_range(pl.len()).over("species"),
        exists=pl.col("file_path").is_in(there.implode()).fill_null(False),
        archive_id=pl.col("file_path").str.extract(_ARCHIVE_ID, 1),
    ).join(listed, on=["species", "k"], how="left", maintain_order="left")
    ids = pl.col("listed").str.extract_all(r"\d+").list.contains(pl.col("archive_id"))
    agrees = (
        pl.when("exists")
        .then(pl.col("file_path") == pl.col("listed"))
        .when(pl.col("archive_id").is_not_null() & pl.col("listed").is_not_null())
        .then(ids.fill_null(False) | (pl.col("archive_id") == pl.col("listed_id")).fill_null(False))
    )
    table = table.with_columns(agrees=agrees)
    given_away = table.filter("exists")["file_path"]
    unsure = (
        (pl.col("file_path").fill_null("") == "")
        | pl.col("listed").is_null()
        | (~pl.col("agrees")).any().over("species")
        | pl.col("listed").is_in(given_away.implode())
        | ((pl.int_range(pl.len()).over("listed") > 0) & pl.col("listed").is_not_null())
    )
    state = (
        pl.when("exists")
        .then(pl.lit("matched"))
        .when(unsure)
        .then(pl.lit("broken"))
        .when(pl.col("listed").is_in(there.implode()))
        .then(pl.lit("renamed"))
        .otherwise(pl.lit("missing"))
    )
    table = table.with_columns(state=state).with_columns(
        file_path=pl.when(pl.col("state") == "renamed")
        .then("listed")
        .when(pl.col("state") == "matched")
        .then("file_path"),
        is_checked=(pl.col("state") == "renamed") & pl.col("agrees").fill_null(False),
    )
    return table.select(*index.columns, "given_file_path", "state", "is_checked")


def _only_ones(paths: pl.Series, pattern: str) -> dict[str, str]:
    """Map what a pattern finds in paths to the path, where one path alone has it."""
    table = pl.DataFrame({"key": paths.str.extract(pattern, 1), "path": paths}).drop_nulls()
    return dict(table.filter(~pl.col("key").is_duplicated()).iter_rows())
