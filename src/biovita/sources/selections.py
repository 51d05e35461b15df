"""Selection tables: which species was marked where in recordings, as Raven and BirdNET write it.

Raven's are tab-separated, BirdNET's CSV; columns are found by name. A record labels a whole recording, so a recording
becomes a record if all its selections name one species, with their times in the remarks. One in which several species
were marked is left out and counted, since no single label is true of it. `nocall` is no species: such rows are dropped
and counted. Tables without scientific names (BirdNET's Raven tables) give the common name as a hint only.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import polars as pl

from biovita.errors import DatasetError
from biovita.sources.record import Reading, each
from biovita.sources.tree import MODALITY_OF_SUFFIX, known_licence, own_records, suffix_of, walk_files
from biovita.taxonomy.taxon import normal_name

SELECTION_COLUMNS: Final[dict[str, tuple[str, ...]]] = {  # the names a column goes by, the better first
    "begin_s": ("begin time (s)", "start (s)", "start"),
    "end_s": ("end time (s)", "end (s)", "end"),
    "offset_s": ("file offset (s)",),
    "scientific_name": ("scientific name", "scientific_name", "species", "annotation"),
    "common_name": ("common name", "common_name"),
    "recording": ("begin path", "filepath", "file", "begin file"),
    "confidence": ("confidence",),
}
NO_CALL: Final = "nocall"
_QUOTED = re.compile('^"(.*)"$')  # as R writes every text
_TABLE_ENDING = re.compile(r"\.((Table\.\d+|BirdNET|selections?|results)\b.*|\w+)$", re.IGNORECASE)


def read_selections(path: Path, *, licence: str | None) -> Reading:
    """Read selection tables and label the recordings that lie with them.

    Args:
        path: a table, whose recordings lie beside or below it, or a folder with tables and recordings.
        licence: of every recording.

    Raises:
        DatasetError: no selection table, or no known licence.
    """
    path = Path(path)
    known = known_licence(licence, path)
    folder = path if path.is_dir() else path.parent
    files, counts = walk_files(folder)
    names = [name for name in files if selection_columns(folder / name)] if path.is_dir() else [path.name]
    tables = [_read_selection_table(folder, name) for name in names]
    if not tables:
        raise DatasetError(f"{path}: no selection table in it (with columns like 'Begin Time (s)' and 'Species')")
    recordings = _Recordings(name for name in files if MODALITY_OF_SUFFIX.get(suffix_of(name)) == "audio")
    counts["files that are neither recordings nor tables"] = len(files) - len(recordings.names) - len(tables)
    table = pl.concat(tables)
    counts["selections"] = len(table)
    label = pl.coalesce("scientific_name", "common_name")
    nocall = pl.any_horizontal(pl.col("scientific_name", "common_name").str.to_lowercase() == NO_CALL).fill_null(False)
    given = table.select("table", "recording").unique()
    found = given.with_columns(
        pl.Series("given_path", [recordings.find(*row) for row in given.iter_rows()], pl.String())
    )
    table = table.join(found, on=["table", "recording"], how="left", nulls_equal=True)
    for word, condition in (
        (f"{NO_CALL} selections", nocall),
        ("selections without a species", label.is_null()),
        ("selections of recordings that are not here", pl.col("given_path").is_null()),
        ("selections that occur again", ~pl.struct("given_path", label, "begin_s", "end_s").is_first_distinct()),
    ):
        kept = table.filter(~condition)
        counts[word] = len(table) - len(kept)
        table = kept
    mixed = table.group_by("given_path").agg(label.n_unique().alias("n")).filter(pl.col("n") > 1)
    counts["recordings with several species"] = len(mixed)
    kept = table.join(mixed, on="given_path", how="anti", maintain_order="left")
    counts["selections in recordings with several species"] = len(table) - len(kept)
    rows = [
        (
            name,
            "audio",
            group["scientific_name"][0],
            group["common_name"].drop_nulls().first(),
            _selection_remarks(group),
        )
        for (name,), group in kept.sort("given_path", "begin_s").group_by("given_path", maintain_order=True)
    ]
    columns = ("given_path", "modality", "scientific_name", "given_common_name", "remarks")
    records = own_records(pl.DataFrame(rows, dict.fromkeys(columns, pl.String), orient="row"), folder, known)
    counts["recordings without a scientific name"] = records["scientific_name"].null_count()
    counts["recordings without a usable selection"] = len(recordings.names) - len(rows) - len(mixed)
    counts["records"] = len(records)
    return Reading(records=records, counts=+counts)


class _Recordings:
    """The recordings of a folder, found by what a table made elsewhere calls them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self._of_base: defaultdict[str, list[str]] = defaultdict(list)  # also by the base name without its suffix
        for name in sorted(self.names):
            base = name.rsplit("/", 1)[-1]
            self._of_base[base].append(name)
            self._of_base[os.path.splitext(base)[0]].append(name)  # noqa: PTH122 - a name may be anything

    def find(self, table: str, given: str | None) -> str | None:
        """Find a recording by its path from the table, its name beside the table, or its name if that is the only one.

        A table that names no recording is called after it (`a.BirdNET.selection.table.txt` belongs to `a.wav`).
        """
        home = table.rpartition("/")[0]
        name = (given or "").replace("\\", "/")
        base = name.rsplit("/", 1)[-1] or _TABLE_ENDING.sub("", table.rsplit("/", 1)[-1])
        for path in (name, base):
            inside = os.path.normpath(f"{home}/{path}" if home else path)
            if inside in self.names:
                return inside
        same_name = self._of_base[base]
        beside = [name for name in same_name if name.rpartition("/")[0] == home]
        choice = beside or same_name
        return choice[0] if len(choice) == 1 else None


