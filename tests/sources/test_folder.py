"""Local files become records: from a table, a tree of species folders, or selection tables; what is wrong is named."""

import os
import random
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from biovita.errors import DatasetError
from biovita.sources.folder import local_files, read, read_manifest_table, rights_holder
from biovita.sources.record import RECORDS_SCHEMA
from biovita.sources.selections import read_selections
from biovita.sources.tree import species_of_folders

WILDLIFE = Path(__file__).parents[3] / "shared" / "data" / "wildlife" / "manifest.tsv"


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\t"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
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
        ("path\tscientific_name\tmodality\tlatitude\na\tb\taudio\t4850\n", "'folder:a': latitude_deg 4850 is beyond"),
        ("path\tscientific_name\tmodality\tlongitude\na\tb\taudio\t-181\n", "longitude_deg -181 is beyond 180 degrees"),
        ("path\tcommon_name\tmodality\na\tBlackbird\taudio\n", "no column 'scientific_name'; a common name alone"),
        ("file\tfilename\tspecies\tmodality\na\ta\tb\taudio\n", "'file' and 'filename' mean 'path'; leave one"),
        ("path\tspecies\tscientificName\tmodality\na\tb\tb\taudio\n", "'species' and 'scientificName' mean 'sci"),
        ("path\tPath\tscientific_name\tmodality\na\tb\tb\taudio\n", "'path' and 'Path' mean 'path'"),
        ("path\tpath\tscientific_name\tmodality\na\tb\tb\taudio\n", "'path' and 'path' mean 'path'"),
        ('path\tspecies\tmodality\tremarks\na\tb\taudio\t"x\nc\td\taudio\ty"\n', "row of 'a' a quote opens"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_manifest_table(write(tmp_path / "t.tsv", text))


def test_blank_cells_and_blank_rows_say_nothing(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.csv",
        "path,scientific_name,modality,licence,individual,media_id,recorded_at,latitude,quality\n"
        "a.wav,Turdus merula,audio,CC0,NA,,NA,NA,a\n"
        ",,,,,,,,\n"
        "\n"
        "b.wav,Turdus merula,audio,CC0, ,,2026-05-01 04:30, ,B\n",
    )
    first, second = read_manifest_table(table).iter_rows(named=True)
    assert (first["media_id"], first["individual"], first["recorded_at"], first["latitude_deg"]) == (
        "folder:a.wav", None, None, None,
    )  # fmt: skip
    assert (second["media_id"], second["individual"], second["latitude_deg"]) == ("folder:b.wav", None, None)
    assert second["recorded_at"] == datetime(2026, 5, 1, 4, 30, tzinfo=UTC)
    assert (first["quality"], second["quality"]) == ("A", "B")
    with pytest.raises(DatasetError, match="line 4: modality 'film'"):
        read_manifest_table(write(tmp_path / "u.csv", "path,species,modality\na,b,audio\n,,\nc,d,film\n"))


def test_a_table_without_a_column_for_licences_takes_the_one_that_is_given(tmp_path: Path) -> None:
    bare = write(tmp_path / "t.csv", "row,path,species,modality\n1,a.wav,A b,audio\n,,,\n")
    told = write(tmp_path / "u.csv", "path,species,modality,license\na.wav,A b,audio,\nb.wav,A b,audio,CC0\n")
    assert read(bare, licence="cc-by").records["licence"].to_list() == ["LicenseRef-CC-BY"]
    assert read(bare).records["licence"].to_list() == ["unknown"]
    assert read(told, licence="cc-by").records["licence"].to_list() == ["unknown", "CC0-1.0"]
    with pytest.raises(DatasetError, match="licence 'mine' says nothing"):
        read(bare, licence="mine")


def test_places_that_are_no_number_are_null(tmp_path: Path) -> None:
    row = {"path": ["a.wav"], "species": ["A b"], "modality": ["audio"], "latitude": [float("nan")], "longitude": [1.0]}
    pl.DataFrame(row).write_parquet(tmp_path / "t.parquet")
    assert read_manifest_table(tmp_path / "t.parquet").select("latitude_deg", "longitude_deg").row(0) == (None, 1.0)


def test_a_list_of_addresses_needs_no_paths(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "url,species,modality\nhttps://x.org/a.wav,A b,audio\n")
    row = read_manifest_table(table).row(0, named=True)
    assert (row["media_id"], row["url"], row["given_path"]) == (
        "folder:https://x.org/a.wav", "https://x.org/a.wav", None,
    )  # fmt: skip


def test_paths_with_backslashes_are_found_as_windows_means_them(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "a.wav")
    write(tmp_path / "odd\\b.wav")
    table = write(tmp_path / "t.csv", "path,species,modality\nsub\\a.wav,A b,audio\nodd\\b.wav,A b,audio\n")
    records = read_manifest_table(table)
    assert records["file"].to_list() == [str(tmp_path / "sub/a.wav"), str(tmp_path / "odd\\b.wav")]
    assert records["given_path"].to_list() == ["sub\\a.wav", "odd\\b.wav"]


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


def test_read_takes_a_table_as_it_is(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,species,modality\na.wav,A b,audio\nb.jpg,A b,image\n")
    reading = read(table)
    assert reading.records.equals(read_manifest_table(table))
    assert reading.counts == {"records": 2}


def slow_file(name: str, root: Path) -> str | None:
    """Say as plainly as possible where a name leads."""
    parts = name.replace("\\", "/").split("/")
    if not name.strip() or "\0" in name or ".." in parts or name.startswith("/"):
        return None
    folder = Path(os.path.realpath(root / os.path.dirname(name)))  # noqa: PTH120
    return str(root / name) if folder.is_relative_to(root) else None


def test_files_are_found_like_the_plain_loop_finds_them(tmp_path: Path) -> None:
    root = (tmp_path / "in").resolve()
    root.mkdir()
    for name, target in (("out", tmp_path), ("home", root), ("loop", root / "loop")):
        (root / name).symlink_to(target)
    rng = random.Random(7)
    words = ["a", "..", ".", "", "out", "home", "loop", "b.wav", " ", "\n", "\\", "..\\x", "\u00e9", "\0", "...", "a b"]
    names = ["/".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(4000)]
    for place in (root, Path("/")):
        assert local_files(pl.Series(names), place).to_list() == [slow_file(name, place) for name in names]
    assert local_files(pl.Series([], dtype=pl.String), root).to_list() == []


@pytest.mark.parametrize(
    ("folders", "species"),
    [
        (["Turdus merula"], "Turdus merula"),
        (["turdus_merula"], "Turdus merula"),
        (["Aves", "Passeriformes", "Turdidae", "Turdus", "Turdus merula", "2024"], "Turdus merula"),
        (["Turdus merula", "Turdus philomelos"], "Turdus philomelos"),
        (["Turdus_merula_merula"], "Turdus merula merula"),
        (["Turdus merula", "field_notes"], "Turdus merula"),
        (["Aves", "birds"], None),
        (["Turdus", "merula"], None),
        (["Anas acuta", "Anas platyrhynchos x Anas acuta"], "Anas platyrhynchos x Anas acuta"),
        (["Anas_platyrhynchos_\u00d7_acuta"], "Anas platyrhynchos \u00d7 acuta"),
        (["Turdus merula", "Turdus cf. philomelos", "2024"], "Turdus cf. philomelos"),
        (["Turdus merula", "Turdus sp."], "Turdus sp."),
        (["Turdus sp. 2"], "Turdus sp. 2"),
        (["Turdus sp.", "Turdus merula"], "Turdus merula"),
        (["Turdus merula Linnaeus, 1758"], "Turdus merula Linnaeus, 1758"),
        (["Turdus merula", "Camera x 3"], "Turdus merula"),
        (["Turdus merula", "Nest nr 5"], "Turdus merula"),
        (["TURDUS MERULA"], None),
        (["a b"], None),
        ([], None),
    ],
)
def test_the_last_folder_that_is_a_binomial_names_the_species(folders: list[str], species: str | None) -> None:
    assert species_of_folders(folders) == species


def test_a_tree_of_species_folders_becomes_records_and_every_entry_is_counted(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in (
        *("Aves/Turdus merula/a.WAV", "Aves/Turdus merula/2024/b.jpg", "parus_major/c.flac", "d.mp3"),
        *("parus_major/notes.md", "parus_major/none", "parus_major/.DS_Store"),
    ):
        write(tree / name)
    write(tmp_path / "outside.wav")
    (tree / "parus_major" / "link.wav").symlink_to(tmp_path / "outside.wav")
    (tree / "Turdus pilaris").symlink_to(tmp_path)
    os.mkfifo(tree / "parus_major" / "pipe.wav")
    (Path(os.fsencode(tree / "parus_major").decode()) / os.fsdecode(b"\xff.wav")).touch()
    reading = read(tree, licence="CC BY 4.0")
    assert dict(reading.records.schema) == RECORDS_SCHEMA
    rows = reading.records.select("media_id", "modality", "scientific_name", "licence").rows()
    assert rows == [
        ("folder:Aves/Turdus merula/2024/b.jpg", "image", "Turdus merula", "CC-BY-4.0"),
        ("folder:Aves/Turdus merula/a.WAV", "audio", "Turdus merula", "CC-BY-4.0"),
        ("folder:parus_major/c.flac", "audio", "Parus major", "CC-BY-4.0"),
    ]
    assert reading.records["file"][2] == str(tree.resolve() / "parus_major/c.flac")
    assert reading.counts == {
        "records": 3,
        "files in no species folder": 1,
        "files of unknown suffix '.md'": 1,
        "files of unknown suffix ''": 1,
        "hidden files and folders": 1,
        "links, which are not followed": 2,
        "entries that are no regular files": 1,
        "names that are not UTF-8": 1,
    }


@pytest.mark.parametrize("licence", [None, "", "all rights reserved", "mine"])
def test_a_tree_needs_a_licence(tmp_path: Path, licence: str | None) -> None:
    write(tmp_path / "Turdus merula" / "a.wav")
    with pytest.raises(DatasetError, match="says nothing; give that of the files"):
        read(tmp_path, licence=licence)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such table"):
        read(tmp_path / "gone", licence="CC0")


@pytest.mark.parametrize(
    ("name", "separator", "quote"), [("a.csv", ",", '"'), ("a.csv", ";", ""), ("a.csv", ";", '"'), ("a.txt", "\t", '"')]
)
def test_selections_are_read_as_spreadsheets_and_r_write_them(
    tmp_path: Path, name: str, separator: str, quote: str
) -> None:
    rows = [["Start (s)", "End (s)", "Scientific name", "File"], ["0", "3", "Turdus merula", "a.wav"]]
    lines = [separator.join(f"{quote}{cell}{quote}" if not cell.isdigit() else cell for cell in row) for row in rows]
    write(tmp_path / "a.wav")
    write(tmp_path / name, "\n".join(lines) + "\n")
    (row,) = read(tmp_path, licence="CC0").records.iter_rows(named=True)
    assert (row["given_path"], row["scientific_name"], row["remarks"]) == (
        "a.wav",
        "Turdus merula",
        "selections s: 0-3",
    )


def test_selections_label_the_recording_they_lie_in(tmp_path: Path) -> None:
    write(tmp_path / "rec" / "one.wav")
    write(
        tmp_path / "rec" / "one.Table.1.selections.txt",
        f"{RAVEN}Species\n"
        "1\tWaveform 1\t1\t0.0\t3.0\t0\t9000\tTurdus merula\n"
        "1\tSpectrogram 1\t1\t0.0\t3.0\t0\t9000\tTurdus merula\n"
        "2\tSpectrogram 1\t1\t3.0\t4.25\t0\t9000\tTurdus  merula\n"
        '3\tSpectrogram 1\t1\t10\t12\t0\t9000\t"Turdus merula\n',
    )
    reading = read(tmp_path, licence="CC0")
    assert len(reading.records) == 0
    assert reading.counts["recordings with several species"] == 1  # the stray quote makes another name
    table = tmp_path / "rec" / "one.Table.1.selections.txt"
    table.write_text(table.read_text().replace('"', ""))
    (row,) = read(table, licence="CC0").records.iter_rows(named=True)
    assert (row["media_id"], row["scientific_name"], row["modality"]) == ("folder:one.wav", "Turdus merula", "audio")
    assert row["file"] == str(tmp_path.resolve() / "rec" / "one.wav")
    assert row["remarks"] == "selections s: 0-4.25, 10-12"


def test_a_recording_with_several_species_and_nocall_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    header = "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
    for name in ("a.wav", "b.wav", "c.wav", "deep/d.flac", "e.wav"):
        write(tmp_path / name)
    write(
        tmp_path / "all.csv",
        header
        + "0.0,3.0,Turdus merula,Eurasian Blackbird,0.91,C:\\field\\a.wav\n"
        + "3.0,6.0,Turdus merula,Eurasian Blackbird,0.42,a.wav\n"
        + "3.0,6.0,Turdus merula,Eurasian Blackbird,0.42,a.wav\n"
        + "0.0,3.0,Turdus merula,Eurasian Blackbird,0.9,b.wav\n"
        + "0.0,3.0,Parus major,Great Tit,0.8,b.wav\n"
        + "0.0,3.0,nocall,nocall,0.99,a.wav\n"
        + "0.0,3.0,nocall,nocall,0.99,c.wav\n"
        + "0.0,3.0,,,0.5,c.wav\n"
        + "0.0,3.0,Parus major,Great Tit,0.8,/other/machine/d.flac\n"
        + "0.0,3.0,Parus major,Great Tit,0.8,gone.wav\n",
    )
    reading = read(tmp_path, licence="CC0")
    rows = reading.records.select("media_id", "scientific_name", "given_common_name", "remarks").rows()
    assert rows == [
        ("folder:a.wav", "Turdus merula", "Eurasian Blackbird", "selections s: 0-6; best confidence: 0.91"),
        ("folder:deep/d.flac", "Parus major", "Great Tit", "selections s: 0-3; best confidence: 0.8"),
    ]
    assert reading.counts == {
        "selections": 10,
        "nocall selections": 2,
        "selections without a species": 1,
        "selections of recordings that are not here": 1,
        "selections that occur again": 1,
        "recordings with several species": 1,
        "selections in recordings with several species": 2,
        "recordings without a usable selection": 2,
        "records": 2,
    }


def test_birdnet_raven_tables_give_common_names_as_hints_and_offsets_as_times(tmp_path: Path) -> None:
    write(tmp_path / "x1.wav")
    write(
        tmp_path / "x1.BirdNET.selection.table.txt",
        f"{RAVEN}Common Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)\n"
        "7\tSpectrogram 1\t1\t303.0\t306.0\t0\t15000\tBarred Owl\tbrdowl\t0.42\t/data/x1.wav\t3.0\n",
    )
    reading = read(tmp_path, licence="CC0")
    (row,) = reading.records.iter_rows(named=True)
    assert (row["scientific_name"], row["given_common_name"]) == (None, "Barred Owl")
    assert row["remarks"] == "selections s: 3-6; best confidence: 0.42"
    assert reading.counts["recordings without a scientific name"] == 1


@pytest.mark.parametrize("name", ["a.BirdNET.results.csv", "a.csv", "a.wav.csv"])
def test_a_table_without_a_file_column_belongs_to_the_recording_it_is_called_after(tmp_path: Path, name: str) -> None:
    write(tmp_path / "night" / "a.wav")
    write(tmp_path / "day" / "a.wav")
    write(tmp_path / "night" / name, "Start (s),End (s),Scientific name,Common name\n0,3,Strix varia,Barred Owl\n")
    assert read(tmp_path, licence="CC0").records["given_path"].to_list() == ["night/a.wav"]


def test_a_name_that_two_recordings_have_is_no_answer(tmp_path: Path) -> None:
    write(tmp_path / "night" / "a.wav")
    write(tmp_path / "day" / "a.wav")
    write(tmp_path / "all.csv", "Start (s),End (s),Scientific name,File\n0,3,Strix varia,a.wav\n")
    reading = read(tmp_path, licence="CC0")
    assert reading.counts["selections of recordings that are not here"] == 1
    assert len(reading.records) == 0


def test_a_table_of_files_may_say_where_in_them_something_is(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,species,modality,start,end\na.wav,Strix varia,audio,0,3\n")
    assert read(table).records["media_id"].to_list() == ["folder:a.wav"]


def test_other_files_beside_selection_tables_are_counted(tmp_path: Path) -> None:
    for name in ("a.wav", "a.jpg", "notes.txt", "empty.csv"):
        write(tmp_path / name)
    write(tmp_path / "all.csv", "Start (s),End (s),Scientific name,File\n0,3,Strix varia,a.wav\n")
    reading = read(tmp_path, licence="CC0")
    assert reading.counts["files that are neither recordings nor tables"] == 3
    assert len(reading.records) == 1


def test_what_is_no_selection_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no selection table in it"):
        read_selections(tmp_path, licence="CC0")
    with pytest.raises(DatasetError, match=r"t\.csv: no selection table; it needs"):
        read_selections(write(tmp_path / "t.csv", "a,b\n"), licence="CC0")


def test_a_header_without_selections_gives_no_records(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    write(tmp_path / "a.BirdNET.results.csv", "Start (s),End (s),Scientific name,Common name,Confidence\n")
    reading = read(tmp_path, licence="CC0")
    assert len(reading.records) == 0
    assert reading.counts["recordings without a usable selection"] == 1
