"""iNaturalist: open-data tables, answers of the API and exports give records that agree with each other."""

import gzip
import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
from archives import gbif_files, write_zip

from biovita.errors import BiovitaError, ConfigError, DatasetError, FetchError
from biovita.sources import inaturalist
from biovita.sources.record import RECORDS_SCHEMA

RESPONSES = Path(__file__).parents[3] / "shared" / "data" / "responses"
needs_responses = pytest.mark.skipif(not RESPONSES.is_dir(), reason="shared/data/responses is not beside this checkout")

TABLES = {
    "observations": """
observation_uuid observer_id latitude longitude positional_accuracy taxon_id quality_grade observed_on
u1 7 41.5 -93.7 10 4 research 2019-08-13
u2 8 - - - 5 needs_id -
u3 8 95 0 - 6 casual 2020-01-01
u4 7 1 2 - 4 research 2020-01-02
u5 7 1 2 - 99 research 2020-01-02
u6 7 1 2 - 3 research 2020-01-02
""",
    "photos": """
photo_uuid photo_id observation_uuid observer_id extension license width height position
p1 11 u1 7 jpg CC-BY 10 10 0
p2 12 u1 7 JPG CC-BY-NC-SA 10 10 1
p3 13 u2 8 jpeg CC0 10 10 0
p4 14 u3 8 png - 10 10 0
p5 15 gone 8 png CC0 10 10 0
p6 16 u2 8 - CC0 10 10 1
p7 17 u5 7 jpg CC0 10 10 1
p8 18 u6 7 jpg CC0 10 10 1
""",
    "taxa": """
taxon_id ancestry rank_level rank name active
1 - 70 kingdom Animalia true
2 1 50 class Aves true
3 1/2 20 genus Turdus true
4 1/2/3 10 species Turdus~merula true
5 1/2/3/4 5 subspecies Turdus~merula~merula false
6 1 10 species Pica~pica true
""",
    "observers": """
observer_id login name
7 "quote None
8 eve Eve~"the~eye"~O'Neil
9 nobody Nobody
""",
}


def write_tables(folder: Path, *, zipped: bool = False, **changed: str) -> Path:
    """Write the open-data tables: a blank stands for a tab, `~` for a blank, `-` for an empty field."""
    folder.mkdir(exist_ok=True)
    for name, text in (TABLES | changed).items():
        rows = [["" if field == "-" else field for field in line.split(" ")] for line in text.strip("\n").split("\n")]
        content = "".join("\t".join(row).replace("~", " ") + "\n" for row in rows).encode()
        path = folder / f"{name}.csv{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


def by_id(records: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["media_id"]: row for row in records.iter_rows(named=True)}


@pytest.mark.parametrize("zipped", [False, True])
def test_open_data_tables_become_records(tmp_path: Path, zipped: bool) -> None:
    reading = inaturalist.read(write_tables(tmp_path, zipped=zipped))
    assert reading.records.schema == pl.Schema(RECORDS_SCHEMA)
    records = by_id(reading.records)
    assert sorted(records) == [f"inat:photo:{i}" for i in (11, 12, 13, 14, 18)]
    assert {name: value for name, value in records["inat:photo:11"].items() if value is not None} == {
        "media_id": "inat:photo:11",
        "modality": "image",
        "source": "inat",
        "url": "https://inaturalist-open-data.s3.amazonaws.com/photos/11/original.jpg",
        "page_url": "https://www.inaturalist.org/observations/u1",
        "scientific_name": "Turdus merula",
        "licence": "LicenseRef-CC-BY",
        "rights_holder": '"quote',
        "recorded_at": datetime(2019, 8, 13, tzinfo=UTC),
        "latitude_deg": 41.5,
        "longitude_deg": -93.7,
        "quality": "research",
        "individual": "inat:u1",
        "given_kingdom": "Animalia",
        "given_class": "Aves",
        "given_genus": "Turdus",
    }
    assert records["inat:photo:12"]["url"].endswith("/photos/12/original.JPG")
    assert records["inat:photo:12"]["individual"] == "inat:u1"
    assert records["inat:photo:13"]["remarks"] == "inactive name"
    assert records["inat:photo:13"]["rights_holder"] == 'Eve "the eye" O\'Neil'
    assert records["inat:photo:14"]["licence"] == "unknown"
    assert records["inat:photo:18"]["given_genus"] == "Turdus"
    assert reading.counts == {
        "taxa": 6,
        "observations": 6,
        "photos": 8,
        "observers": 3,
        "observations of a taxon that is not in the tables": 1,
        "observations without photos": 1,
        "photos of other observations": 2,
        "photos without a file": 1,
        "media": 5,
        "media under inactive names": 1,
        "media without a known licence": 1,
        "media without a day": 1,
        "media without a place on the map": 2,
    }


