"""The JSON API and the pages behind it: the same answers as in Python, and a reason for every file that is refused."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from served import HERE

from biovita.identify.answer import Identifier
from biovita.identify.calibrate import Calibration
from biovita.identify.files import How, identify_file
from biovita.media.audio import write_audio
from biovita.media.reasons import REASONS
from biovita.search.archive import About, Archive, Entry
from biovita.search.labels import read_labels
from biovita.search.query import Example, examples_like, search
from biovita.web.app import create_app
from biovita.web.desk import PREFIX
from biovita.web.settings import Settings
from biovita.web.words import percent

Web = Callable[..., TestClient]


def hostile() -> Any:
    """The files that the checker's own tests are made of."""
    path = Path(__file__).parents[1] / "media" / "test_check.py"
    spec = importlib.util.spec_from_file_location("files_to_check", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = hostile()


@pytest.fixture(scope="module")
def client(shown: dict[str, Any]) -> Iterator[TestClient]:
    """One application for many files, as a server has it."""
    with TestClient(create_app(Settings(**shown, requests_per_min=10**9)), base_url=HERE) as client:
        yield client


def sent(*paths: Path) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (path.name, path.read_bytes())) for path in paths]


def left_behind() -> list[Path]:
    return [
        path for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*") for path in folder.rglob("*")
    ]


def test_an_answer_over_the_api_is_the_answer_in_python(
    web: Web, shown: dict[str, Any], media: dict[str, list[Path]]
) -> None:
    sound, photo = media["audio"][0], media["image"][0]
    fields = {"k": "3", "rank": "family", "confidence": "0.6", "together": "true"}
    answer = web().post("/api/identify", files=sent(sound, photo), data=fields).json()
    identifier = shown["identifier"]
    how = How(k=3, rank="family", confidence=0.6)
    found = [identify_file(identifier, sound, "audio", how=how), identify_file(identifier, photo, "image", how=how)]
    assert answer["version"] == "biovita.identify/1"
    assert answer["made_by"] == identifier.facts
    for got, one in zip(answer["files"], found, strict=True):
        assert got["modality"] == one.modality
        assert [row["name"] for row in got["whole"]["taxa"]] == [taxon.name for taxon in one.whole.taxa]
        assert [row["score"] for row in got["whole"]["taxa"]] == pytest.approx(
            [t.score for t in one.whole.taxa], abs=1e-5
        )
        assert [row["prob"] for row in got["whole"]["taxa"]] == [None] * 3
        assert got["whole"]["sentence"].endswith(", not calibrated")
        assert [d["start_s"] for d in got["detections"]] == [d.start_s for d in one.detections]
    assert found[0].vector is not None
    assert found[1].vector is not None
    both = identifier.together({"audio": found[0].vector[None], "image": found[1].vector[None]}, k=3, rank="family")
    assert [row["name"] for row in answer["together"]["taxa"]] == [taxon.name for taxon in both.taxa]


@pytest.mark.parametrize("path", ["/api/identify", "/"])
@pytest.mark.parametrize("case", FILES.BAD)
def test_every_hostile_file_is_refused_with_its_reason(
    client: TestClient, tmp_path: Path, case: str, path: str
) -> None:
    name, reason, make = FILES.BAD[case]
    marked = f"<b>{name}"
    files = [("files", (marked, make(tmp_path)))]
    answer = client.post(path, files=files, headers={"Accept": "text/html" if path == "/" else "*/*"})
    assert answer.status_code == 422
    assert reason in REASONS
    assert reason in answer.text
    for secret in (str(tmp_path), tempfile.gettempdir() + "/", "Traceback", marked):
        assert secret not in answer.text
    if path != "/":
        assert answer.json()["error"] == reason
        assert answer.json()["files"][0]["file"] == 0
    assert not left_behind()


@pytest.mark.parametrize("case", FILES.GOOD)
def test_every_odd_but_usable_file_is_named(client: TestClient, tmp_path: Path, case: str) -> None:
    name, flags, make = FILES.GOOD[case]
    answer = client.post("/api/identify", files=[("files", (name, make(tmp_path)))])
    assert answer.status_code == 200, answer.text
    (file,) = answer.json()["files"]
    assert file["whole"]["taxa"]
    assert set(file["flags"]) >= flags
    assert not left_behind()


