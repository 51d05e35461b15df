"""Answers in the formats that others open: one table for all files, one a recording, or a data package.

`identify.table` makes the rows of our own (CSV, JSON lines, Parquet). The others follow the programs that read them;
docs/identify.md has their columns. All are written in one pass over the results, in memory that does not grow.

Source:
    Raven and BirdNET columns as in BirdNET-Analyzer's development line (August 2026); Audacity's manual on labels.
"""

import csv
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TextIO

import polars as pl

from biovita.embed.parts import readable
from biovita.errors import ConfigError
from biovita.files import atomic_path
from biovita.identify.answer import Named
from biovita.identify.blocks import Identified, Result
from biovita.identify.camtrap import Source, write_camtrap_dp
from biovita.identify.table import (
    COLUMNS,
    DECIMALS,
    SCHEMA,
    absolute,
    named_in,
    path_cell,
    rows_of,
    shown,
    text_cell,
    written,
)
from biovita.log import N_LISTED
from biovita.tables import ROWS_PER_GROUP

Format = Literal["table", "csv", "jsonl", "parquet", "raven", "audacity", "birdnet", "camtrap-dp"]
Add = Callable[[Result], None]

RAVEN: Final = (
    *("Selection", "Begin Time (s)", "End Time (s)", "Common Name", "Scientific Name", "Species Code", "Confidence"),
    *("View", "Channel", "File Offset (s)", "Low Freq (Hz)", "High Freq (Hz)", "Begin Path", "Begin File"),
)
BIRDNET: Final = ("Start (s)", "End (s)", "Scientific name", "Common name", "Confidence", "File")
HIGHEST_HZ: Final = 24_000.0  # half the rate at which the model hears
SUFFIXES: Final = {"raven": ".selections.txt", "audacity": ".labels.txt", "birdnet": ".results.csv"}  # a file's table
TABLES: Final = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet"}  # those that may be one file alone
JOURNAL, RUN, REFUSED = "journal.jsonl", "run.json", "refused.csv"  # beside every output
LONGEST_NAME: Final = 255  # bytes, on most file systems


@dataclass(frozen=True)
class Out:
    """Where a run writes: a folder, or one table with what belongs to it beside it."""

    path: Path

    @property
    def is_table(self) -> bool:
        """Say whether one table is asked for, by its suffix."""
        return self.path.suffix.lower() in TABLES.values()

    def beside(self, name: str) -> Path:
        """Name a file of the run: `OUT/run.json`, or `birds.run.json` beside birds.csv."""
        return self.path.with_name(f"{self.path.stem}.{name}") if self.is_table else self.path / name

    def table(self, format_: str) -> Path:
        """Name a table that is one for all files."""
        return self.path if self.is_table else self.path / f"predictions{TABLES[format_]}"

    def claim(self) -> None:
        """Take a place that is new, or that an earlier run of ours has left.

        Raises:
            ConfigError: something else is there.
        """
        if self.beside(JOURNAL).is_file():
            return
        is_taken = self.path.exists() if self.is_table or not self.path.is_dir() else any(self.path.iterdir())
        if is_taken:
            raise ConfigError(f"{self.path}: exists, and is no output of `biovita identify`; choose another --out")

    def sweep(self) -> None:
        """Remove what a kill has left of tables that were being written."""
        for suffix in (".part", ".rows"):
            own = f".{glob.escape(self.path.stem)}.*{suffix}"
            for stale in self.path.parent.glob(own) if self.is_table else self.path.rglob(f".*{suffix}"):
                stale.unlink()

    def owns(self, path: Path) -> bool:
        """Say whether a file is one of the run's own outputs, which it does not look at."""
        path, own = absolute(path), absolute(self.path)
        parts = [own, *(absolute(self.beside(name)) for name in (JOURNAL, RUN, REFUSED))]
        return path in parts if self.is_table else path.is_relative_to(own)