def test_taxa_are_chosen_with_all_that_is_below_them(tmp_path: Path) -> None:
    folder = write_tables(tmp_path)
    chosen = inaturalist.read(folder, taxa=["Turdus merula", "Nessiteras"], quality_grades=["research", "needs_id"])
    assert sorted(by_id(chosen.records)) == [f"inat:photo:{i}" for i in (11, 12, 13)]
    assert chosen.counts["names asked for that are unknown"] == 1
    assert chosen.counts["observations not asked for"] == 3
    assert sorted(by_id(inaturalist.read(folder, taxa=["Aves"]).records)) == [
        f"inat:photo:{i}" for i in (11, 12, 13, 18)
    ]
    assert sorted(by_id(inaturalist.read(folder, quality_grades=["casual"]).records)) == ["inat:photo:14"]
    with pytest.raises(DatasetError, match="none of the 1 name"):
        inaturalist.read(folder, taxa=["Nessiteras"])


def test_choosing_equals_a_plain_loop(tmp_path: Path) -> None:
    draw = random.Random(3)
    parent = {i: draw.randrange(i) if i else None for i in range(60)}

    def ancestry(i: int) -> list[int]:
        return [] if parent[i] is None else [*ancestry(parent[i]), parent[i]]

    of = {i: draw.randrange(60) for i in range(300)}
    taxa = "taxon_id ancestry rank_level rank name active\n" + "\n".join(
        f"{i} {'/'.join(map(str, ancestry(i))) or '-'} 10 species T{i} true" for i in range(60)
    )
    observations = (
        TABLES["observations"].strip("\n").split("\n")[0]
        + "\n"
        + "\n".join(f"u{i} 7 1 2 - {taxon} research 2020-01-02" for i, taxon in of.items())
    )
    photos = TABLES["photos"].strip("\n").split("\n")[0] + "\n" + "\n".join(f"p {i} u{i} 7 jpg CC0 1 1 0" for i in of)
    folder = write_tables(tmp_path, taxa=taxa, observations=observations, photos=photos)
    wanted = {7, 11, 30}
    expected = {f"inat:photo:{i}" for i, taxon in of.items() if wanted & {taxon, *ancestry(taxon)}}
    assert expected
    assert set(by_id(inaturalist.read(folder, taxa=[f"T{i}" for i in wanted]).records)) == expected


def test_a_photo_of_several_observations_is_one_record_unless_they_differ(tmp_path: Path) -> None:
    more = "p9 11 u4 7 jpg CC-BY 10 10 0\np9 12 u3 7 JPG CC-BY 10 10 0\np9 13 u2 8 jpeg CC0 10 10 0\n"
    reading = inaturalist.read(write_tables(tmp_path, photos=TABLES["photos"] + more))
    records = by_id(reading.records)
    assert records["inat:photo:11"]["individual"] == "inat:u1"
    assert "inat:photo:12" not in records
    assert reading.counts["media in several observations"] == 1
    assert reading.counts["media under several names"] == 2
    assert reading.counts["media that occur again"] == 1


