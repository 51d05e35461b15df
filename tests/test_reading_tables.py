"""Tables as programs write them: what cannot be read is named, with what to do about it."""

from pathlib import Path

import pytest

from biovita.errors import DatasetError
from biovita.tables import read_table


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"path;species\na;b\n", r"t\.csv: its columns are divided by ';'; save it with commas as \.csv"),
        ("t.csv", b"sep=;\npath;species\na;b\n", "its columns are divided by ';'"),
        ("t.csv", b"path\tspecies\na\tb\n", r"its columns are divided by '\\t'"),
        ("t.tsv", b"path,species\na,b\n", "its columns are divided by ','"),
        ("t.csv", "path,species\na,b\n".encode("utf-16"), "its text is UTF-16; save it as UTF-8"),
        ("t.csv", "path,species\na,b\n".encode("utf-16-le"), "its text is UTF-16; save it as UTF-8"),
        ("t.csv", "path,species\nM\u00fcller,b\n".encode("latin-1"), "invalid utf-8.*; save it as UTF-8"),
        ("t.csv", b"path,species\ra,b\r", "bare carriage return; save it with ordinary line ends"),
        ("t.csv", b"path,species\na,b,c\n", "a row has more fields than the first line"),
        ("t.tsv", b'path\tspecies\na\t"b" c\n', "a quote within a field may be the cause: double it"),
        ("t.csv", b"", "not a readable table"),
    ],
)
def test_a_text_that_another_program_wrote_otherwise_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_table(tmp_path: Path, start: str, end: str) -> None:
    (tmp_path / "t.csv").write_bytes(f"{start}path,species{end}a,b{end}".encode())
    assert read_table(tmp_path / "t.csv").to_dict(as_series=False) == {"path": ["a"], "species": ["b"]}
