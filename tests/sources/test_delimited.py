"""Delimited text in blocks: read as the csv module reads it, whatever the size of blocks; wrong rows are counted."""

import csv
import io
from collections import Counter

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from biovita.errors import DatasetError
from biovita.sources import delimited
from biovita.sources.delimited import RAGGED, UNDECODABLE, Layout, iter_tables, read_header

ABC = {"a": 0, "b": 1, "c": 2}


def read(content: bytes, layout: Layout | None = None, columns: dict[str, int] = ABC) -> tuple[list[tuple], Counter]:
    counts: Counter[str] = Counter()
    tables = list(iter_tables(io.BytesIO(content), layout or Layout(), columns, "made.txt", counts))
    return [row for table in tables for row in table.rows()], +counts


def test_quotes_in_unquoted_text_are_characters() -> None:
    rows, counts = read(b'1\t"two\t3\n4\t5"\t"6"\n7\t8\t"\n')
    assert rows == [("1", '"two', "3"), ("4", '5"', '"6"'), ("7", "8", '"')]
    assert not counts


def test_ragged_rows_are_counted_and_do_not_shift_their_neighbours() -> None:
    rows, counts = read(b"1\t2\t3\nshort\n4\t5\t6\n1\t2\t3\t4\n\n7\t\t\n")
    assert rows == [("1", "2", "3"), ("4", "5", "6"), ("7", None, None)]
    assert counts == {RAGGED: 2}


def test_nul_and_undecodable_bytes_stay_in_their_field() -> None:
    rows, counts = read(b"1\tx\0y\t3\n4\tx\xffy\t6\n")
    assert rows == [("1", "x\0y", "3"), ("4", "x\ufffdy", "6")]
    assert counts == {UNDECODABLE: 1}


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (b"\xef\xbb\xbf1\t2\t3\r\n4\t5\t6", Layout()),
        (b"h\th\th\nj\n1\t2\t3\n4\t5\t6\n", Layout(header_lines=2)),
        (b"1|2|3\r4|5|6\r", Layout(separator="|", newline="\r")),
        ("1\t2\t3\n4\t5\t6\n".encode("utf-16"), Layout(encoding="utf-16")),
        (b"'1',2,'3'\n4,'5',6", Layout(separator=",", quote="'")),
    ],
)
def test_layouts(content: bytes, layout: Layout) -> None:
    assert read(content, layout)[0] == [("1", "2", "3"), ("4", "5", "6")]


@pytest.mark.parametrize("block", [1, 2, 5, 64])
def test_the_size_of_blocks_changes_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = 'head\n1,"é\n""q"", x",3\n4,"",6\n7,5",9\nä,b"c,d\n'.encode()
    layout = Layout(separator=",", quote='"', header_lines=1)
    whole = read(content, layout)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
    assert whole[0][0] == ("1", 'é\n"q", x', "3")
    # the first block says how many fields a row has: here it must hold a whole row of three
    monkeypatch.setattr(delimited, "_ROWS_PER_BATCH", 2)
    assert read(content, layout) == whole


FIELD = st.text(st.sampled_from("ab\",\n \t'é"), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1, max_size=6), st.booleans())
def test_quoted_text_is_read_as_the_csv_module_reads_it(rows: list[tuple[str, str, str]], quote_all: bool) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerows(rows)
    ours, counts = read(text.getvalue().encode(), Layout(separator=",", quote='"'))
    assert ours == [tuple(field or None for field in row) for row in rows]
    assert not counts


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab",\n'), max_size=30))
def test_text_with_stray_quotes_is_read_as_the_csv_module_reads_it(text: str) -> None:
    text = "x,y,z\n" * 20 + text + "\nx,y,z\n"
    theirs = [row for row in csv.reader(io.StringIO(text)) if row]
    assume(theirs[-1] == ["x", "y", "z"])  # a quote that stays open is another test
    good = [tuple(field or None for field in row) for row in theirs if len(row) == 3]
    ours, counts = read(text.encode(), Layout(separator=",", quote='"'))
    assert ours == good
    assert counts[RAGGED] == len(theirs) - len(good)


@pytest.mark.parametrize(
    ("layout", "word"),
    [
        (Layout(separator="||"), "separated by"),
        (Layout(separator="§"), "separated by"),
        (Layout(quote='""'), "enclosed by"),
        (Layout(newline="@"), "rows ended by"),
        (Layout(encoding="utf-99"), "utf-99"),
        (Layout(separator=";"), "really between them"),
    ],
)
def test_a_layout_that_cannot_be_read_is_refused(layout: Layout, word: str) -> None:
    with pytest.raises(DatasetError, match=r"^made.txt: ") as caught:
        read(b"1\t2\t3\n", layout)
    assert word in str(caught.value)


def test_a_file_without_line_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 100)
    monkeypatch.setattr(delimited, "MAX_ROW_BYTES", 1000)
    with pytest.raises(DatasetError, match="line ends"):
        read(b"x" * 5000)


def test_a_quote_that_stays_open_is_refused() -> None:
    with pytest.raises(DatasetError, match="never closed"):
        read(b'x,y,z\n1,2,"3\n', Layout(separator=",", quote='"'))


def test_an_empty_file_has_no_rows() -> None:
    assert read(b"") == ([], {})
    assert read(b"only\ta\thead\n", Layout(header_lines=1)) == ([], {})


def test_a_header_names_columns() -> None:
    stream = io.BytesIO(b"\xef\xbb\xbfone\ttwo\r\n1\t2\n")
    assert read_header(stream, "made.csv") == ["one", "two"]
    assert stream.read() == b"1\t2\n"
    with pytest.raises(DatasetError, match=r"made.csv: no line of column names"):
        read_header(io.BytesIO(b"one\ttwo"), "made.csv")


def test_tables_have_the_wanted_columns_only() -> None:
    tables = list(iter_tables(io.BytesIO(b"1\t2\t3\n"), Layout(), {"z": 2, "a": 0, "again": 2}, "made", Counter()))
    assert tables[0].equals(pl.DataFrame({"z": ["3"], "a": ["1"], "again": ["3"]}))