@dataclass
class Counts:
    """What a run came to.

    Attributes:
        n_files: that were identified.
        n_audio: recordings among these.
        n_named: rows of predictions.
        refused: files that were not identified, as (path, reason, detail); the first few.
        n_refused: how many these are.
    """

    n_files: int = 0
    n_audio: int = 0
    n_named: int = 0
    n_refused: int = 0
    refused: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, result: Result, min_score: float | None) -> None:
        """Count a result."""
        self.n_files += len(result.files)
        self.n_audio += sum(one.modality == "audio" for one in result.files)
        self.n_named += len(rows_of(result, min_score=min_score))
        self.n_refused += len(result.refused)
        room = N_LISTED - len(self.refused)
        self.refused += [(one.path, str(one.reason), one.detail) for one in result.refused[:room]]


def write_outputs(
    found: Callable[[], Iterable[Result]],
    out: Out,
    formats: Sequence[Format],
    source: Source,
    *,
    min_score: float | None,
    combined: bool,
) -> Counts:
    """Write the results of a run in every format that is asked for, and the list of what was refused.

    Args:
        found: gives the results, as often as it is called.
        out: where to.
        formats: which tables.
        source: where the answers come from.
        min_score: with which they were made.
        combined: one Raven, Audacity and BirdNET table for all recordings, not one each.
    """
    out.sweep()
    counts = Counts()
    with ExitStack() as stack:
        adds = [stack.enter_context(_refused(out.beside(REFUSED)))]
        for format_ in formats:
            if format_ == "parquet":
                adds.append(stack.enter_context(_parquet(out.table(format_), min_score, source)))
            elif format_ in TABLES:
                adds.append(stack.enter_context(_table(out.table(format_), format_, min_score)))
            elif format_ in SUFFIXES and combined:
                adds.append(stack.enter_context(_combined(out.beside(f"{format_}{SUFFIXES[format_]}"), format_)))
            elif format_ in SUFFIXES:
                adds.append(_each(out.beside(format_), format_, source.top))
        for result in found():
            counts.add(result, min_score)
            for add in adds:
                add(result)
    if "camtrap-dp" in formats:
        folder = out.beside("camtrap-dp")
        write_camtrap_dp(found(), folder, source, min_score=min_score, acoustic=counts.n_audio > 0)
    return counts


def top_of(files: Sequence[Path]) -> Path:
    """Return the folder that holds all files."""
    return Path(os.path.commonpath([absolute(path).parent for path in files]))


@contextmanager
def table_to(file: TextIO, format_: str, min_score: float | None) -> Iterator[Add]:
    """Write predictions as CSV or JSON lines into an open file."""
    columns = list(COLUMNS)
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    if format_ == "csv":
        writer.writeheader()
    animal = 0

    def add(result: Result) -> None:
        nonlocal animal
        animal += result.together is not None
        for row in rows_of(result, min_score=min_score, animal=animal):
            if format_ == "csv":
                texts = {key: text_cell(value) for key, value in row.items() if isinstance(value, str)}
                writer.writerow({**row, **texts, "path": path_cell(row["path"])})
            else:
                file.write(json.dumps({**row, "path": readable(row["path"])}) + "\n")

    yield add


@contextmanager
def _table(path: Path, format_: str, min_score: float | None) -> Iterator[Add]:
    with written(path) as file, table_to(file, format_, min_score) as add:
        yield add


@contextmanager
def _parquet(path: Path, min_score: float | None, source: Source) -> Iterator[Add]:
    """Write JSON lines beside it first, and turn them into Parquet in a stream."""
    lines = path.with_name(f".{path.name[:200]}.rows")
    try:
        with lines.open("w", encoding="utf-8") as file, table_to(file, "jsonl", min_score) as add:
            yield add
        metadata = {
            "biovita.schema": SCHEMA,
            **{f"biovita.{key}": str(value or "") for key, value in source.facts.items()},
        }
        with atomic_path(path) as part:
            pattern = glob.escape(str(lines))  # polars takes no other
            table = pl.scan_ndjson(pattern, schema=COLUMNS) if lines.stat().st_size else pl.LazyFrame(schema=COLUMNS)
            table.sink_parquet(part, compression="zstd", row_group_size=ROWS_PER_GROUP, metadata=metadata)
    finally:
        lines.unlink(missing_ok=True)


