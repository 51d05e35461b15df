"""Archives are read as their descriptor says, as python-dwca-reader reads them, and never unpacked."""

import zipfile
from pathlib import Path

import pytest
from archives import DWC, GBIF, MULTIMEDIA, gbif_files, meta_xml, table_xml, write_folder, write_zip
from dwca.descriptors import shorten_term
from dwca.read import DwCAReader

from biovita.errors import DatasetError
from biovita.sources.darwin_core import OCCURRENCE, is_archive, read_archive
from biovita.sources.delimited import RAGGED

RESPONSES = Path(__file__).parents[3] / "shared" / "data" / "responses"
needs_responses = pytest.mark.skipif(not RESPONSES.is_dir(), reason="shared/data/responses is not beside this checkout")
TAXON = DWC + "Taxon"
VERNACULAR = GBIF + "VernacularName"


def assert_is_what_the_reader_reads(folder: Path) -> None:
    """Compare every field of every row, by its term, with the reader's own rows."""
    ours = read_archive(folder)
    with DwCAReader(str(folder), skip_metadata=True) as reader:
        tables = [(ours.core, "id", reader.core_file)]
        tables += [(ours.extensions[file.file_descriptor.type], "coreid", file) for file in reader.extension_files]
        for table, key, file in tables:
            rows = [
                {key: row.raw_fields[0]} | {shorten_term(name): value for name, value in row.data.items()}
                for row in file.iter_rows()
            ]
            assert rows
            assert table.select(*rows[0]).fill_null("").to_dicts() == rows


def taxonomy(
    separator: str = "\\t", quote: str = "", encoding: str = "UTF-8", newline: str = "\\n"
) -> dict[str, bytes]:
    """Make a taxonomy: a core of taxa and their common names, divided as stated."""
    layout = {"separator": separator, "quote": quote, "encoding": encoding, "newline": newline}
    descriptor = meta_xml(
        table_xml("core", TAXON, "taxa.txt", ["taxonID", "scientificName"], defaults={"kingdom": "Animalia"}, **layout),
        table_xml("extension", VERNACULAR, "names.txt", ["taxonID", "vernacularName"], header_lines=0, **layout),
    )
    between, end = separator.encode().decode("unicode-escape"), newline.encode().decode("unicode-escape")
    taxa = [["id", "name"], ["1", "Turdus merula"], ["2", f"{quote}Pica{between if quote else ' '}pica{quote}"]]
    names = [["1", "Mönchsgrasmücke"], ["2", f"{quote}urraca{quote}"]]
    return {
        "meta.xml": descriptor.encode(),
        "taxa.txt": "".join(between.join(row) + end for row in taxa).encode(encoding),
        "names.txt": "".join(between.join(row) + end for row in names).encode(encoding),
    }


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"separator": ",", "quote": '"'},
        {"separator": "|", "newline": "\\r\\n"},
        {"separator": ";", "quote": "'", "encoding": "latin-1"},
    ],
)
def test_the_descriptor_is_honoured(tmp_path: Path, layout: dict[str, str]) -> None:
    files = taxonomy(**layout)
    folder = write_folder(tmp_path / "folder", files)
    archive = read_archive(write_zip(tmp_path / "a.zip", files))
    assert archive.core.equals(read_archive(folder).core)
    assert archive.core_type == TAXON
    assert archive.core["kingdom"].to_list() == ["Animalia", "Animalia"]
    assert archive.extensions[VERNACULAR].rows() == [("1", "1", "Mönchsgrasmücke"), ("2", "2", "urraca")]
    assert_is_what_the_reader_reads(folder)


def test_a_default_fills_empty_fields_and_missing_columns(tmp_path: Path) -> None:
    xml = table_xml("core", TAXON, "taxa.txt", ["taxonID"], defaults={"kingdom": "Animalia"}).replace(
        "</core>", f'<field index="1" term="{DWC}family" default="Turdidae"/></core>'
    )
    folder = write_folder(tmp_path / "a", {"meta.xml": meta_xml(xml), "taxa.txt": "id\tf\n1\t\n2\tCorvidae\n"})
    assert read_archive(folder).core.drop("taxonID").rows() == [
        ("1", "Turdidae", "Animalia"),
        ("2", "Corvidae", "Animalia"),
    ]
    assert_is_what_the_reader_reads(folder)