@pytest.mark.parametrize(
    ("data", "files", "status", "error"),
    [
        ({}, [], 415, "not_a_form"),
        ({"k": "0"}, ["sound"], 422, "invalid"),
        ({"k": "1e9"}, ["sound"], 422, "invalid"),
        ({"k": "NaN"}, ["sound"], 422, "invalid"),
        ({"k": ["1", "2"]}, ["sound"], 422, "invalid"),
        ({"rank": "tribe"}, ["sound"], 422, "invalid"),
        ({"confidence": "nan"}, ["sound"], 422, "invalid"),
        ({"confidence": "0"}, ["sound"], 422, "invalid"),
        ({"url": "http://127.0.0.1/"}, ["sound"], 422, "invalid"),
        ({}, ["sound"] * 5, 400, "bad_request"),
        ({f"f{n}": "x" for n in range(200)}, ["sound"], 400, "bad_request"),
        ({"k": "1" * 100_000}, ["sound"], 400, "bad_request"),
    ],
)
def test_a_form_that_is_wrong_is_refused(
    web: Web, media: dict[str, list[Path]], data: dict[str, Any], files: list[str], status: int, error: str
) -> None:
    answer = web().post("/api/identify", data=data, files=sent(*[media["audio"][0]] * len(files)))
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert not left_behind()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b\r\n",
        b"--x\r\n\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="\xff\xfe"\r\n\r\nx\r\n--b--\r\n',
        b"--b\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n\xed\xa0\x80\r\n--b--\r\n',
    ],
)
def test_a_broken_multipart_body_is_a_4xx(web: Web, body: bytes) -> None:
    for kind in (
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        f"multipart/form-data; boundary={'b' * 5000}",
    ):
        answer = web().post("/api/identify", content=body, headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]


def test_a_recording_that_is_too_long_for_the_page_is_told_where_to_go(web: Web, tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    write_audio(path, (0.1 * np.sin(np.arange(8_000 * 30) * 0.3)).astype(np.float32), 8_000)
    answer = web(max_sound_s=20.0).post("/api/identify", files=sent(path)).json()
    assert answer["error"] == "too_long"
    assert "biovita identify" in answer["detail"]


def test_when_all_seats_are_taken_the_next_one_is_told_to_come_back(web: Web, media: dict[str, list[Path]]) -> None:
    answer = web(max_waiting=0).post("/api/identify", files=sent(media["image"][0]))
    assert (answer.status_code, answer.json()["error"]) == (429, "busy")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_search_over_the_api_is_the_search_in_python(
    web: Web, shown: dict[str, Any], media: dict[str, list[Path]]
) -> None:
    archive, encoder = shown["archive"], shown["identifier"].encoder
    photo = media["image"][1]
    like, unlike = (archive.browse(where=f"modality = '{kind}'", k=1)[0].id for kind in ("audio", "image"))
    data = {"text": "frog", "to": "audio", "like": like, "unlike": unlike, "k": "5", "where": "lat > -90"}
    answer = web().post("/api/search", data=data, files=sent(photo)).json()
    assert "hits" in answer, answer
    examples = [
        Example(modality="text", vector=encoder.embed_text(["frog"])[0]),
        Example(modality="image", vector=encoder.embed_image([photo])[0]),
        *examples_like(archive, [like]),
        *examples_like(archive, [unlike], weight=-0.5),
    ]
    hits = search(archive, examples, to="audio", k=5, where="lat > -90")
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in hits]
    assert len(hits) == 5
    assert all("path" not in hit for hit in answer["hits"])
    assert answer["index"]["weights_sha256"] == encoder.weights_sha256
    assert answer["index"]["version"] == archive.version


@pytest.mark.parametrize(
    "data",
    [
        {"k": "3"},
        {"text": "frog", "where": "1; drop table media"},
        {"text": "frog", "where": "path = '/etc/passwd' or"},
        {"text": "frog", "where": "path like '/home/%'"},
        {"text": "frog", "where": "lat > 0 or not (PATH is null)"},
        {"text": "frog", "where": "(" * 400},
        {"text": "f" * 501},
        {"text": "frog", "to": "video"},
        {"like": "no such id"},
        {"text": "frog", "like": ["x"] * 60},
    ],
)
def test_a_search_that_cannot_be_done_is_refused(web: Web, data: dict[str, Any], archive_folder: Path) -> None:
    files = [("files", ("", b""))]
    answer = web().post("/api/search", data=data, files=files)
    assert answer.status_code == 422, answer.text
    assert str(archive_folder.parent) not in answer.text


