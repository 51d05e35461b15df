"""Xeno-canto: pages are saved once and without the key, and recordings become records that lose nothing."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from biovita.errors import ConfigError, DatasetError, FetchError
from biovita.sources import xeno_canto
from biovita.sources.record import RECORDS_SCHEMA

KEY = "5ecret0key"
RESPONSE = Path(__file__).parents[3] / "shared" / "data" / "responses" / "xeno_canto" / "xc_v3_turdus_merula.ts"


def recording(number: int, **other: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "gen": "Turdus",
        "sp": "merula",
        "ssp": "",
        "grp": "birds",
        "en": "Common Blackbird",
        "rec": "Ann Lee",
        "cnt": "Spain",
        "loc": "Sayago",
        "lat": "41.3048",
        "lon": "-5.8787",
        "type": "call, song",
        "sex": "male",
        "stage": "adult",
        "method": "field recording",
        "url": f"//xeno-canto.org/{number}",
        "file": f"https://xeno-canto.org/{number}/download",
        "file-name": f"XC{number}-merula.mp3",
        "lic": "//creativecommons.org/licenses/by-nc-sa/4.0/",
        "q": "B",
        "date": "2025-09-20",
        "time": "7:53",
        "also": ["Cettia cetti", "Curruca undata"],
        "rmk": "first\r\nlight",
        **other,
    }


def answer(recordings: list[Any], page: int = 1, n_pages: int = 1) -> dict[str, Any]:
    return {"numRecordings": "9", "numSpecies": "1", "page": page, "numPages": n_pages, "recordings": recordings}


class FakeDoor:
    """Answers from a list of pages, or with an error, and remembers what was asked."""

    def __init__(self, *bodies: Any) -> None:
        self.bodies = bodies
        self.asked: list[Mapping[str, str]] = []

    def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
        assert url == "https://xeno-canto.org/api/3/recordings"
        assert params is not None
        self.asked.append(params)
        body = self.bodies[int(params["page"]) - 1]
        if isinstance(body, Exception):
            raise body
        return body if isinstance(body, bytes) else json.dumps(body).encode()


def three_pages() -> FakeDoor:
    return FakeDoor(*(answer([recording(10 * page)], page, 3) for page in (1, 2, 3)))


def saved(tmp_path: Path, *recordings: Any) -> Path:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer(list(recordings))))
    return path


def read_one(tmp_path: Path, **other: Any) -> dict[str, Any]:
    return xeno_canto.read(saved(tmp_path, recording(7, **other))).records.row(0, named=True)


def test_all_pages_are_saved_and_the_query_goes_unchanged(tmp_path: Path) -> None:
    door = three_pages()
    pages = xeno_canto.fetch(door, 'gen:Turdus sp:merula q:">C"', tmp_path, KEY)
    assert [page.name for page in pages] == ["page_00001.json", "page_00002.json", "page_00003.json"]
    assert door.asked[1] == {"query": 'gen:Turdus sp:merula q:">C"', "page": "2", "per_page": "500", "key": KEY}
    reading = xeno_canto.read(tmp_path)
    assert reading.records["media_id"].to_list() == ["xc:10", "xc:20", "xc:30"]


def test_a_page_that_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    broken = FakeDoor(answer([recording(10)], 1, 3), FetchError("cut", kind="temporary"))
    with pytest.raises(FetchError):
        xeno_canto.fetch(broken, "gen:Turdus", tmp_path, KEY)
    assert xeno_canto.read(tmp_path).counts["pages not fetched yet"] == 2
    door = three_pages()
    assert len(xeno_canto.fetch(door, "gen:Turdus", tmp_path, KEY)) == 3
    assert [asked["page"] for asked in door.asked] == ["2", "3"]
    xeno_canto.fetch(door, "gen:Turdus", tmp_path, KEY)
    assert len(door.asked) == 2


def test_the_answers_of_two_queries_do_not_mix(tmp_path: Path) -> None:
    xeno_canto.fetch(three_pages(), "gen:Turdus", tmp_path, KEY)
    with pytest.raises(DatasetError, match="holds the answers to another query"):
        xeno_canto.fetch(three_pages(), "gen:Parus", tmp_path, KEY)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "unauthorized", "message": f"key {KEY} is invalid"}, "unauthorized: key [*]{3} is invalid"),
        ({"error": {"code": "missing_parameter", "message": "no key"}}, "missing_parameter: no key"),
        (b"<html>Down for maintenance</html>", "<html>Down for maintenance"),
        ({"recordings": [], "numPages": None}, "no recordings in the answer"),
        ([], "no recordings in the answer"),
        (FetchError(f"https://xeno-canto.org/api?key={KEY}: 401", kind="permanent", status=401), "key=[*]{3}: 401"),
    ],
)
def test_an_error_of_the_api_is_told_without_the_key_and_not_saved(tmp_path: Path, body: Any, message: str) -> None:
    with pytest.raises(FetchError, match=message) as caught:
        xeno_canto.fetch(FakeDoor(body), "gen:Turdus", tmp_path, KEY)
    assert "5ecret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not list(tmp_path.glob("page_*"))


def test_the_key_gets_into_no_file(tmp_path: Path) -> None:
    echo = {**answer([recording(1)]), "request": f"?key={KEY}&page=1"}
    xeno_canto.fetch(FakeDoor(echo), "gen:Turdus", tmp_path, KEY)
    assert not [path for path in tmp_path.iterdir() if b"5ecret" in path.read_bytes()]
    assert len(xeno_canto.read(tmp_path).records) == 1


def test_a_missing_key_is_told_how_to_get() -> None:
    with pytest.raises(ConfigError, match=r"XENO_CANTO_KEY is not set.*account page"):
        xeno_canto.read_key({"XENO_CANTO_KEY": " "})
    assert xeno_canto.read_key({"XENO_CANTO_KEY": " a1 "}) == "a1"


def test_a_recording_becomes_a_record(tmp_path: Path) -> None:
    reading = xeno_canto.read(saved(tmp_path, recording(7)))
    assert dict(reading.records.schema) == RECORDS_SCHEMA
    row = reading.records.row(0, named=True)
    assert (row["media_id"], row["modality"], row["source"]) == ("xc:7", "audio", "xc")
    assert (row["url"], row["page_url"]) == ("https://xeno-canto.org/7/download", "https://xeno-canto.org/7")
    assert (row["licence"], row["rights_holder"], row["quality"]) == ("CC-BY-NC-SA-4.0", "Ann Lee", "B")
    assert (row["latitude_deg"], row["longitude_deg"]) == (41.3048, -5.8787)
    assert (row["given_common_name"], row["given_class"], row["given_order"]) == ("Common Blackbird", "Aves", None)
    assert row["remarks"] == (
        "type: call, song; sex: male; stage: adult; method: field recording; background: Cettia cetti, Curruca undata; "
        "recorded: 2025-09-20 7:53 local time; locality: Sayago; country: Spain; file name: XC7-merula.mp3; "
        "remarks: first light"
    )


@pytest.mark.parametrize(
    ("date", "time", "day", "remark"),
    [
        ("2025-09-20", "23:30", datetime(2025, 9, 20, tzinfo=UTC), "recorded: 2025-09-20 23:30 local time"),
        ("2019-05-00", "08:00", None, "recorded: 2019-05-00 08:00 local time"),
        ("0000-00-00", "?", None, "recorded: 0000-00-00 ? local time"),
        ("2023-02-30", "", None, "recorded: 2023-02-30"),
        ("", "", None, ""),
    ],
)
def test_local_time_is_not_taken_for_utc(tmp_path: Path, date: str, time: str, day: Any, remark: str) -> None:
    row = read_one(tmp_path, date=date, time=time)
    assert row["recorded_at"] == day
    assert remark in row["remarks"]
    assert bool(remark) == ("recorded:" in row["remarks"])


@pytest.mark.parametrize(
    ("group", "class_", "order"),
    [
        ("grasshoppers", "Insecta", "Orthoptera"),
        ("bats", "Mammalia", "Chiroptera"),
        ("frogs", "Amphibia", "Anura"),
        ("land mammals", "Mammalia", None),
        ("soundscape", None, None),
        ("", None, None),
    ],
)
def test_the_group_says_what_the_name_belongs_to(tmp_path: Path, group: str, class_: Any, order: Any) -> None:
    row = read_one(tmp_path, grp=group)
    assert (row["given_class"], row["given_order"]) == (class_, order)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"lat": "41.3012", "lon": "-5.8812"}, True),
        ({"rec": "ann lee", "loc": "elsewhere", "time": "9:00", "ssp": "aterrimus"}, True),
        ({"date": "2025-09-21"}, False),
        ({"rec": "Bo Li"}, False),
        ({"sp": "philomelos"}, False),
        ({"lat": "42.3"}, False),
        ({"lat": None, "lon": None}, False),
    ],
)
def test_one_occasion_is_one_individual(tmp_path: Path, change: dict[str, Any], same: bool) -> None:
    records = xeno_canto.read(saved(tmp_path, recording(1), recording(2, **change))).records
    first, second = records["individual"]
    assert re.fullmatch(r"xc:[0-9a-f]{16}", first)
    assert (first == second) == same


def test_without_coordinates_the_locality_is_the_place(tmp_path: Path) -> None:
    pair = [recording(n, lat="", lon="", loc=loc) for n, loc in ((1, "Sayago"), (2, "sayago"))]
    assert xeno_canto.read(saved(tmp_path, *pair)).records["individual"].n_unique() == 1


@pytest.mark.parametrize("unknown", [{"rec": ""}, {"date": "2019-05-00"}, {"lat": "", "loc": ""}, {"sp": ""}])
def test_a_recording_of_an_unknown_occasion_stands_alone(tmp_path: Path, unknown: dict[str, str]) -> None:
    assert read_one(tmp_path, **unknown)["individual"] is None


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    reading = xeno_canto.read(
        saved(
            tmp_path,
            recording(1),
            recording(1, q="C"),
            recording(2, file="", **{"file-name": ""}),
            recording(3, file=None),
            recording(4, id=None),
            recording(5, lat="95", q="no score", grp="cicadas", date="2019-05-00"),
        )
    )
    assert reading.records["media_id"].to_list() == ["xc:1", "xc:5"]
    assert reading.records["quality"].to_list() == ["B", None]
    assert reading.counts == {
        "recordings": 6,
        "recordings without an id": 1,
        "recordings that occur again": 1,
        "recordings without a file (restricted species)": 2,
        "recordings of group 'cicadas', which is not known here": 1,
        "recordings with an incomplete date": 1,
        "recordings without a place on the map": 1,
        "records": 2,
    }


def test_names_for_what_has_none_stay_as_given(tmp_path: Path) -> None:
    reading = xeno_canto.read(
        saved(tmp_path, recording(1, gen="Mystery", sp="mystery"), recording(2, gen="Sonus", sp="naturalis"))
    )
    assert reading.records["scientific_name"].to_list() == ["Mystery mystery", "Sonus naturalis"]


def test_an_answer_of_api_2_is_read_too(tmp_path: Path) -> None:
    row = read_one(tmp_path, lon=None, lng="12.5", file="//xeno-canto.org/7/download", ssp="merula")
    assert (row["longitude_deg"], row["url"]) == (12.5, "https://xeno-canto.org/7/download")
    assert row["scientific_name"] == "Turdus merula merula"


def test_one_file_may_hold_everything(tmp_path: Path) -> None:
    for number, whole in enumerate(([recording(1), recording(2)], [answer([recording(1)]), answer([recording(2)])])):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(whole))
        assert xeno_canto.read(path).records["media_id"].to_list() == ["xc:1", "xc:2"]


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    odd = {"rec": "\ud800\u202eA\0nn", "rmk": {"a": 1}, "lat": "1e999", "lon": "nan", "also": ["", None, "Parus major"]}
    path.write_text(json.dumps(answer([recording(7, **odd)])))
    (row,) = xeno_canto.read(path).records.iter_rows(named=True)
    assert row["rights_holder"] == "?Ann"
    assert (row["latitude_deg"], row["longitude_deg"]) == (None, None)
    assert "background: Parus major;" in row["remarks"]


def test_an_empty_answer_gives_no_records(tmp_path: Path) -> None:
    reading = xeno_canto.read(saved(tmp_path))
    assert len(reading.records) == 0
    assert dict(reading.records.schema) == RECORDS_SCHEMA


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"error": "unauthorized"}', r"a\.json: no recordings of Xeno-canto in it: unauthorized"),
        ('{"recordings": ["x"]}', "no recordings of Xeno-canto"),
        ('[{"id": 1}]', "no recordings of Xeno-canto"),
        ("<html>", "not valid JSON"),
    ],
)
def test_what_is_no_answer_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Exception, match=message):
        xeno_canto.read(tmp_path / "a.json")


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no saved page \(\.json\)"):
        xeno_canto.read(tmp_path)


@pytest.mark.skipif(not RESPONSE.is_file(), reason="shared/data/responses is not beside this checkout")
def test_the_real_answer_is_read(tmp_path: Path) -> None:
    literal = re.sub(r"^export const \w+ = ", "", RESPONSE.read_text(encoding="utf-8"))
    literal = re.sub(r"^(\s*)([A-Za-z_]+):", r'\1"\2":', literal, flags=re.MULTILINE)
    path = tmp_path / "page.json"
    path.write_text(re.sub(r",(\s*[}\]])", r"\1", literal), encoding="utf-8")
    given = json.loads(path.read_text(encoding="utf-8"))["recordings"]
    records = xeno_canto.read(path).records
    assert records["media_id"].to_list() == [f"xc:{one['id']}" for one in given]
    assert len(records) == 100
    assert "unknown" not in records["licence"].to_list()
    assert set(records["quality"]) == {"A"}
    assert set(records["given_class"]) == {"Aves"}
    assert records["recorded_at"].null_count() == 0
    assert records["individual"].n_unique() == 90
    for one, row in zip(given, records.iter_rows(named=True), strict=True):
        assert all(background in row["remarks"] for background in one["also"])
        assert " ".join(one["rmk"].split()) in row["remarks"]