def test_a_table_that_is_missing_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "a")
    (folder / "taxa.csv").unlink()
    with pytest.raises(DatasetError, match=r"no taxa\.csv"):
        inaturalist.read(folder)
    changed = TABLES["photos"].replace("license", "licence")
    with pytest.raises(DatasetError, match=r"photos\.csv: no column 'license'; is 'licence' meant"):
        inaturalist.read(write_tables(tmp_path / "b", photos=changed))
    folder = write_tables(tmp_path / "c")
    write_tables(folder, zipped=True)
    with pytest.raises(DatasetError, match="has both"):
        inaturalist.read(folder)


def test_a_table_that_is_cut_or_empty_is_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "a", zipped=True)
    content = (folder / "photos.csv.gz").read_bytes()
    (folder / "photos.csv.gz").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DatasetError, match=r"photos\.csv\.gz: "):
        inaturalist.read(folder)
    folder = write_tables(tmp_path / "c")
    (folder / "observers.csv").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"observers\.csv: no line of column names"):
        inaturalist.read(folder)


def test_a_ragged_row_is_counted_and_shifts_nothing(tmp_path: Path) -> None:
    more = "p9 19 u1 7 jpg\np9 20 u1 7  jpg CC-BY 10 10 0\np9 21 u1 7 jpg CC-BY 10 10 0\n"
    reading = inaturalist.read(write_tables(tmp_path, photos=TABLES["photos"] + more))
    assert reading.counts["rows with another number of fields in photos"] == 2
    assert {"inat:photo:21"} == set(reading.records["media_id"]) - {f"inat:photo:{i}" for i in (11, 12, 13, 14, 18)}


def photo(number: int = 21, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "license_code": "cc-by-nc",
        "url": f"https://inaturalist-open-data.s3.amazonaws.com/photos/{number}/square.jpg?1565748927",
        "attribution": "(c) Eve O'Neil, some rights reserved (CC BY-NC)",
        "flags": [],
        "hidden": False,
    } | fields


def sound(number: int = 31, **fields: Any) -> dict[str, Any]:
    url = f"https://static.inaturalist.org/sounds/{number}.m4a?1624793769"
    return {"id": number, "license_code": "cc0", "file_url": url, "attribution": "no rights reserved"} | fields


def observation(number: int = 5, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "uuid": f"u{number}",
        "quality_grade": "research",
        "time_observed_at": "2019-08-13T19:02:39-05:00",
        "observed_on": "2019-08-13",
        "location": "41.5,-93.7",
        "captive": False,
        "obscured": False,
        "uri": f"https://www.inaturalist.org/observations/{number}",
        "user": {"login": "eve", "name": ""},
        "taxon": {
            "id": 4,
            "rank": "species",
            "name": "Turdus merula",
            "ancestor_ids": [48460, 1, 2, 3, 4],
            "preferred_common_name": "Blackbird",
            "iconic_taxon_name": "Aves",
        },
        "identifications": [
            {
                "taxon": {
                    "id": 3,
                    "rank": "genus",
                    "name": "Turdus",
                    "ancestors": [{"id": 1, "rank": "kingdom", "name": "Animalia"}],
                }
            }
        ],
        "photos": [photo()],
        "sounds": [sound()],
    } | fields


def write_page(folder: Path, *results: Any, name: str = "page_00001.json") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"total_results": len(results), "page": 1, "results": list(results)}))
    return folder


