"""A table of local files becomes records: aliases, licences, holders, times; what is wrong is named."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from biovita.errors import DatasetError
from biovita.sources.folder import read_manifest_table, rights_holder
from biovita.sources.record import RECORDS_SCHEMA

WILDLIFE = Path(__file__).parents[3] / "shared" / "data" / "wildlife" / "manifest.tsv"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_small_table_becomes_records(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.tsv",
        "\ufeffpath\tscientific_name\tmodality\tlicense\tnotes\torigin\tlatitude\trecorded_at\tcommon_name\r\n"
        "a/b.mp3\tTurdus merula\tAudio\tCC BY 4.0\t(c) Ann Lee, some rights reserved\thttp://x/1\t48.5\t2026-05-01\tBlackbird\r\n"
        "../c.jpg\tTurdus merula\timage\t\t\t\t\t2026-05-01T04:30:00+02:00\t\r\n",
    )
    records = read_manifest_table(table)
    assert dict(records.schema) == RECORDS_SCHEMA
    first, second = records.iter_rows(named=True)
    assert first["media_id"] == "folder:a/b.mp3"
    assert first["file"] == str(tmp_path / "a/b.mp3")
    assert (first["modality"], first["licence"], first["rights_holder"]) == ("audio", "CC-BY-4.0", "Ann Lee")
    assert (first["latitude_deg"], first["page_url"], first["given_common_name"]) == (48.5, "http://x/1", "Blackbird")
    assert first["recorded_at"] == datetime(2026, 5, 1, tzinfo=UTC)
    assert second["recorded_at"] == datetime(2026, 5, 1, 2, 30, tzinfo=UTC)
    assert (second["file"], second["licence"], second["latitude_deg"]) == (None, "unknown", None)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.wav", "a/../../x.wav", "a\\..\\..\\x.wav", "", "out/x.wav", "\0x.wav"]
)
def test_a_path_that_leaves_the_folder_gets_no_file(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    row = {"path": [path], "scientific_name": ["A b"], "modality": ["audio"]}
    pl.DataFrame(row).write_parquet(tmp_path / "in" / "t.parquet")
    assert read_manifest_table(tmp_path / "in" / "t.parquet")["file"].to_list() == [None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\tscientific_nam\tmodality\na\tb\taudio\n", r"t\.tsv: no column 'scientific_name'; is 'scientific_nam'"),
        ("path\tmodality\na\taudio\n", "no column 'scientific_name'; it has path, modality"),
        ("path\tscientific_name\tmodality\na\tb\tvideo\n", "line 2: modality 'video'; use audio or image"),
        ("path\tscientific_name\tmodality\na\tb\taudio\na\tb\taudio\n", "media_id 'folder:a' stands in 2 rows"),
        ("path\tscientific_name\tmodality\trecorded_at\na\tb\taudio\tlast May\n", "recorded_at 'last May' is no time"),
        ("path\tscientific_name\tmodality\tlatitude\na\tb\taudio\tnorth\n", "column 'latitude_deg'"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_manifest_table(write(tmp_path / "t.tsv", text))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such table"):
        read_manifest_table(tmp_path / "gone.csv")
    with pytest.raises(DatasetError, match="not a readable table"):
        read_manifest_table(write(tmp_path / "t.parquet", "no"))
    with pytest.raises(DatasetError, match=r"ends in \.tsv"):
        read_manifest_table(write(tmp_path / "t.xlsx", "no"))


@pytest.mark.parametrize(
    ("remark", "holder"),
    [
        ("(c) G. L. Dearman, some rights reserved (CC BY-NC)", "G. L. Dearman"),
        ("frog hardly visible; (c) Rosie, some rights reserved", "Rosie"),
        ("© Mike Tilley / iNaturalist, CC-BY 4.0", "Mike Tilley"),
        ("photo credit Jacob W. Frank; scientific name assigned by us", "Jacob W. Frank"),
        ("Bob Warrick / Wikimedia Commons, CC BY-SA 4.0", "Bob Warrick"),
        ("Public domain (NPS)", "NPS"),
        ("a loud frog", None),
    ],
)
def test_the_holder_is_found_in_a_remark(remark: str, holder: str | None) -> None:
    assert rights_holder(remark) == holder


@pytest.mark.skipif(not WILDLIFE.is_file(), reason="shared/data/wildlife is not beside this checkout")
def test_the_real_manifest_is_read() -> None:
    records = read_manifest_table(WILDLIFE)
    assert len(records) == 141
    assert records["licence"].n_unique() == 10
    assert "unknown" not in records["licence"].to_list()
    assert records["rights_holder"].null_count() <= 1
    assert all(Path(file).is_file() for file in records["file"])
