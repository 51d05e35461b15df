"""Delimited text of any size, read in blocks of whole rows, in memory that does not grow with the file.

Where a row ends and how many fields it has is settled here, on the bytes, so that a row with too few or too many
fields is left out and counted instead of shifting its neighbours; polars then parses blocks that are regular. A file
whose quotes do not follow the rules (a lone inch mark, say) goes on through Python's csv reader: slow, but forgiving.
"""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

import numpy as np
import polars as pl

from biovita.errors import DatasetError

BLOCK_BYTES: Final = 16 << 20
MAX_ROW_BYTES: Final = 32 << 20  # no honest row is longer; a file without line ends would fill the memory
RAGGED: Final = "rows with another number of fields"
UNDECODABLE: Final = "characters that could not be decoded"

_ROWS_PER_BATCH = 20_000  # of the csv reader
_NEWLINE = ord("\n")


class Stream(Protocol):
    """Bytes to read: a file, a member of a zip file, an unpacked stream."""

    def read(self, size: int = -1, /) -> bytes:
        """Read so many bytes at most; none at the end."""
        ...

    def readline(self, size: int = -1, /) -> bytes:
        """Read to the end of a line."""
        ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a text file is divided.

    Attributes:
        quote: the character around fields, or empty where a quote is a character like any other.
        newline: what ends a row; with a line feed, a carriage return before it is dropped.
        header_lines: rows to skip at the start.
    """

    separator: str = "\t"
    quote: str = ""
    newline: str = "\n"
    encoding: str = "utf-8"
    header_lines: int = 0


def read_header(stream: Stream, name: str) -> list[str]:
    """Read the first line of a tab-separated file as column names; the stream then stands at the first row."""
    line = stream.readline(MAX_ROW_BYTES)
    if not line.endswith(b"\n"):
        raise DatasetError(f"{name}: no line of column names at its start; is it whole, and the right file?")
    return line.decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")


def iter_tables(
    stream: Stream, layout: Layout, columns: Mapping[str, int], name: str, counts: Counter[str]
) -> Iterator[pl.DataFrame]:
    """Yield the wanted columns as strings, a block of rows at a time; an empty field is null, a blank row is none.

    Args:
        stream: bytes, from the start of a row.
        layout: how the file is divided.
        columns: column name to the index of its field.
        name: what is read, for errors.
        counts: gets the rows that were left out and the characters that could not be decoded.

    Raises:
        DatasetError: a layout that is not understood, rows without the wanted fields, an endless row or quote.
    """
    _check(layout, name)
    needed = max(columns.values()) + 1
    n_fields, to_skip = 0, layout.header_lines
    for rows in _iter_rows(_decode(stream, layout, counts), layout, name):
        skipped = min(to_skip, len(rows.ends))
        to_skip -= skipped
        rows = rows.without(skipped)
        if not len(rows.ends):
            continue
        if not n_fields:
            wide = rows.n_fields[rows.n_fields >= needed]
            if not len(wide):
                raise DatasetError(
                    f"{name}: its rows have {int(rows.n_fields.max(initial=0))} field(s) at most, but number {needed} "
                    f"is wanted; is {layout.separator!r} really between them?"
                )
            n_fields = int(np.bincount(wide).argmax())  # what most rows of the first block have
        regular = rows.n_fields == n_fields
        counts[RAGGED] += int((~regular).sum())
        yield _parse(rows, regular, layout, columns, name)


def _check(layout: Layout, name: str) -> None:
    if len(layout.separator) != 1 or not layout.separator.isascii() or layout.separator in "\r\n":
        raise DatasetError(f"{name}: fields separated by {layout.separator!r}; only one plain character can be read")
    if len(layout.quote) > 1 or not layout.quote.isascii() or (layout.quote and layout.quote in layout.separator):
        raise DatasetError(f"{name}: fields enclosed by {layout.quote!r}; only one plain character can be read")
    if layout.newline not in ("\n", "\r\n", "\r"):
        raise DatasetError(f"{name}: rows ended by {layout.newline!r}; only line ends can be read")
    try:
        codecs.lookup(layout.encoding)
    except LookupError:
        raise DatasetError(f"{name}: encoding '{layout.encoding}' is unknown") from None


def _decode(stream: Stream, layout: Layout, counts: Counter[str]) -> Iterator[str]:
    """Yield text with line feeds; the last piece ends with one."""
    decoder = codecs.getincrementaldecoder(layout.encoding)("replace")
    last = "\ufeff"
    while content := stream.read(BLOCK_BYTES):
        text = decoder.decode(content)
        counts[UNDECODABLE] += text.count("\ufffd")
        if last == "\ufeff":  # a byte order mark is no part of the first field
            text = text.removeprefix("\ufeff")
        if layout.newline == "\r":
            text = text.replace("\r", "\n")
        last = text[-1:] or last
        yield text
    if last not in ("\n", "\ufeff"):
        yield decoder.decode(b"", final=True) + "\n"


@dataclass(frozen=True)
class _Rows:
    """Whole rows as UTF-8: where each starts and ends (at its line feed), and how many fields it has."""

    content: bytes
    starts: np.ndarray
    ends: np.ndarray
    n_fields: np.ndarray

    def without(self, n: int) -> "_Rows":
        """Leave out the first rows."""
        return _Rows(self.content, self.starts[n:], self.ends[n:], self.n_fields[n:])


def _iter_rows(chunks: Iterator[str], layout: Layout, name: str) -> Iterator[_Rows]:
    rest = b""
    for chunk in chunks:
        content = rest + chunk.encode("utf-8", "replace")
        codes = np.frombuffer(content, np.uint8)
        between = codes == ord(layout.separator)
        at_end = codes == _NEWLINE
        if layout.quote:
            quotes = np.flatnonzero(codes == ord(layout.quote))
            if not _quotes_are_regular(codes, quotes, layout):
                yield from _iter_rows(_rewrite(content.decode(), chunks, layout, name), layout, name)
                return
            outside = np.cumsum(codes == ord(layout.quote), dtype=np.uint8) & 1 == 0
            between &= outside
            at_end &= outside
        ends = np.flatnonzero(at_end)
        cut = int(ends[-1]) + 1 if len(ends) else 0
        rest = content[cut:]
        if len(rest) > MAX_ROW_BYTES:
            raise DatasetError(f"{name}: a row of more than {MAX_ROW_BYTES:,} bytes; its line ends are not as stated")
        if not cut:
            continue
        starts = np.concatenate([[0], ends[:-1] + 1])
        n_fields = np.diff(np.searchsorted(np.flatnonzero(between), ends), prepend=0) + 1
        length = ends - starts - (codes[ends - 1] == ord("\r"))
        filled = length > 0
        yield _Rows(content, starts[filled], ends[filled], n_fields[filled])
    if rest:
        raise DatasetError(f"{name}: a quote opens and is never closed; is the file whole, and its quoting as stated?")


def _quotes_are_regular(codes: np.ndarray, quotes: np.ndarray, layout: Layout) -> bool:
    """Tell whether every quote opens a field at its start, closes it at its end, or is doubled inside."""
    edges = [ord(layout.separator), _NEWLINE, ord(layout.quote)]
    opening, closing = quotes[0::2], quotes[1::2]
    before = codes[opening[opening > 0] - 1]
    after = codes[closing[closing < len(codes) - 1] + 1]
    return bool(np.isin(before, edges).all() and np.isin(after, [*edges, ord("\r")]).all())


def _rewrite(text: str, chunks: Iterator[str], layout: Layout, name: str) -> Iterator[str]:
    """Read rows as the csv module understands them, and write them again with regular quotes."""

    def lines() -> Iterator[str]:
        rest = text
        for chunk in chunks:
            *whole, rest = (rest + chunk).split("\n")
            yield from (line + "\n" for line in whole)
        yield from (line + "\n" for line in rest.removesuffix("\n").split("\n") if rest)

    rows = csv.reader(lines(), delimiter=layout.separator, quotechar=layout.quote)
    try:
        while batch := list(islice(rows, _ROWS_PER_BATCH)):
            out = io.StringIO()
            csv.writer(
                out, delimiter=layout.separator, quotechar=layout.quote, quoting=csv.QUOTE_ALL, lineterminator="\n"
            ).writerows(row for row in batch if row)
            yield out.getvalue()
    except csv.Error as error:
        raise DatasetError(f"{name}: not a readable table ({error})") from error


def _parse(rows: _Rows, wanted: np.ndarray, layout: Layout, columns: Mapping[str, int], name: str) -> pl.DataFrame:
    n_wanted = int(wanted.sum())
    if not n_wanted:
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String()))
    starts, ends = rows.starts[wanted], rows.ends[wanted]
    if (starts[1:] == ends[:-1] + 1).all():  # nothing is left out between the first and the last
        content = rows.content[starts[0] : ends[-1] + 1]
    else:
        content = b"".join(rows.content[a : b + 1] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))
    indexes = sorted(set(columns.values()))
    try:
        table = pl.read_csv(
            content,
            separator=layout.separator,
            quote_char=layout.quote or None,
            has_header=False,
            infer_schema=False,
            columns=indexes,
        )
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{name}: not a readable table ({str(error).splitlines()[0]})") from error
    assert len(table) == n_wanted, f"{name}: {n_wanted} rows were read as {len(table)}"
    place = {index: i for i, index in enumerate(indexes)}
    fields = pl.DataFrame([table.to_series(place[index]).alias(column) for column, index in columns.items()])
    return fields.with_columns(pl.all().replace("", None)) if layout.quote else fields
