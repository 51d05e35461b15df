"""GBIF: one record a medium with the medium's own licence, from downloads and from answers of the API."""

import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
import yaml
from archives import DC, DWC, gbif_files, meta_xml, table_xml, tsv, write_folder, write_zip

from biovita.errors import BiovitaError, ConfigError, DatasetError, FetchError
from biovita.sources import gbif
from biovita.sources.darwin_core import AUDUBON
from biovita.sources.delimited import RAGGED
from biovita.sources.record import RECORDS_SCHEMA, instants

RESPONSES = Path(__file__).parents[3] / "shared" / "data" / "responses"
needs_responses = pytest.mark.skipif(not RESPONSES.is_dir(), reason="shared/data/responses is not beside this checkout")

BLACKBIRD = {
    "gbifID": "11",
    "datasetKey": "b1047888-ae52-4179-9dd5-5448ea342a24",
    "license": "CC_BY_4_0",
    "occurrenceStatus": "PRESENT",
    "basisOfRecord": "HUMAN_OBSERVATION",
    "scientificName": "Turdus merula Linnaeus, 1758",
    "kingdom": "Animalia",
    "class": "Aves",
    "genus": "Turdus",
    "vernacularName": "Eurasian Blackbird",
    "eventDate": "2021-05-01T04:30",
    "decimalLatitude": "52.5",
    "decimalLongitude": "13.4",
    "recordedBy": "A. Ohm",
}
SONG = {
    "gbifID": "11",
    "type": "Sound",
    "format": "audio/mpeg",
    "identifier": "https://media.example.org/1.mp3",
    "references": "https://example.org/1",
    "license": "http://creativecommons.org/licenses/by-nc/4.0/",
    "rightsHolder": "A. Ohm",
}


def read(path: Path, occurrences: list[dict[str, str]], media: list[dict[str, str]]) -> tuple[pl.DataFrame, dict]:
    reading = gbif.read(write_zip(path / "a.zip", gbif_files(occurrences, media, names=list(BLACKBIRD | OTHER))))
    return reading.records, reading.counts


OTHER = dict.fromkeys(("occurrenceID", "catalogNumber", "references", "sex", "lifeStage"), "")


def test_a_medium_becomes_a_record(tmp_path: Path) -> None:
    records, counts = read(tmp_path, [BLACKBIRD | {"sex": "male"}], [SONG])
    assert records.schema == pl.Schema(RECORDS_SCHEMA)
    record = records.row(0, named=True)
    hashed = record.pop("media_id")
    assert hashed.startswith("gbif:11:")
    assert {name: value for name, value in record.items() if value is not None} == {
        "modality": "audio",
        "source": "gbif",
        "url": "https://media.example.org/1.mp3",
        "page_url": "https://example.org/1",
        "scientific_name": "Turdus merula Linnaeus, 1758",
        "licence": "CC-BY-NC-4.0",
        "rights_holder": "A. Ohm",
        "recorded_at": datetime(2021, 5, 1, 4, 30, tzinfo=UTC),
        "latitude_deg": 52.5,
        "longitude_deg": 13.4,
        "individual": "gbif:11",
        "remarks": f"basis: HUMAN_OBSERVATION; dataset: {BLACKBIRD['datasetKey']}; recorded by: A. Ohm; sex: male",
        "given_common_name": "Eurasian Blackbird",
        "given_kingdom": "Animalia",
        "given_class": "Aves",
        "given_genus": "Turdus",
    }
    assert counts == {"occurrences": 1, "media": 1}


def test_the_licence_of_the_occurrence_is_not_the_licence_of_the_medium(tmp_path: Path) -> None:
    records, counts = read(tmp_path, [BLACKBIRD], [SONG | {"license": "", "rightsHolder": "", "creator": "B. Volt"}])
    assert records["licence"].to_list() == ["unknown"]
    assert records["rights_holder"].to_list() == ["B. Volt"]
    assert counts["media without a known licence"] == 1


def test_ids_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    occurrences = [BLACKBIRD | {"gbifID": str(i)} for i in range(20)]
    media = [SONG | {"gbifID": str(i % 20), "identifier": f"https://x.org/{i}.mp3"} for i in range(60)]
    media += [medium | {"license": ""} for medium in media[:5]]
    first, counts = read(tmp_path, occurrences, media)
    random.Random(1).shuffle(occurrences)
    random.Random(2).shuffle(media)
    second, _ = read(tmp_path, occurrences, media)
    assert counts["media that occur again"] == 5
    assert first.sort("media_id").equals(second.sort("media_id"))
    assert first["licence"].unique().to_list() == ["CC-BY-NC-4.0"]
    assert first["media_id"].n_unique() == 60
    assert first["individual"].n_unique() == 20