def test_answers_of_the_api_become_records(tmp_path: Path) -> None:
    reading = inaturalist.read(write_page(tmp_path, observation()))
    records = by_id(reading.records)
    shared = {
        "source": "inat",
        "page_url": "https://www.inaturalist.org/observations/5",
        "scientific_name": "Turdus merula",
        "recorded_at": datetime(2019, 8, 14, 0, 2, 39, tzinfo=UTC),
        "latitude_deg": 41.5,
        "longitude_deg": -93.7,
        "quality": "research",
        "individual": "inat:5",
        "given_individual": "inat:u5",
        "remarks": "observation uuid: u5",
        "given_common_name": "Blackbird",
        "given_kingdom": "Animalia",
        "given_class": "Aves",
        "given_genus": "Turdus",
    }
    assert {name: value for name, value in records["inat:photo:21"].items() if value is not None} == shared | {
        "media_id": "inat:photo:21",
        "modality": "image",
        "url": "https://inaturalist-open-data.s3.amazonaws.com/photos/21/original.jpg",
        "licence": "LicenseRef-CC-BY-NC",
        "rights_holder": "Eve O'Neil",
    }
    assert {name: value for name, value in records["inat:sound:31"].items() if value is not None} == shared | {
        "media_id": "inat:sound:31",
        "modality": "audio",
        "url": "https://static.inaturalist.org/sounds/31.m4a?1624793769",
        "licence": "CC0-1.0",
        "rights_holder": "eve",
    }
    assert reading.counts == {"pages": 1, "observations": 1, "media": 2}


def test_a_photo_has_one_id_and_one_url_in_every_form(tmp_path: Path) -> None:
    api = inaturalist.read(write_page(tmp_path / "api", observation(photos=[photo(11)]))).records
    open_data = inaturalist.read(write_tables(tmp_path / "open")).records
    export = inaturalist.read(write_export(tmp_path / "export.csv", image_url=photo(11)["url"])).records
    for name in ("media_id", "url"):
        values = [set(table.filter(pl.col("media_id") == "inat:photo:11")[name]) for table in (api, open_data, export)]
        assert values[0] == values[1] == values[2]
        assert len(values[0]) == 1


def test_media_of_one_observation_share_an_individual_with_gbif(tmp_path: Path) -> None:
    from biovita.sources import gbif

    occurrence = {"gbifID": "9", "scientificName": "x", "occurrenceID": observation()["uri"]}
    medium = {"gbifID": "9", "type": "Sound", "identifier": sound()["file_url"]}
    theirs = gbif.read(write_zip(tmp_path / "a.zip", gbif_files([occurrence], [medium]))).records
    ours = inaturalist.read(write_page(tmp_path / "api", observation())).records
    assert set(theirs["individual"]) == set(ours["individual"]) == {"inat:5"}


def test_what_is_hidden_flagged_or_nameless_is_counted(tmp_path: Path) -> None:
    flag = {"flag": "copyright infringement", "resolved": False}
    reading = inaturalist.read(
        write_page(
            tmp_path,
            observation(
                1, photos=[photo(1, hidden=True), photo(2, flags=[flag]), photo(3, flags=[flag | {"resolved": True}])]
            ),
            observation(2, taxon=None),
            observation(3, spam=True),
            observation(4, photos=[], sounds=[]),
            observation(5, flags=[flag], sounds=[]),
            observation(6, photos=[], sounds=[sound(6, file_url=None), sound(7, license_code=None)], captive=True),
            observation(7, photos=[], sounds=[sound(8)], obscured=True, location=None, time_observed_at=None),
        )
    )
    assert sorted(by_id(reading.records)) == ["inat:photo:3", "inat:sound:31", "inat:sound:7", "inat:sound:8"]
    assert reading.counts == {
        "pages": 1,
        "observations": 7,
        "observations without a taxon": 1,
        "observations without media": 1,
        "observations that are flagged": 2,
        "media": 5,
        "media that are hidden or flagged": 2,
        "media without a URL": 1,
        "media without a known licence": 1,
        "media of captive animals": 1,
        "media with obscured coordinates": 1,
        "media without a place on the map": 1,
    }
    records = by_id(reading.records)
    assert records["inat:sound:7"]["remarks"] == "captive; observation uuid: u6"
    assert records["inat:sound:8"]["remarks"] == "coordinates obscured; observation uuid: u7"
    assert records["inat:sound:8"]["recorded_at"] == datetime(2019, 8, 13, tzinfo=UTC)