def test_what_the_archive_holds(web: Web, shown: dict[str, Any]) -> None:
    client, archive = web(), shown["archive"]
    facts = client.get("/api/archive").json()
    assert facts["index"]["n_rows"] == len(archive) == sum(facts["by_modality"].values())
    hits = client.get("/api/archive/hits", params={"k": 3, "offset": 2, "where": "modality = 'image'"}).json()["hits"]
    assert [hit["id"] for hit in hits] == [h.id for h in archive.browse(where="modality = 'image'", k=3, offset=2)]
    for where in ("nonsense", "path is not null", "species = 'it''s' and path != ''"):
        assert client.get("/api/archive/hits", params={"where": where}).status_code == 422
    assert client.get("/api/archive/hits", params={"where": "species != 'a path'"}).status_code == 200
    assert client.get("/api/archive/hits", params={"k": 101}).status_code == 422


def test_what_another_process_adds_to_the_archive_is_listed_at_once(
    web: Web, archive_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(archive_folder, tmp_path / "archive")
    client = web(archive=Archive.open(tmp_path / "archive"))
    n_files = client.get("/api/archive").json()["n_files"]
    elsewhere = Archive.open(tmp_path / "archive")
    vector = np.eye(1, elsewhere.width, dtype=np.float32)
    elsewhere.add(
        [Entry(path="/new.jpg", sha256="ab" * 32, modality="image", vectors=vector, about=About(device="new"))]
    )
    hits = client.get("/api/archive/hits", params={"where": "device = 'new'"}).json()["hits"]
    assert [hit["id"] for hit in hits] == ["ab" * 8]
    assert client.get("/api/archive").json()["n_files"] == n_files + 1


def test_a_label_is_kept_and_the_next_question_is_another(web: Web, shown: dict[str, Any]) -> None:
    client, archive = web(), shown["archive"]
    page = client.get("/review", params={"name": "My <call>"})
    assert "Is this <q>My &lt;call&gt;</q>?" in page.text
    first = page.text.split('name="hit" value="')[1].split('"')[0]
    after = client.post("/review", data={"name": "My <call>", "hit": first, "answer": "yes"}, headers={"X-Part": "1"})
    assert after.status_code == 200
    assert "<html" not in after.text
    second = after.text.split('name="hit" value="')[1].split('"')[0]
    assert second != first
    counts = client.post("/api/labels", json={"hit": second, "name": "My <call>", "answer": "no"}).json()["counts"]
    assert counts["My <call>"] == {"yes": 1, "no": 1, "unsure": 0}
    kept = {label.hit: label.answer for label in read_labels(archive, name="My <call>")}
    assert kept == {first: "yes", second: "no"}
    again = client.get("/review", params={"name": "My <call>", "hit": first})
    assert f'name="hit" value="{first}"' in again.text
    assert "You said yes" in again.text
    assert client.get("/review", params={"name": "My <call>", "hit": "none"}).status_code == 422
    assert client.post("/api/labels", json={"hit": "none", "name": "x", "answer": "yes"}).status_code == 422
    assert client.post("/review", data={"name": "x", "hit": first, "answer": "maybe"}).status_code == 422


def test_pictures_and_sounds_of_hits_are_made_anew(
    web: Web, shown: dict[str, Any], media: dict[str, list[Path]]
) -> None:
    client, archive = web(), shown["archive"]
    image = archive.browse(where="modality = 'image'", k=1)[0]
    sound = archive.browse(where="modality = 'audio'", k=1)[0]
    shown_image = client.get("/media/picture", params={"id": image.id})
    assert shown_image.headers["content-type"] == "image/jpeg"
    assert shown_image.content != Path(image.path).read_bytes()
    assert client.get("/media/picture", params={"id": sound.id}).content.startswith(b"\x89PNG")
    played = client.get("/media/sound", params={"id": sound.id})
    assert played.content.startswith(b"RIFF")
    assert client.get("/media/sound", params={"id": image.id}).status_code == 404
    for id_ in ("../../etc/passwd", str(media["image"][0]), "' or 1=1", "\x00"):
        assert client.get("/media/picture", params={"id": id_}).status_code in (404, 422)


def test_without_a_model_or_an_archive_the_pages_say_how_to_get_one(web: Web) -> None:
    client = web(bare=True)
    for path in ("/", "/search", "/review", "/archive", "/benchmark"):
        page = client.get(path)
        assert page.status_code == 200
        assert "biovita serve" in page.text
    assert client.post("/api/identify").json()["error"] == "no_model"
    assert client.get("/api/archive").json()["error"] == "no_archive"


def test_a_model_of_a_made_up_biosphere_is_called_one_on_every_page_that_uses_it(web: Web) -> None:
    for is_made_up in (True, False):
        client = web(is_made_up=is_made_up)
        for path in ("/", "/search"):
            assert ("knows no real animal" in client.get(path).text) == is_made_up
    assert "knows no real animal" not in web(bare=True, is_made_up=True).get("/").text


def test_a_calibrated_answer_shows_how_sure_each_rank_is(
    web: Web, shown: dict[str, Any], media: dict[str, list[Path]]
) -> None:
    sound, photo = media["audio"][0], media["image"][0]
    plain = shown["identifier"]
    weights = {"audio": 12.0, "trained": 0.0}
    calibration = Calibration(
        weights_sha256=plain.encoder.weights_sha256,
        preprocess=plain.encoder.fingerprint("windows"),
        weights={"audio": weights, "audio+image": {**weights, "image": 12.0}},
        trained=[],
    )
    identifier = Identifier(plain.encoder, plain.labels, calibration=calibration)
    how = How(k=1, confidence=0.3)
    text = web(identifier=identifier).post("/", files=sent(sound, photo), data={"confidence": "0.3"}).text
    of_photo, of_sound = text.split("From the photo alone")[1], text.split("From the recording alone")[1]
    assert "How sure at each rank" in of_sound.split("From the photo alone")[0]
    assert "How sure at each rank" not in of_photo  # nothing was fitted for pictures alone
    assert "it is not calibrated" not in of_sound.split("From the photo alone")[0]
    for rank in ("class", "order", "family", "genus", "species"):
        best = identify_file(identifier, sound, "audio", how=replace(how, rank=rank)).whole.taxa[0]
        assert best.prob is not None
        row = of_sound.split(f'<th scope="row">{rank}</th>')[1].split("</tr>")[0]
        assert best.name in row
        assert percent(best.prob) in row
    api = web(identifier=identifier).post("/api/identify", files=sent(photo)).json()
    assert api["files"][0]["whole"]["sentence"].endswith(", not calibrated")


def test_a_list_of_species_may_leave_a_rank_empty(
    web: Web, shown: dict[str, Any], media: dict[str, list[Path]]
) -> None:
    plain = shown["identifier"]
    labels = replace(plain.labels, taxa=[replace(taxon, kingdom="") for taxon in plain.labels.taxa])
    identifier = Identifier(plain.encoder, labels)
    answer = web(identifier=identifier).post("/", files=sent(media["image"][0]))
    assert answer.status_code == 200
    assert identify_file(identifier, media["image"][0], "image", how=How(k=1)).whole.taxa[0].name in answer.text


def test_the_benchmark_page_shows_every_scenario_with_its_interval(web: Web) -> None:
    text = web().get("/benchmark").text
    assert text.count("40 queries") == 36
    assert text.count("not above chance") == 3
    assert "15.0</b> <i>13.0\u201319.0</i>" in text


def test_the_schema_names_every_operation_and_loads_nothing(web: Web) -> None:
    client = web()
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        *("/api/identify", "/api/search", "/api/archive", "/api/archive/hits", "/api/labels", "/healthz", "/metrics")
    }
    page = client.get("/api").text
    assert all(path in page for path in schema["paths"])
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


def test_counts_name_routes_and_reasons_and_nothing_of_what_was_sent(web: Web) -> None:
    client = web()
    client.get("/a-name-that-was-typed")
    client.post("/api/identify", files=[("files", ("secret-name.wav", b""))])
    text = client.get("/metrics").text
    assert 'biovita_refused_files_total{reason="empty_file"} 1' in text
    assert 'route="/api/identify",status="422"' in text
    assert "typed" not in text
    assert "secret" not in text