def test_observations_of_inaturalist_meet_the_inaturalist_source(tmp_path: Path) -> None:
    url = "https://www.inaturalist.org/observations/123"
    records, _ = read(
        tmp_path,
        [
            BLACKBIRD | {"gbifID": "1", "occurrenceID": url},
            BLACKBIRD | {"gbifID": "2", "datasetKey": gbif.INATURALIST, "catalogNumber": "124"},
            BLACKBIRD | {"gbifID": "3", "catalogNumber": "125"},
            BLACKBIRD | {"gbifID": "4", "occurrenceID": "https://inaturalist.nz/observations/77x"},
        ],
        [SONG | {"gbifID": str(i)} for i in range(1, 5)],
    )
    assert records.sort("media_id")["individual"].to_list() == ["inat:123", "inat:124", "gbif:3", "gbif:4"]


@pytest.mark.parametrize(
    ("fields", "modality"),
    [
        ({"type": "Sound", "format": ""}, "audio"),
        ({"type": "http://purl.org/dc/dcmitype/Still Image", "format": ""}, "image"),
        ({"type": "", "format": "audio/x-wav"}, "audio"),
        ({"type": "", "format": "jpg"}, "image"),
        ({"type": "Sound", "format": "image/png"}, "image"),  # a sonogram beside its sound
        ({"type": "", "format": "", "identifier": "https://x.org/a/b.JPEG?size=1"}, "image"),
        ({"type": "MovingImage", "format": ""}, None),
        ({"type": "Sound", "format": "video/mp4"}, None),
        ({"type": "StillImage", "format": "text/html"}, None),
        ({"type": "", "format": "", "identifier": "https://x.org/download"}, None),
        ({"identifier": " "}, None),
    ],
)
def test_the_modality_is_what_format_type_or_name_say(
    tmp_path: Path, fields: dict[str, str], modality: str | None
) -> None:
    records, counts = read(tmp_path, [BLACKBIRD], [SONG | fields])
    assert records["modality"].to_list() == ([modality] if modality else [])
    assert sum(n for word, n in counts.items() if word not in ("occurrences", "media")) == (0 if modality else 1)


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    records, counts = read(
        tmp_path,
        [
            BLACKBIRD,
            BLACKBIRD,
            BLACKBIRD | {"gbifID": "12", "occurrenceStatus": "ABSENT"},
            BLACKBIRD
            | {"gbifID": "13", "basisOfRecord": "PRESERVED_SPECIMEN", "scientificName": "", "eventDate": "1999"},
            BLACKBIRD | {"gbifID": "14"},
            BLACKBIRD | {"gbifID": "15", "decimalLatitude": "1e9", "decimalLongitude": "east"},
        ],
        [SONG, SONG | {"gbifID": "99"}, *(SONG | {"gbifID": str(i)} for i in (12, 13, 15))],
    )
    assert records["individual"].to_list() == ["gbif:11", "gbif:13", "gbif:15"]
    assert records["latitude_deg"].to_list() == [52.5, 52.5, None]
    assert counts == {
        "occurrences": 6,
        "occurrences that occur again": 1,
        "occurrences without media": 1,
        "media": 5,
        "media without their occurrence": 1,
        "media of an absence": 1,
        "media of PRESERVED_SPECIMEN": 1,
        "media without a name": 1,
        "media without a day": 1,
        "media without a place on the map": 1,
    }


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ("2020-01-02", "2020-01-02T00:00:00"),
        ("1999-06-18T00:00", "1999-06-18T00:00:00"),
        ("2020-01-02T10:11:12.5Z", "2020-01-02T10:11:12.500000"),
        ("2018-09-05T14:06:00+02:00", "2018-09-05T12:06:00"),
        ("2018-09-05T14:06-0130", "2018-09-05T15:36:00"),
        ("2019-08-14 00:02:39 UTC", "2019-08-14T00:02:39"),
        ("2020-01-02/2020-02-03", "2020-01-02T00:00:00"),
        ("2020-01-02T03:04/05:06", "2020-01-02T03:04:00"),
        ("2020", None),
        ("2020-05/2020-06", None),
        ("2020-02-30", None),
        ("2020-01-01T25:00", None),
        ("2020-01-01T10:00:00+99:99", None),
        ("May 2020", None),
        ("", None),
        (None, None),
    ],
)
def test_an_event_starts_when_it_says_and_no_day_is_invented(given: str | None, start: str | None) -> None:
    when = instants(gbif.event_start(pl.Series([given], dtype=pl.String)), Path("made"))
    assert when.to_list() == [start and datetime.fromisoformat(start).replace(tzinfo=UTC)]