def test_an_observation_on_two_pages_is_one(tmp_path: Path) -> None:
    write_page(tmp_path, observation())
    write_page(tmp_path, observation(), name="page_00002.json")
    write_page(tmp_path, name="page_00003.json")
    reading = inaturalist.read(tmp_path)
    assert len(reading.records) == 2
    assert reading.counts["media that occur again"] == 2


def test_fields_that_api_v2_was_not_asked_for_are_named(tmp_path: Path) -> None:
    def without(*names: str) -> dict[str, Any]:
        return {name: value for name, value in observation().items() if name not in names}

    assert len(inaturalist.read(write_page(tmp_path, without("sounds", "user", "identifications"))).records) == 1
    bare = {name: value for name, value in photo().items() if name != "license_code"}
    for made, word in [
        ({"uuid": "u"}, "without 'id'"),
        (without("taxon"), "no 'taxon'"),
        (without("photos", "sounds"), "no list 'photos'"),
        (observation(photos="x"), "no list 'photos'"),
        (observation(photos=[bare]), "without 'id' or 'license_code'"),
    ]:
        with pytest.raises(DatasetError, match=r"page_00001\.json") as caught:
            inaturalist.read(write_page(tmp_path, made))
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ['{"error": "Too Many Requests", "status": 429}', "[]", "<html>", '{"results": [5]}', '{"results": [{"id":'],
)
def test_an_answer_that_is_no_page_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "page_00001.json").write_text(content)
    with pytest.raises(BiovitaError, match=r"page_00001\.json"):
        inaturalist.read(tmp_path)


def test_odd_values_in_an_answer_harm_only_themselves(tmp_path: Path) -> None:
    odd = observation(
        user=[],
        location=[1],
        quality_grade={"a": 1},
        time_observed_at="yesterday",
        identifications=["x", {"taxon": "y"}],
    )
    record = inaturalist.read(write_page(tmp_path, odd)).records.row(1, named=True)
    assert (record["rights_holder"], record["latitude_deg"], record["quality"], record["recorded_at"]) == (None,) * 4


def write_export(path: Path, **fields: str) -> Path:
    row = {
        "id": "5",
        "observed_on": "2019-08-13",
        "time_observed_at": "2019-08-14 00:02:39 UTC",
        "user_login": "eve",
        "quality_grade": "research",
        "license": "CC-BY",
        "url": "https://www.inaturalist.org/observations/5",
        "image_url": "",
        "sound_url": "https://static.inaturalist.org/sounds/31.m4a?1624793769",
        "description": 'says "tsook",\nloudly',
        "captive_cultivated": "true",
        "latitude": "41.5",
        "longitude": "-93.7",
        "coordinates_obscured": "true",
        "scientific_name": "Turdus merula",
        "common_name": "Blackbird",
        "iconic_taxon_name": "Aves",
    } | fields
    pl.DataFrame([row]).write_csv(path, quote_style="always")
    return path


def test_an_export_becomes_records_of_unknown_licence(tmp_path: Path) -> None:
    """The licence that it has is that of the observation."""
    reading = inaturalist.read(write_export(tmp_path / "observations.csv"))
    record = reading.records.row(0, named=True)
    assert {name: value for name, value in record.items() if value is not None} == {
        "media_id": "inat:sound:31",
        "modality": "audio",
        "source": "inat",
        "url": "https://static.inaturalist.org/sounds/31.m4a?1624793769",
        "page_url": "https://www.inaturalist.org/observations/5",
        "scientific_name": "Turdus merula",
        "licence": "unknown",
        "rights_holder": "eve",
        "recorded_at": datetime(2019, 8, 14, 0, 2, 39, tzinfo=UTC),
        "latitude_deg": 41.5,
        "longitude_deg": -93.7,
        "quality": "research",
        "individual": "inat:5",
        "remarks": 'captive; coordinates obscured; says "tsook", loudly',
        "given_common_name": "Blackbird",
        "given_class": "Aves",
    }
    assert reading.counts["media without a known licence"] == 1


