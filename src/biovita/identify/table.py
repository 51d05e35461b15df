r"""The rows of a table of answers, and how texts and paths are written into it.

`biovita.predictions.v1` is an interface: columns are neither renamed nor moved, and a change of their meaning is a new
version.

A spreadsheet takes a text that begins with `=`, `+`, `-` or `@` for a formula. A path that begins so gets `./` before
it, with which it still names the file; any other text gets a quote. Bytes of a name that are not UTF-8 are written as
`\xff`; in tables that know no quoting, so are tabs and line breaks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import polars as pl

from biovita.data.card import FORMULA_STARTS
from biovita.embed.parts import readable
from biovita.files import atomic_path
from biovita.identify.answer import Answer, Named
from biovita.identify.blocks import Identified, Result
from biovita.identify.windows import names_of
from biovita.taxonomy.rank import RANKS

SCHEMA: Final = "biovita.predictions.v1"
COLUMNS: Final = {
    "path": pl.String(),
    "modality": pl.String(),
    "animal": pl.Int64(),
    "start_s": pl.Float64(),
    "end_s": pl.Float64(),
    "rank": pl.String(),
    "name": pl.String(),
    "common_name": pl.String(),
    **dict.fromkeys(RANKS, pl.String()),
    "score": pl.Float64(),
    "prob": pl.Float64(),
    "expected": pl.Boolean(),
    "recorded_at": pl.String(),
    "latitude_deg": pl.Float64(),
    "longitude_deg": pl.Float64(),
    "schema": pl.String(),
}
DECIMALS: Final = 6


def rows_of(result: Result, *, min_score: float | None, animal: int = 0) -> list[dict[str, Any]]:
    """Make the rows of `biovita.predictions.v1`: detections of a recording, or the names of a picture.

    Args:
        result: a file, or the files of one animal: then each has the names of the animal, without times.
        min_score: with which the answers were made.
        animal: number of an animal that several files show.
    """
    rows = []
    for file in result.files:
        for start_s, end_s, named in named_in(file, result.together, min_score):
            at = file.header.recorded_at
            rows.append(
                {
                    "path": file.path,
                    "modality": file.modality,
                    "animal": animal if result.together else None,
                    "start_s": start_s,
                    "end_s": end_s,
                    "rank": named.rank,
                    "name": named.name,
                    "common_name": named.common_name or None,
                    **{rank: named.lineage.get(rank) for rank in RANKS},
                    "score": round(named.score, DECIMALS),
                    "prob": None if named.prob is None else round(named.prob, DECIMALS),
                    "expected": named.expected,
                    "recorded_at": at and (at + timedelta(seconds=start_s or 0)).isoformat(timespec="milliseconds"),
                    "latitude_deg": file.header.latitude_deg,
                    "longitude_deg": file.header.longitude_deg,
                    "schema": SCHEMA,
                }
            )
    return rows


def named_in(
    file: Identified, together: Answer | None, min_score: float | None
) -> list[tuple[float | None, float | None, Named]]:
    """List what a file shows, from when to when."""
    if together is None and file.modality == "audio":
        return [(round(one.start_s, DECIMALS), round(one.end_s, DECIMALS), one.named) for one in file.detections]
    return [(None, None, named) for named in names_of(together or file.whole, min_score=min_score)]


def shown(path: str) -> str:
    """Write a path on one line that any terminal and any table can take."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable(path))


def path_cell(path: str) -> str:
    """Write a path so that no spreadsheet takes it for a formula, and it still names the file."""
    return f"./{readable(path)}" if path.startswith(FORMULA_STARTS) else readable(path)


def text_cell(text: str) -> str:
    """Write a text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def absolute(path: Path) -> Path:
    """Write a path from the root on, without `..`; links stay as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file that appears, whole, when all of it is written."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file