def test_the_page_is_that_of_the_medium_or_the_occurrence(tmp_path: Path) -> None:
    records, _ = read(
        tmp_path,
        [BLACKBIRD, BLACKBIRD | {"gbifID": "12", "references": "https://example.org/o"}],
        [
            SONG,
            SONG | {"references": "page 12", "identifier": "https://x.org/2.mp3"},
            SONG | {"references": "", "gbifID": "12"},
        ],
    )
    assert set(records["page_url"]) == {
        "https://example.org/1",
        "https://www.gbif.org/occurrence/11",
        "https://example.org/o",
    }


def test_ragged_rows_of_a_download_are_counted(tmp_path: Path) -> None:
    files = gbif_files([BLACKBIRD], [SONG])
    files["multimedia.txt"] = str(files["multimedia.txt"]) + "11\tSound\tone\ttab\n"
    reading = gbif.read(write_folder(tmp_path / "a", files))
    assert len(reading.records) == 1
    assert reading.counts[RAGGED] == 1


def test_a_download_without_a_multimedia_table_is_an_error_that_says_so(tmp_path: Path) -> None:
    files = gbif_files([BLACKBIRD], [])
    files["meta.xml"] = meta_xml(table_xml("core", DWC + "Occurrence", "occurrence.txt", list(BLACKBIRD)))
    with pytest.raises(DatasetError, match="has no multimedia table"):
        gbif.read(write_zip(tmp_path / "a.zip", files))
    files = gbif_files([BLACKBIRD], [SONG])
    del files["multimedia.txt"]
    with pytest.raises(DatasetError, match=r"has no 'multimedia\.txt'"):
        gbif.read(write_zip(tmp_path / "b.zip", files))


def test_a_download_without_a_needed_column_names_it(tmp_path: Path) -> None:
    names = [name for name in BLACKBIRD if name != "scientificName"]
    with pytest.raises(DatasetError, match="no column 'scientificName'"):
        gbif.read(write_zip(tmp_path / "a.zip", gbif_files([BLACKBIRD], [SONG], names=names)))
    taxa = meta_xml(
        table_xml("core", DWC + "Taxon", "occurrence.txt", list(BLACKBIRD)),
        table_xml("extension", gbif.MULTIMEDIA, "multimedia.txt", list(SONG)),
    )
    with pytest.raises(DatasetError, match="Taxon"):
        gbif.read(write_zip(tmp_path / "b.zip", gbif_files([BLACKBIRD], [SONG]) | {"meta.xml": taxa}))


def test_an_archive_with_audubon_core_is_read(tmp_path: Path) -> None:
    ac, xmp = "http://rs.tdwg.org/ac/terms/", "http://ns.adobe.com/xap/1.0/rights/"
    names = ["id", DC + "type", ac + "accessURI", ac + "variant", xmp + "WebStatement", DC + "rights", xmp + "Owner"]
    rows = [
        [
            "o1",
            "Sound",
            "https://x.org/1.wav",
            "ac:BestQuality",
            "https://creativecommons.org/licenses/by/4.0/",
            "c",
            "N",
        ],
        ["o1", "StillImage", "https://x.org/1.jpg", "ac:Thumbnail", "", "", ""],
    ]
    core = ["id", "occurrenceID", "scientificName"]
    files = {
        "meta.xml": meta_xml(
            table_xml("core", DWC + "Occurrence", "o.txt", core), table_xml("extension", AUDUBON, "m.txt", names)
        ),
        "o.txt": tsv(core, [{"id": "o1", "occurrenceID": "urn:o1", "scientificName": "Pica pica"}]),
        "m.txt": tsv(names, [dict(zip(names, row, strict=True)) for row in rows]),
    }
    reading = gbif.read(write_zip(tmp_path / "a.zip", files))
    record = reading.records.row(0, named=True)
    assert reading.counts["media of lower quality"] == 1
    assert (record["source"], record["individual"], record["licence"], record["rights_holder"], record["page_url"]) == (
        "dwca", "dwca:o1", "CC-BY-4.0", "N", None,
    )  # fmt: skip


def occurrence(**fields: Any) -> dict[str, Any]:
    """Make an occurrence as the API gives it."""
    return {
        **{name: value for name, value in BLACKBIRD.items() if name != "gbifID"},
        "key": 11,
        "decimalLatitude": 52.5,
        "decimalLongitude": 13.4,
        "media": [{name: value for name, value in SONG.items() if name != "gbifID"}],
        **fields,
    }