def test_a_gbif_download_is_read_as_the_reader_reads_it(tmp_path: Path) -> None:
    occurrences = [{"gbifID": str(i), "scientificName": f'Turdus "m" {i}', "locality": "a  b'"} for i in range(30)]
    media = [{"gbifID": str(i % 30), "identifier": f"https://x.org/{i}.mp3", "title": '"'} for i in range(50)]
    assert_is_what_the_reader_reads(write_folder(tmp_path / "a", gbif_files(occurrences, media)))


def test_terms_of_one_short_name_are_told_apart(tmp_path: Path) -> None:
    other = "http://purl.org/dc/elements/1.1/creator"
    xml = table_xml("core", TAXON, "taxa.txt", ["taxonID", "creator", other])
    archive = read_archive(write_folder(tmp_path / "a", {"meta.xml": meta_xml(xml), "taxa.txt": "i\tc\td\n1\ta\tb\n"}))
    assert archive.core.to_dicts() == [{"id": "1", "taxonID": "1", "creator": "a", other: "b"}]


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    files = gbif_files([{"gbifID": "1", "scientificName": "Pica pica", "locality": "x"}], [])
    path = write_zip(tmp_path / "a.zip", files)
    archive = read_archive(path, extensions=[], terms={"scientificName"})
    assert archive.core.columns == ["id", "scientificName"]
    assert archive.extensions == {}
    assert archive.extension_types == (MULTIMEDIA,)
    assert archive.core_type == OCCURRENCE


def test_a_table_in_several_files_is_one_table(tmp_path: Path) -> None:
    xml = table_xml("core", TAXON, "a.txt</location><location>b.txt", ["taxonID", "scientificName"])
    files = {"meta.xml": meta_xml(xml), "a.txt": "i\tn\n1\tA\n", "b.txt": "i\tn\n2\tB\n"}
    assert read_archive(write_zip(tmp_path / "a.zip", files)).core["id"].to_list() == ["1", "2"]


def test_ragged_rows_are_counted(tmp_path: Path) -> None:
    files = taxonomy()
    files["taxa.txt"] += b"3\n4\tToo\tmany\n5\tCorvus corax\n"
    archive = read_archive(write_zip(tmp_path / "a.zip", files))
    assert archive.core["id"].to_list() == ["1", "2", "5"]
    assert archive.counts == {RAGGED: 2}


def test_an_archive_inside_a_folder_of_the_zip_file_is_found(tmp_path: Path) -> None:
    files = {f"inner/{name}": content for name, content in taxonomy().items()}
    files["__MACOSX/meta.xml"] = b"\0"
    assert len(read_archive(write_zip(tmp_path / "a.zip", files)).core) == 2


def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("i\tn\n1\tsecret\n")
    xml = table_xml("core", TAXON, "../secret.txt", ["taxonID", "scientificName"])
    with pytest.raises(DatasetError, match="leads out of the archive"):
        read_archive(write_folder(tmp_path / "a", {"meta.xml": meta_xml(xml)}))
    with pytest.raises(DatasetError, match=r"has no '\.\./secret\.txt'"):
        read_archive(write_zip(tmp_path / "a.zip", {"meta.xml": meta_xml(xml)}))
    (tmp_path / "a" / "link.txt").symlink_to(tmp_path / "secret.txt")
    xml = table_xml("core", TAXON, "link.txt", ["taxonID", "scientificName"])
    with pytest.raises(DatasetError, match="leads out of the archive"):
        read_archive(write_folder(tmp_path / "a", {"meta.xml": meta_xml(xml)}))