def selection_columns(path: Path) -> dict[str, str]:
    """Find the columns of a selection table by name; nothing where the file is none (or no text at all)."""
    return _layout(path)[1]


def _layout(path: Path) -> tuple[str, dict[str, str]]:
    """Find out what divides the columns of a selection table, and which are which.

    In a CSV these are commas, or semicolons, as spreadsheets of many countries write them.
    """
    if path.suffix.lower() not in (".txt", ".tsv", ".csv"):
        return "", {}
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            header = lines.readline(1 << 16).strip("\r\n")
    except OSError:
        return "", {}
    separator = "\t"
    if path.suffix.lower() == ".csv":
        header = header.replace('"', "")
        separator = ";" if ";" in header and "," not in header else ","
    names = {name.strip(' "').lower(): name for name in header.split(separator)}
    columns = {
        proper: next(names[alias] for alias in aliases if alias in names)
        for proper, aliases in SELECTION_COLUMNS.items()
        if any(alias in names for alias in aliases)
    }
    has_species = "scientific_name" in columns or "common_name" in columns
    is_manifest = "modality" in names  # a table of files, which may say where in them something is
    is_one = has_species and {"begin_s", "end_s"} <= set(columns) and not is_manifest
    return separator, columns if is_one else {}


def _read_selection_table(folder: Path, name: str) -> pl.DataFrame:
    """Read one selection table: what was marked where, times in seconds of the recording itself."""
    separator, columns = _layout(folder / name)
    if not columns:
        raise DatasetError(
            f"{folder / name}: no selection table; it needs columns like 'Begin Time (s)', 'End Time (s)'"
        )
    try:
        table = pl.read_csv(
            folder / name,
            separator=separator,
            quote_char=None if separator == "\t" else '"',  # Raven quotes nothing
            infer_schema=False,
            encoding="utf8-lossy",
            truncate_ragged_lines=True,
            glob=False,
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{folder / name}: not a readable table ({str(error).splitlines()[0]})") from error
    texts = [_text_column(table, columns.get(key), key) for key in ("scientific_name", "common_name", "recording")]
    numbers = [
        _text_column(table, columns.get(key), key).cast(pl.Float64, strict=False)
        for key in ("begin_s", "end_s", "offset_s", "confidence")
    ]
    begin = pl.coalesce("offset_s", "begin_s")  # Raven counts through all files that were opened together
    return pl.DataFrame([*texts, *numbers]).select(
        pl.lit(name).alias("table"),
        "recording",
        "scientific_name",
        "common_name",
        begin_s=begin,
        end_s=begin + (pl.col("end_s") - pl.col("begin_s")),
        confidence="confidence",
    )


def _text_column(table: pl.DataFrame, name: str | None, proper: str) -> pl.Series:
    if name is None:
        return pl.Series(proper, [None] * len(table), pl.String())
    return each(table[name], lambda text: _QUOTED.sub(r"\1", normal_name(text)) or None).alias(proper)


def _selection_remarks(selections: pl.DataFrame) -> str:
    """Write the marked times, merged where they touch, and the best confidence."""
    spans: list[list[float]] = []
    for begin, end in selections.select("begin_s", "end_s").drop_nulls().sort("begin_s", "end_s").iter_rows():
        if spans and begin <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])
    times = ", ".join(f"{_seconds(begin)}-{_seconds(end)}" for begin, end in spans)
    best = selections["confidence"].max()
    parts = [f"selections s: {times}"] * bool(spans) + [f"best confidence: {best}"] * (best is not None)
    return "; ".join(parts)


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
