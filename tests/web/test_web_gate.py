"""What stands before every route: host, origin, token, rate and size are judged before anything parses a body."""

import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from served import TOKEN

from biovita.errors import WebError
from biovita.web.gate import Allowance, name_in
from biovita.web.meter import Meter
from biovita.web.settings import Settings

Web = Callable[..., TestClient]
PAGES = ("/", "/search", "/review", "/archive", "/benchmark", "/api", "/login")
OTHERS = ("/healthz", "/metrics", "/openapi.json", "/static/page.css", "/api/archive", "/nothing/here")


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_every_answer_has_the_headers_that_keep_a_browser_safe(web: Web, path: str) -> None:
    answer = web(bare=True).get(path, headers={"Accept": "text/html"})
    assert answer.status_code in (200, 404)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_a_script_or_a_style_of_its_own_or_an_address_elsewhere(web: Web, path: str) -> None:
    text = web().get(path).text
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", text)
    assert not re.search(r"(src|href|action)=\"(https?:)?//", text)


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1.example.org", "localhost@example.org", "example.org:80", ""]
)
def test_a_foreign_host_is_refused_on_loopback_too(web: Web, host: str) -> None:
    client = web(bare=True)
    assert client.get("/healthz", headers={"Host": host}).json()["error"] == "bad_host"
    assert client.get("/healthz", headers={"Host": "localhost:8000"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "[::1]:8000"}).status_code == 200


def test_a_name_that_was_given_is_a_host(web: Web) -> None:
    assert web(bare=True, names=("birds.example.org",)).get("/", headers={"Host": "Birds.example.org"}).is_success


@pytest.mark.parametrize("origin", ["null", "http://example.org", "https://127.0.0.1", "http://127.0.0.1:81"])
def test_a_foreign_origin_writes_nothing(web: Web, origin: str) -> None:
    client = web()
    answer = client.post("/api/labels", json={"hit": "x", "name": "y", "answer": "yes"}, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]) == (403, "foreign_origin")
    own = client.post(
        "/api/labels", json={"hit": "x", "name": "y", "answer": "yes"}, headers={"Origin": "http://127.0.0.1"}
    )
    assert own.status_code == 422
    cross = client.post("/api/identify", headers={"Sec-Fetch-Site": "cross-site"})
    assert cross.json()["error"] == "foreign_origin"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_another_address_than_loopback_needs_a_token(host: str) -> None:
    with pytest.raises(WebError, match="--token"):
        Settings(host=host)
    assert Settings(host=host, token=TOKEN).token == TOKEN
    with pytest.raises(WebError, match="at least 16"):
        Settings(host=host, token="short")


def test_with_a_token_nothing_is_shown_without_it(web: Web) -> None:
    client = web(token=TOKEN)
    for path in (*PAGES, *OTHERS):
        is_open = path in ("/login", "/healthz") or path.startswith("/static/")
        assert (client.get(path).status_code == 401) != is_open, path
    page = client.get("/", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert client.get("/api/archive").headers["www-authenticate"] == "Bearer"
    assert client.get("/api/archive", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    for wrong in (f"Bearer {TOKEN}x", TOKEN, "Bearer ", "Basic eDp5"):
        assert client.get("/api/archive", headers={"Authorization": wrong}).status_code == 401


def test_a_browser_logs_in_and_keeps_a_proof_that_is_not_the_token(web: Web) -> None:
    client = web(token=TOKEN)
    assert client.post("/login", data={"token": "not the token"}).status_code == 401
    answer = client.post("/login", data={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get("/").status_code == 200


def test_too_many_requests_are_told_when_to_come_back(web: Web) -> None:
    client = web(bare=True, requests_per_min=6)
    codes = [client.post("/api/identify").status_code for _ in range(5)]
    assert codes == [404, 404, 404, 429, 429]
    last = client.post("/api/identify")
    assert last.json()["error"] == "too_many_requests"
    assert 1 <= int(last.headers["retry-after"]) <= 11
    assert client.get("/").status_code == 200


def test_guesses_at_the_token_are_slowed_down(web: Web) -> None:
    client = web(bare=True, token=TOKEN, requests_per_min=6)
    assert [client.get("/api/archive").status_code for _ in range(4)] == [401, 401, 401, 429]
    assert client.get("/healthz").status_code == 200


def test_an_allowance_fills_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("biovita.web.gate.time.monotonic", lambda: now[0])
    allowance = Allowance(60)
    assert [allowance.wait_s("a") for _ in range(31)] == [0.0] * 30 + [1.0]
    assert allowance.wait_s("b") == 0
    now[0] += 2.5
    assert [allowance.wait_s("a") for _ in range(3)] == [0.0, 0.0, 0.5]
    now[0] += 3600
    assert [allowance.wait_s("a") for _ in range(31)].count(0.0) == 30


@pytest.mark.parametrize("path", ["/api/identify", "/api/search", "/", "/login", "/api/labels"])
def test_a_body_that_is_too_long_is_refused_before_it_is_read(web: Web, path: str) -> None:
    client = web(max_body_bytes=10_000)
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    stated = client.post(path, content=b"x" * 10_001, headers=form)
    assert (stated.status_code, stated.json()["error"]) == (413, "body_too_large")
    for length in ("-1", "1e9", "ten", "1_0"):
        answer = client.post(path, content=b"", headers={**form, "Content-Length": length})
        assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    coded = client.post(path, content=b"x", headers={**form, "Content-Encoding": "gzip"})
    assert (coded.status_code, coded.json()["error"]) == (415, "coded_body")


def test_names_in_host_headers() -> None:
    assert name_in("LOCALHOST:80") == "localhost"
    assert name_in("[::1]:80") == "::1"
    assert [name_in(bad) for bad in ("a b", "a/b", "a:b", "u@a", "", "a:80:80", "[::1", "ä")] == [""] * 8


def test_counts_are_what_prometheus_reads() -> None:
    meter = Meter()
    for seconds in (0.001, 0.3, 0.3, 99.0):
        meter.count("/api/identify", 200, seconds)
    meter.count("/", 404, 0.01)
    meter.refused["silent"] += 2
    lines = meter.text(3).splitlines()
    assert 'biovita_requests_total{route="/api/identify",status="200"} 4' in lines
    assert 'biovita_refused_files_total{reason="silent"} 2' in lines
    assert "biovita_waiting_requests 3" in lines
    buckets = [int(line.split()[1]) for line in lines if 'bucket{route="/api/identify"' in line]
    assert buckets == [1, 1, 1, 3, 3, 3, 3, 3, 3, 4]
    assert all(re.fullmatch(r"# TYPE \w+ \w+|\w+(\{[^{}]*\})? [0-9.e+-]+", line) for line in lines)


def test_a_bug_is_one_word_and_a_number_and_its_traceback_stays_here(
    web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret")

    client = web()
    monkeypatch.setattr("biovita.web.api.label_counts", broken)
    answer = client.get("/api/labels")
    assert answer.status_code == 500
    assert answer.json()["error"] == "bug"
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    err = capsys.readouterr().err
    assert "ZeroDivisionError: a secret" in err
    assert answer.headers["x-request-id"] in err