def test_an_export_without_media_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,occurrenceID,scientificName\n1,x,Pica pica\n")
    with pytest.raises(DatasetError, match="without their media"):
        inaturalist.read(path)
    path.write_text("id,scientific_name\n1,Pica pica\n")
    with pytest.raises(DatasetError, match="no column 'image_url'"):
        inaturalist.read(path)
    with pytest.raises(DatasetError, match="no URL of a photo or sound"):
        inaturalist.read(write_export(path, image_url="https://example.org/1.jpg"))


def test_what_is_of_another_kind_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no saved page"):
        inaturalist.read(tmp_path)
    with pytest.raises(DatasetError, match="no open-data tables"):
        inaturalist.read(tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="read it as source 'gbif'"):
        inaturalist.read(write_zip(tmp_path / "a.zip", gbif_files([{"gbifID": "1"}], [])))
    with pytest.raises(ConfigError, match="open-data tables alone"):
        inaturalist.read(write_export(tmp_path / "a.csv"), taxa=["Aves"])


class FakeDoor:
    """Answers for observations 1 to `n`, by number."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[dict[str, list[str]]] = []

    def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
        assert params is None
        assert url.startswith(inaturalist.API + "?")
        asked = parse_qs(urlsplit(url).query)
        self.asked.append(asked)
        above, per_page = int(asked["id_above"][0]), int(asked["per_page"][0])
        found = range(above + 1, min(self.n, above + per_page) + 1)
        return json.dumps({"results": [observation(i, photos=[], sounds=[sound(i)]) for i in found]}).encode()


def test_pages_are_fetched_by_number_and_never_twice(tmp_path: Path) -> None:
    door = FakeDoor(450)
    pages = inaturalist.fetch(door, "taxon_id=3&sounds=true", tmp_path)
    assert [asked["id_above"] for asked in door.asked] == [["0"], ["200"], ["400"]]
    assert {(*asked["order_by"], *asked["order"], *asked["sounds"]) for asked in door.asked} == {("id", "asc", "true")}
    assert len(inaturalist.read(tmp_path).records) == 450
    pages[-1].unlink()
    assert inaturalist.fetch(door, "taxon_id=3&sounds=true", tmp_path) == pages
    assert [asked["id_above"] for asked in door.asked[3:]] == [["400"]]
    with pytest.raises(DatasetError, match="another query"):
        inaturalist.fetch(door, "taxon_id=4&sounds=true", tmp_path)


def test_a_full_last_page_is_followed_by_an_empty_one(tmp_path: Path) -> None:
    assert len(inaturalist.fetch(FakeDoor(200), "sounds=true", tmp_path)) == 2
    assert len(inaturalist.read(tmp_path).records) == 200


def test_an_api_that_ignores_the_paging_is_noticed(tmp_path: Path) -> None:
    class Stuck(FakeDoor):
        def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
            return super().get(url.replace("id_above=200", "id_above=0"))

    with pytest.raises(FetchError, match="not above 200"):
        inaturalist.fetch(Stuck(450), "photos=true", tmp_path)


@pytest.mark.parametrize("query", ["", "birds", "taxon_id=3", "sounds=true&page=4", "sounds=true&per_page=5"])
def test_a_query_that_cannot_be_paged_or_has_no_media_is_refused(tmp_path: Path, query: str) -> None:
    with pytest.raises(ConfigError, match="query"):
        inaturalist.fetch(FakeDoor(1), query, tmp_path)


@needs_responses
@pytest.mark.parametrize(
    ("name", "photos", "sounds"),
    [
        ("v1_get_observation_with_sounds.json", 2, 1),
        ("v1_get_observations_by_id.json", 2, 0),
        ("v1_get_observations_page1.json", 1, 0),
        ("v2_get_observations_by_id_full.json", 2, 0),
    ],
)
def test_recorded_answers_are_read(name: str, photos: int, sounds: int) -> None:
    path = RESPONSES / "inat_api" / name
    records = inaturalist.read(path).records
    told = json.loads(path.read_text())["results"][0]
    assert sorted(records["media_id"]) == sorted(
        [f"inat:photo:{item['id']}" for item in told["photos"]]
        + [f"inat:sound:{item['id']}" for item in told["sounds"]]
    )
    assert len(records) == photos + sounds
    assert set(records["individual"]) == {f"inat:{told['id']}"}
    assert not set(records["licence"]) & {"unknown"}
    assert (
        records.select("rights_holder", "recorded_at", "latitude_deg", "given_class").null_count().sum_horizontal()[0]
        == 0
    )


@needs_responses
def test_one_observation_is_the_same_in_both_versions_of_the_api() -> None:
    versions = [
        inaturalist.read(RESPONSES / "inat_api" / name).records.sort("media_id")
        for name in ("v1_get_observations_by_id.json", "v2_get_observations_by_id_full.json")
    ]
    assert versions[0].equals(versions[1])
    assert versions[0].select("given_order", "given_family").row(0) == ("Coleoptera", "Curculionidae")


@needs_responses
def test_recorded_answers_about_taxa_are_refused() -> None:
    with pytest.raises(DatasetError, match="no 'taxon'"):
        inaturalist.read(RESPONSES / "inat_api" / "v1_get_taxa.json")


@needs_responses
def test_the_real_exports_are_read_or_refused() -> None:
    reading = inaturalist.read(RESPONSES / "inat_export" / "observations_export.csv")
    assert len(reading.records) == 47
    assert reading.records["url"].str.contains(r"^https://[a-z0-9.-]+/photos/\d+/original\.\w+$").all()
    assert reading.counts["media with obscured coordinates"] == 1
    with pytest.raises(DatasetError, match="without their media"):
        inaturalist.read(RESPONSES / "inat_export" / "observations_dwca.csv")


@needs_responses
def test_the_real_open_data_is_read(tmp_path: Path) -> None:
    """The tables were cut apart, so the taxa of the observations are missing; they are made up here."""
    source = RESPONSES / "inat_open_data"
    reading = inaturalist.read(source)
    assert reading.counts["observations of a taxon that is not in the tables"] == 48
    assert reading.counts["rows with another number of fields in observations"] == 2
    for name in ("observations", "photos", "observers", "taxa"):
        (tmp_path / f"{name}.csv").write_bytes((source / f"{name}.csv").read_bytes())
    lines = [line.split("\t") for line in (source / "observations.csv").read_text().splitlines()[1:]]
    regular = [line for line in lines if len(line) == 8]  # of two rows, the grade is followed by one tab too many
    with (tmp_path / "taxa.csv").open("a") as file:
        file.writelines(
            f"{taxon}\t48460/1\t10\tspecies\tMade {taxon}\ttrue\n" for taxon in {line[5] for line in regular}
        )
    photos = pl.read_csv(source / "photos.csv", separator="\t", infer_schema=False)
    reading = inaturalist.read(tmp_path)
    named = photos.filter(pl.col("observation_uuid").is_in([line[0] for line in regular if line[5]]))
    assert len(named) > 20
    assert sorted(reading.records["media_id"]) == sorted(f"inat:photo:{i}" for i in named["photo_id"])
    assert set(reading.records["licence"]) <= {"LicenseRef-CC-BY", "LicenseRef-CC-BY-NC-SA", "LicenseRef-CC-BY-SA"}
    assert "Don Loarie" in set(reading.records["rights_holder"])