def test_reading_unpacks_nothing(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", taxonomy() | {"../escaped.txt": b"x", "/tmp/escaped.txt": b"x"})
    read_archive(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", taxonomy() | {"bomb.txt": bytes(10 << 20)})
    assert path.stat().st_size < 100_000
    with pytest.raises(DatasetError, match="would unpack to"):
        read_archive(path, max_bytes=1 << 20)


def test_a_member_that_lies_about_its_size_or_is_cut_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", taxonomy())
    content = bytearray(path.read_bytes())
    place = content.index(b"taxa.txt") + len("taxa.txt") + 3
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"'taxa.txt' cannot be read"):
        read_archive(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="neither a zip file nor a folder"):
        read_archive(path)


@pytest.mark.parametrize(
    ("descriptor", "word"),
    [
        ("<archive>", "no descriptor"),
        ("not xml", "no descriptor"),
        ("<archive></archive>", "no descriptor"),
        (meta_xml(table_xml("core", TAXON, "taxa.txt", ["taxonID"]).replace('<id index="0"/>', "")), "no descriptor"),
        (meta_xml(table_xml("core", TAXON, "taxa.txt", ["taxonID"], encoding="utf-99")), "no descriptor"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><archive/>', "declares entities"),
        (" " * (5 << 20), "too large"),
        (meta_xml(table_xml("core", TAXON, "gone.txt", ["taxonID"])), "has no 'gone.txt'"),
        (meta_xml(table_xml("core", TAXON, "taxa.txt", ["taxonID"], separator="||")), "only one plain character"),
    ],
)
def test_a_descriptor_that_cannot_be_followed_is_refused(tmp_path: Path, descriptor: str, word: str) -> None:
    path = write_zip(tmp_path / "a.zip", {"meta.xml": descriptor, "taxa.txt": "i\n1\n"})
    with pytest.raises(DatasetError, match=r"a\.zip") as caught:
        read_archive(path)
    assert word in str(caught.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such archive"):
        read_archive(tmp_path / "none.zip")
    with pytest.raises(DatasetError, match=r"no 'meta\.xml'"):
        read_archive(tmp_path)
    with pytest.raises(DatasetError, match=r"no 'meta\.xml'"):
        read_archive(write_zip(tmp_path / "simple.zip", {"occurrences.csv": "a\tb\n"}))
    (tmp_path / "text.zip").write_text("text")
    assert not is_archive(tmp_path / "text.zip")
    assert is_archive(tmp_path / "simple.zip")
    assert not is_archive(tmp_path)


@needs_responses
def test_a_real_gbif_answer_of_2013_is_read_as_the_reader_reads_it(tmp_path: Path) -> None:
    path = RESPONSES / "dwca" / "gbif-results.zip"
    archive = read_archive(path)
    assert len(archive.core) == 158
    assert archive.extensions == {}
    with zipfile.ZipFile(path) as zipped:
        zipped.extractall(tmp_path)
    assert_is_what_the_reader_reads(tmp_path)


@needs_responses
def test_a_real_taxonomy_is_read_as_the_reader_reads_it(tmp_path: Path) -> None:
    path = RESPONSES / "dwca" / "archive-tax.zip"
    archive = read_archive(path)
    assert archive.core_type == TAXON
    assert archive.extensions[VERNACULAR].columns == ["coreid", "taxonID", "vernacularName", "language"]
    with zipfile.ZipFile(path) as zipped:
        zipped.extractall(tmp_path)
    assert_is_what_the_reader_reads(tmp_path / "archive-tax")


@needs_responses
def test_the_layout_of_a_download_of_2025_is_understood(tmp_path: Path) -> None:
    descriptor = (RESPONSES / "gbif_dwca_2025" / "meta.xml").read_text()
    rows = {"occurrence.txt": 223, "verbatim.txt": 195, "multimedia.txt": 15}
    files = {name: "\t".join(["h"] * n) + "\n" + "\t".join(str(i) for i in range(n)) + "\n" for name, n in rows.items()}
    folder = write_folder(tmp_path / "a", {"meta.xml": descriptor, **files})
    archive = read_archive(folder)
    assert archive.extension_types == (OCCURRENCE, MULTIMEDIA)
    assert archive.extensions[MULTIMEDIA].select("identifier", "license", "rightsHolder").rows() == [("3", "13", "14")]
    assert archive.core.select("scientificName", "datasetKey").rows() == [("148", "179")]
    assert archive.core["geodeticDatum"].to_list() == ["WGS84"]
    assert_is_what_the_reader_reads(folder)