@contextmanager
def _refused(path: Path) -> Iterator[Add]:
    with written(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "reason", "detail"))

        def add(result: Result) -> None:
            for one in result.refused:
                writer.writerow((path_cell(one.path), one.reason, text_cell(readable(one.detail))))

        yield add


class _Sheet:
    """One table for Raven, Audacity or BirdNET, of one recording or of several in a row."""

    def __init__(self, file: TextIO, format_: str) -> None:
        self.format = format_
        self.n_rows = 0
        self.begin_s = 0.0  # of the next recording, on the clock that runs through all of them
        quoting = csv.QUOTE_MINIMAL if format_ == "birdnet" else csv.QUOTE_NONE
        delimiter = "," if format_ == "birdnet" else "\t"
        quotechar = '"' if format_ == "birdnet" else None
        self.writer = csv.writer(file, delimiter=delimiter, quoting=quoting, quotechar=quotechar, lineterminator="\n")
        if format_ != "audacity":
            self.writer.writerow(RAVEN if format_ == "raven" else BIRDNET)

    def add(self, file: Identified) -> None:
        """Add the detections of the next recording."""
        if file.modality != "audio":
            return
        for start_s, end_s, named in named_in(file, None, None):
            assert start_s is not None
            assert end_s is not None
            self.n_rows += 1
            self.writer.writerow(self._row(file, start_s, end_s, named))
        self.begin_s += file.duration_s or 0.0

    def _row(self, file: Identified, start_s: float, end_s: float, named: Named) -> Sequence[object]:
        common, name = text_cell(named.common_name or named.name), text_cell(named.name)
        worth = round(named.score if named.prob is None else named.prob, 4)
        if self.format == "birdnet":
            return start_s, end_s, name, common, worth, path_cell(file.path)
        begins = round(self.begin_s + start_s, DECIMALS), round(self.begin_s + end_s, DECIMALS)
        if self.format == "audacity":
            return *begins, shown(f"{name} {worth:.2f}")
        path = shown(path_cell(file.path))
        highest_hz = min(HIGHEST_HZ, ((file.verdict and file.verdict.sample_rate_hz) or 2 * HIGHEST_HZ) / 2)
        names = shown(common), shown(name), "", worth
        return (
            self.n_rows,
            *begins,
            *names,
            "Spectrogram 1",
            1,
            start_s,
            0.0,
            highest_hz,
            path,
            shown(path_cell(Path(file.path).name)),
        )


@contextmanager
def _combined(path: Path, format_: str) -> Iterator[Add]:
    with written(path) as file:
        sheet = _Sheet(file, format_)

        def add(result: Result) -> None:
            for one in result.files:
                sheet.add(one)

        yield add


def _each(folder: Path, format_: str, top: Path) -> Add:
    """Write a table for every recording, in folders like theirs."""

    def add(result: Result) -> None:
        for one in result.files:
            if one.modality == "audio":
                inside = absolute(Path(one.path)).relative_to(top)
                with written(folder / inside.parent / _table_name(inside.name, SUFFIXES[format_])) as file:
                    _Sheet(file, format_).add(one)

    return add


def _table_name(name: str, suffix: str) -> str:
    """Name the table of a recording: its name with a suffix or, where that is too long, its beginning and a hash."""
    raw = os.fsencode(name)
    if len(raw) + len(suffix) <= LONGEST_NAME:
        return name + suffix
    short = os.fsdecode(raw[: LONGEST_NAME - len(suffix) - 13])
    return f"{short}-{hashlib.sha256(raw).hexdigest()[:12]}{suffix}"