def page(results: list[Any], *, end: bool = True, count: int = 1) -> dict[str, Any]:
    return {"offset": 0, "limit": 300, "endOfRecords": end, "count": count, "results": results}


def test_pages_of_the_api_give_the_records_of_a_download(tmp_path: Path) -> None:
    download, _ = read(tmp_path, [BLACKBIRD], [SONG])
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "page_00001.json").write_text(json.dumps(page([occurrence()], end=False)))
    (tmp_path / "pages" / "page_00002.json").write_text(json.dumps(page([occurrence(), occurrence(key=12, media=[])])))
    (tmp_path / "pages" / "page_00003.json").write_text(json.dumps(page([])))
    reading = gbif.read(tmp_path / "pages")
    assert reading.records.equals(download)
    assert reading.counts["pages"] == 3
    assert reading.counts["occurrences that occur again"] == 1
    assert reading.counts["occurrences without media"] == 1
    (tmp_path / "one.json").write_text(json.dumps(occurrence()))
    assert gbif.read(tmp_path / "one.json").records.equals(download)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"statusCode": 503, "message": "busy"}', "no list 'results'"),
        ("[]", "no list 'results'"),
        ("null", "no list 'results'"),
        ('{"results": {"a": 1}}', "no list 'results'"),
        ('{"results": [1]}', "no list 'results'"),
        ('{"results": [{"identifier": "x"}]}', "no 'key'"),
        (json.dumps(page([occurrence(media=None)])), "no list 'media'"),
        (json.dumps(page([occurrence(media=["x"])])), "no list 'media'"),
        ('{"results": [', "not valid JSON"),
        ("<html>", "not valid JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_an_answer_that_is_no_page_is_named(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "page_00001.json").write_text(content)
    with pytest.raises(BiovitaError, match=r"page_00001\.json") as caught:
        gbif.read(tmp_path)
    assert word in str(caught.value)


def test_odd_values_in_an_answer_harm_only_themselves(tmp_path: Path) -> None:
    odd = occurrence(
        recordedBy=["a", "b"], scientificName="\ud800 pica", decimalLatitude="x", eventDate={"a": 1}, sex=5
    )
    (tmp_path / "page_00001.json").write_text(json.dumps(page([odd])))
    record = gbif.read(tmp_path).records.row(0, named=True)
    assert (record["scientific_name"], record["latitude_deg"], record["recorded_at"]) == ("? pica", None, None)


def test_what_is_neither_archive_nor_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no saved page"):
        gbif.read(tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(DatasetError, match="neither a Darwin Core archive"):
        gbif.read(tmp_path / "a.csv")


class FakeDoor:
    """Answers the search for `n` occurrences, and keeps the offsets that were asked for."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[dict[str, list[str]]] = []

    def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
        assert params is None
        assert url.startswith(gbif.SEARCH + "?")
        self.asked.append(parse_qs(urlsplit(url).query))
        offset, limit = (int(self.asked[-1][name][0]) for name in ("offset", "limit"))
        found = [occurrence(key=key) for key in range(self.n)][offset : offset + limit]
        return json.dumps(page(found, end=offset + limit >= self.n, count=self.n)).encode()


def test_pages_are_fetched_until_the_last_and_never_twice(tmp_path: Path) -> None:
    door = FakeDoor(700)
    pages = gbif.fetch(door, "taxonKey=212&country=DE", tmp_path)
    assert [path.name for path in pages] == ["page_00001.json", "page_00002.json", "page_00003.json"]
    assert [asked["offset"] for asked in door.asked] == [["0"], ["300"], ["600"]]
    assert door.asked[0]["mediaType"] == ["Sound", "StillImage"]
    assert len(gbif.read(tmp_path).records) == 700
    pages[1].unlink()
    assert gbif.fetch(door, "taxonKey=212&country=DE", tmp_path) == pages
    assert [asked["offset"] for asked in door.asked[3:]] == [["300"]]
    with pytest.raises(DatasetError, match="another query"):
        gbif.fetch(door, "taxonKey=213", tmp_path)


def test_more_than_the_search_can_give_is_refused_with_the_way_out(tmp_path: Path) -> None:
    door = FakeDoor(100_001)
    with pytest.raises(DatasetError, match="ask for a download"):
        gbif.fetch(door, "taxonKey=1", tmp_path)
    assert len(door.asked) == 1


@pytest.mark.parametrize("query", ["Turdus merula", "limit=5&taxonKey=1", "taxonKey=1&offset=5"])
def test_a_query_that_paging_cannot_use_is_refused(tmp_path: Path, query: str) -> None:
    with pytest.raises(ConfigError, match="query"):
        gbif.fetch(FakeDoor(1), query, tmp_path)


@pytest.mark.parametrize("body", [b"<html>", b'{"message": "no"}', b"[" * 100_000, b'{"results": ["x"]}', b"\xff"])
def test_an_answer_that_is_no_page_is_not_kept(tmp_path: Path, body: bytes) -> None:
    class Broken(FakeDoor):
        def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
            return body

    with pytest.raises(FetchError, match="no page of results"):
        gbif.fetch(Broken(1), "taxonKey=1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["request.json"]


def test_an_empty_page_that_is_not_the_last_ends_the_fetch(tmp_path: Path) -> None:
    class Endless(FakeDoor):
        def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
            return json.dumps(page([], end=False)).encode()

    with pytest.raises(FetchError, match="empty page"):
        gbif.fetch(Endless(1), "taxonKey=1", tmp_path)


def recorded(name: str) -> list[Any]:
    """Take the bodies out of a recorded session."""
    cassette = yaml.safe_load((RESPONSES / "gbif_api" / name).read_text())
    sessions = cassette.get("interactions") or cassette["http_interactions"]
    return [json.loads(session["response"]["body"]["string"]) for session in sessions]


@needs_responses
@pytest.mark.parametrize(
    ("name", "n", "licences"),
    [
        ("test_search.yaml", 487, {"CC-BY-4.0": 462, "unknown": 15, "CC-BY-NC-4.0": 10}),
        ("test_search_recorded_by_id.yaml", 5, {"unknown": 5}),
        ("test_get.yaml", 0, {}),
    ],
)
def test_recorded_answers_are_read(tmp_path: Path, name: str, n: int, licences: dict[str, int]) -> None:
    for i, body in enumerate(recorded(name)):
        (tmp_path / f"page_{i}.json").write_text(json.dumps(body))
    reading = gbif.read(tmp_path)
    assert len(reading.records) == n
    assert dict(reading.records["licence"].value_counts().iter_rows()) == licences
    assert reading.counts["media without a known licence"] == licences.get("unknown", 0)
    assert reading.records["url"].str.starts_with("https://").all()
    assert reading.records["scientific_name"].null_count() == reading.records["recorded_at"].null_count() == 0
    assert set(reading.records["given_kingdom"]) <= {"Fungi"}


@needs_responses
@pytest.mark.parametrize("name", ["test_get_fragment.yaml", "test_name_usage.yaml", "rgbif_name_usage_data_media.yml"])
def test_recorded_answers_about_something_else_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "page_1.json").write_text(json.dumps(recorded(name)[0]))
    with pytest.raises(DatasetError, match=r"page_1\.json: .*no (list 'results'|list 'media'|'key')"):
        gbif.read(tmp_path)


@needs_responses
def test_a_download_in_the_layout_of_2025_is_read(tmp_path: Path) -> None:
    """The descriptor is real; the rows are made in exactly its layout."""
    descriptor = (RESPONSES / "gbif_dwca_2025" / "meta.xml").read_text()
    place = {"gbifID": 0, "occurrenceID": 21, "catalogNumber": 22, "occurrenceStatus": 39, "basisOfRecord": 17,
             "eventDate": 62, "decimalLatitude": 97, "decimalLongitude": 98, "scientificName": 148, "kingdom": 156,
             "class": 158, "datasetKey": 179, "license": 4}  # fmt: skip
    row = [""] * 223
    for name, index in place.items():
        row[index] = BLACKBIRD.get(name, "")
    media = ["11", "Sound", "audio/mpeg", "https://x.org/1.mp3", *[""] * 6, "C. Farad", "", "", "CC0", ""]
    files = {
        "meta.xml": descriptor,
        "occurrence.txt": "\t".join(["h"] * 223) + "\n" + "\t".join(row) + "\n",
        "verbatim.txt": "\t".join(["h"] * 195) + "\n",
        "multimedia.txt": "\t".join(["h"] * 15) + "\n" + "\t".join(media) + "\n",
    }
    record = gbif.read(write_zip(tmp_path / "a.zip", files)).records.row(0, named=True)
    wanted = ("licence", "rights_holder", "scientific_name", "latitude_deg", "longitude_deg", "given_class")
    assert [record[name] for name in wanted] == ["CC0-1.0", "C. Farad", BLACKBIRD["scientificName"], 52.5, 13.4, "Aves"]


@needs_responses
def test_a_real_archive_without_media_is_an_error_that_says_so() -> None:
    with pytest.raises(DatasetError, match="has no multimedia table"):
        gbif.read(RESPONSES / "dwca" / "gbif-results.zip")
