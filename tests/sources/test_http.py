"""The door: what it sends, what it refuses, what it says. Broken bodies are in tests/data/test_download.py."""

import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from test_address import HOSTS, hostile_urls

from biovita.errors import ConfigError, FetchError
from biovita.sources import http
from biovita.sources.address import Policy
from biovita.sources.budget import MAX_BLOCK_S, Budget, Budgets
from biovita.sources.http import STREAK, Door, Limits, retry_after_s, why

POLICY = Policy(hosts=("a.org", "b.org"))
LIMITS = Limits(max_bytes=10_000, total_s=5.0)
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def door_for(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    """Make a door to a function: `door_for(lambda request: httpx.Response(200))`."""
    doors: list[Door] = []

    def make(answer: Answer, **options: object) -> Door:
        budgets = Budgets(tmp_path / "budgets.sqlite", [Budget(hosts=POLICY.hosts, per_second=1e6)])
        settings = {"backoff_s": 0.0, **options}
        doors.append(Door(POLICY, budgets, transport=httpx.MockTransport(answer), **settings))
        return doors[-1]

    yield make
    for door in doors:
        door.close()


def failure(call: Callable[[], object]) -> FetchError:
    with pytest.raises(FetchError) as caught:
        call()
    return caught.value


def test_a_page_is_asked_for_politely(door_for: Callable[..., Door]) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=b"page")

    door = door_for(answer, contact="me@example.org")
    assert door.get("https://a.org/x?y=1", params={"query": 'sp:"larus fuscus"', "key": "k"}) == b"page"
    [request] = asked
    assert request.url.params["query"] == 'sp:"larus fuscus"'
    assert request.url.params["y"] == "1"
    assert request.headers["user-agent"].startswith("biovita/0.")
    assert request.headers["user-agent"].endswith("(me@example.org)")
    assert request.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & set(request.headers)


def test_a_contact_cannot_add_headers(door_for: Callable[..., Door]) -> None:
    with pytest.raises(ConfigError, match="contact"):
        door_for(lambda _: httpx.Response(200), contact="me\r\nX-Evil: 1")


def test_temporary_failures_are_asked_again_and_permanent_ones_are_not(door_for: Callable[..., Door]) -> None:
    for status, kind, n_asked in [(500, "temporary", 4), (503, "temporary", 4), (408, "temporary", 4),
                                  (404, "permanent", 1), (410, "permanent", 1), (451, "permanent", 1),
                                  (400, "permanent", 1), (401, "temporary", 1), (403, "temporary", 1),
                                  (304, "permanent", 1), (206, "permanent", 1), (204, "permanent", 1)]:  # fmt: skip
        asked: list[str] = []

        def answer(request: httpx.Request, status: int = status, asked: list[str] = asked) -> httpx.Response:
            asked.append(str(request.url))
            return httpx.Response(status, content=b"")

        door = door_for(answer)
        error = failure(lambda door=door: door.get("https://a.org/x"))
        assert (error.kind, len(asked), why(error)) == (kind, n_asked, str(status))
        assert error.status == status


def test_an_answer_that_gets_better_is_taken(door_for: Callable[..., Door]) -> None:
    answers = iter([httpx.Response(503), httpx.Response(502), httpx.Response(200, content=b"x")])
    assert door_for(lambda _: next(answers)).get("https://a.org/") == b"x"


def test_a_body_may_not_be_larger_than_allowed(door_for: Callable[..., Door]) -> None:
    door = door_for(lambda _: httpx.Response(200, content=b"x" * 1001))
    assert why(failure(lambda: door.get("https://a.org/", max_bytes=1000))) == "larger than 1,000 bytes"
    assert len(door.get("https://a.org/", max_bytes=1001)) == 1001
    streamed = door_for(lambda _: httpx.Response(200, content=iter([b"x" * 600] * 3)))
    assert failure(lambda: streamed.get("https://a.org/", max_bytes=1000)).kind == "permanent"


def test_other_codings_are_refused_unread(door_for: Callable[..., Door]) -> None:
    stream = httpx.ByteStream(b"not even gzip")
    door = door_for(lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream))
    assert why(failure(lambda: door.get("https://a.org/"))) == "coded although we asked for it plain"


def to(location: str, status: int = 302) -> httpx.Response:
    return httpx.Response(status, headers={"location": location})


def test_redirects_are_followed_among_allowed_hosts(door_for: Callable[..., Door], tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        pages = {
            "https://a.org/1": to("2"),
            "https://a.org/2": to("//b.org/3", 301),
            "https://b.org/3": to("https://A.ORG:443/4?x=1", 308),
        }
        return pages.get(str(request.url), httpx.Response(200, content=b"there"))

    assert door_for(answer).get("https://a.org/1") == b"there"
    assert asked == ["https://a.org/1", "https://a.org/2", "https://b.org/3", "https://a.org/4?x=1"]
    asked.clear()
    door_for(answer).download("https://a.org/1", tmp_path / "x.part", limits=LIMITS)
    assert len(asked) == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://a.org/2", "https://a.org:8443/2", "https://evil.org/2", "https://user@a.org/2", "https://127.0.0.1/2",
        "https://169.254.169.254/latest", "file:///etc/passwd", "ftp://a.org/2", "https://a.org\\@evil.org/",
        "//evil.org/2", "https:/\\evil.org", "\thttps://a.org/2", "https://a.org/2#x", "", "https://a.org.evil.org/",
        "javascript:alert(1)", "https://[::1]/", "https://a.org@evil.org/", "///evil.org/",
    ],
)  # fmt: skip
def test_a_redirect_is_checked_like_any_url(location: str, door_for: Callable[..., Door]) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return to(location)

    error = failure(lambda: door_for(answer).get("https://a.org/1"))
    assert error.kind == "refused"
    assert why(error).startswith("redirects to") or location == "///evil.org/"
    assert all(url.startswith("https://a.org/") for url in asked)


def test_five_redirects_and_no_more(door_for: Callable[..., Door]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        n = int(request.url.path[1:])
        return to(f"/{n - 1}") if n else httpx.Response(200, content=b"there")

    assert door_for(answer).get("https://a.org/5") == b"there"
    assert why(failure(lambda: door_for(answer).get("https://a.org/6"))) == "more than 5 redirects"


SECRET = "s3cr3tkey"


def test_a_key_never_leaves_its_host(door_for: Callable[..., Door]) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return (
            to(f"https://b.org/x?{request.url.query.decode()}") if request.url.host == "a.org" else httpx.Response(200)
        )

    for options in ({"params": {"key": SECRET}}, {"headers": {"Authorization": SECRET}}):
        error = failure(lambda options=options: door_for(answer).get("https://a.org/x", **options))
        assert error.kind == "refused"
    assert set(seen) == {"a.org"}


def test_a_key_never_shows(
    door_for: Callable[..., Door], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)

    def raising(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"cannot reach {request.url} with {request.headers}", request=request)

    answers: list[Answer] = [
        raising,
        lambda request: to(f"https://evil.org/?{request.url.query.decode()}"),
        lambda request: to(str(request.url)),
        lambda _: httpx.Response(403),
        lambda _: httpx.Response(429, headers={"retry-after": "1"}),
        lambda _: httpx.Response(200, content=b"x" * 2000),
        lambda _: httpx.Response(200, headers={"content-length": "x"}, stream=httpx.ByteStream(b"x")),
    ]
    shown = []
    for answer in answers:
        door = door_for(answer, patience_s=0.0)
        error = failure(
            lambda door=door: door.get(
                f"https://a.org/x?token={SECRET}", params={"key": SECRET}, headers={"X-Key": SECRET}, max_bytes=1000
            )
        )
        tree: BaseException | None = error
        while tree:
            shown.append(f"{tree!r} {tree} {tree.args}")
            tree = tree.__cause__ or (None if tree.__suppress_context__ else tree.__context__)
    shown += [caplog.text, *capsys.readouterr()]
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(shown) >= len(answers) + 4
    assert not [text for text in shown if SECRET in text]


def test_nothing_is_logged_by_the_library_either(fault_server: object, tmp_path: Path, caplog: object) -> None:
    caplog.set_level(logging.DEBUG)
    door = real_door(fault_server, tmp_path)
    with door:
        door.get(fault_server.url("plain"), params={"key": SECRET}, headers={"X-Key": SECRET})
    assert SECRET not in caplog.text


def test_a_host_that_keeps_refusing_is_left_alone(door_for: Callable[..., Door]) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200 if request.url.host == "b.org" else 404 if request.url.path == "/404" else 403)

    door = door_for(answer)
    for path in [*["x"] * (STREAK - 1), "404"]:
        failure(lambda path=path: door.get(f"https://a.org/{path}"))
    errors = [failure(lambda: door.get("https://a.org/x")) for _ in range(STREAK + 20)]
    assert len(asked) == 2 * STREAK
    assert {(error.kind, why(error)) for error in errors} == {("temporary", "403")}
    assert "left alone until the next run" in str(errors[-1])
    door.get("https://b.org/")


def test_retry_after_holds_for_every_door(door_for: Callable[..., Door]) -> None:
    times: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        times.append(time.monotonic())
        return httpx.Response(429, headers={"retry-after": "1"}) if len(times) == 1 else httpx.Response(200)

    one, other = door_for(answer), door_for(answer)
    thread = threading.Thread(target=one.get, args=("https://a.org/1",))
    thread.start()
    while not times:
        time.sleep(0.001)
    time.sleep(0.05)
    other.get("https://b.org/2")  # of the same service
    thread.join()
    assert len(times) == 3
    assert min(times[1:]) - times[0] >= 1.0


def test_a_long_retry_after_says_when_to_come_back(door_for: Callable[..., Door]) -> None:
    door = door_for(lambda _: httpx.Response(429, headers={"retry-after": "315360000"}), patience_s=60.0)
    error = failure(lambda: door.get("https://a.org/1"))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert error.kind == "temporary"
    assert f"asked us to wait; come back at {tomorrow:%Y-%m-%d}" in str(error)


def test_retry_after_is_seconds_or_a_date_and_nonsense_is_nothing() -> None:
    now = datetime(2026, 5, 1, 4, 30, tzinfo=UTC)
    date = format_datetime(now, usegmt=True)
    assert retry_after_s("30", date) == 30.0
    assert retry_after_s("0", date) == 0.0
    assert retry_after_s(format_datetime(now + timedelta(seconds=90), usegmt=True), date) == 91.0
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 88 < (retry_after_s(later, "") or 0) < 92
    assert retry_after_s("9" * 5000, date) == MAX_BLOCK_S
    for text in (
        "",
        "soon",
        "-5",
        "1.5",
        "NaN",
        "٣",
        date,
        "Wed, 99 Foo 2026",
        format_datetime(now - timedelta(days=9)),
    ):
        assert retry_after_s(text, date) is None, text
    assert retry_after_s("Fri, 01 May 2026 04:31:00 GMT", "nonsense") is None


# Real connections


@pytest.fixture
def fault_server(tmp_path: Path) -> Iterator[object]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
    from fault_server import FaultServer

    with FaultServer(tmp_path, n_plain=3) as server:
        yield server


def real_door(server: object, folder: Path, **options: object) -> Door:
    policy = Policy(hosts=(server.host,), schemes=("http",), ports=(server.port,), public_only=False)
    budgets = Budgets(folder / "budgets.sqlite", [Budget(hosts=policy.hosts, per_second=1e6)])
    return Door(policy, budgets, **{"backoff_s": 0.01, **options})


def test_the_rules_hold_by_default_and_nothing_outside_the_code_changes_them(
    fault_server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = fault_server.port
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    budgets = Budgets(tmp_path / "budgets.sqlite", [Budget(hosts=("localhost",), per_second=1e6)])
    with Door(Policy(hosts=("localhost",), ports=(port,)), budgets, backoff_s=0.0) as door:
        assert why(failure(lambda: door.get(f"https://localhost:{port}/plain"))) == "not a public address"
        assert why(failure(lambda: door.get(f"http://localhost:{port}/plain"))) == "not https"
    assert fault_server.hits == []


def test_a_name_that_turns_to_loopback_is_never_connected_to(
    fault_server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, asked, connected = fault_server.port, [], []

    def flip(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(2, 1, 6, "", ("8.8.8.8" if len(asked) % 2 else "127.0.0.1", port))]

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", flip)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(http, "STREAK", 10**9)
    budgets = Budgets(tmp_path / "budgets.sqlite", [Budget(hosts=("media.org",), per_second=1e6)])
    with Door(Policy(hosts=("media.org",), ports=(port,)), budgets, attempts=2, backoff_s=0.0) as door:
        for n in range(500):
            failure(lambda n=n: door.get(f"https://media.org:{port}/{n}"))
    assert set(asked) == {"media.org"}
    assert len(asked) == 1000
    assert connected == ["8.8.8.8"] * 500
    assert fault_server.hits == []


def test_no_hostile_url_reaches_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **_: reached.append(words))
    monkeypatch.setattr(socket, "create_connection", lambda *words, **_: reached.append(words))
    with Door(Policy(hosts=HOSTS), Budgets(tmp_path / "budgets.sqlite")) as door:
        kinds = {failure(lambda url=url: door.get(url, params={"key": SECRET})).kind for url in hostile_urls(2000)}
    assert kinds == {"refused"}
    assert reached == []


def test_no_name_no_connection_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    budgets = Budgets(tmp_path / "budgets.sqlite", [Budget(hosts=("a.org",), per_second=1e6)])
    with Door(POLICY, budgets, backoff_s=0.0) as door:
        errors = [failure(lambda: door.get("https://a.org/")) for _ in range(5)]
    assert {(error.kind, why(error)) for error in errors} == {("temporary", "name not found")}
    assert "left alone" in str(errors[-1])


def test_a_strangers_certificate_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    try:
        subprocess.run(
            ["openssl", *words, "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs the openssl command to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked = []

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            plain, _address = listener.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    asked.append(connection.recv(100))
            except (ssl.SSLError, OSError):
                plain.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        policy = Policy(hosts=("localhost",), ports=(port,), public_only=False)
        budgets = Budgets(tmp_path / "budgets.sqlite", [Budget(hosts=("localhost",), per_second=1e6)])
        with Door(policy, budgets, attempts=2, backoff_s=0.0) as door:
            error = failure(lambda: door.get(f"https://localhost:{port}/", headers={"X-Key": SECRET}))
        thread.join(10)
    assert (error.kind, why(error)) == ("temporary", "bad certificate")
    assert not b"".join(asked)


def test_closing_the_door_ends_what_other_threads_do(fault_server: object, tmp_path: Path) -> None:
    door = real_door(fault_server, tmp_path)
    errors: list[FetchError] = []

    def ask(kind: str) -> None:
        limits = Limits(max_bytes=10**6, total_s=60.0)
        errors.append(failure(lambda: door.download(fault_server.url(kind), tmp_path / f"{kind}.part", limits=limits)))

    threads = [threading.Thread(target=ask, args=(k,)) for k in ("stall_in_the_body", "stall_before_the_head")]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    started = time.monotonic()
    door.close()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - started < 2.0
    assert [why(error) for error in errors] == ["stopped", "stopped"]


def test_a_second_run_goes_on_where_the_first_was_cut(fault_server: object, tmp_path: Path) -> None:
    part, body = tmp_path / "x.part", fault_server.bodies["resets_at_three_places"]
    url = fault_server.url("resets_at_three_places")
    with real_door(fault_server, tmp_path, attempts=1) as door:
        failure(lambda: door.download(url, part, limits=Limits(max_bytes=10**6, total_s=5.0)))
    assert part.read_bytes() == body[: len(body) // 4]
    with real_door(fault_server, tmp_path) as door:
        fetched = door.download(url, part, limits=Limits(max_bytes=10**6, total_s=5.0))
    assert part.read_bytes() == body
    assert (fetched.size, fetched.framed) == (len(body), True)
    assert not (tmp_path / "x.part.json").exists()


@pytest.mark.parametrize("harm", ["none", "no note", "torn note", "other boot", "weak tag", "no part"])
def test_only_a_part_that_is_surely_of_the_same_version_is_gone_on_with(
    harm: str, door_for: Callable[..., Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[httpx.Headers] = []
    etag = 'W/"a"' if harm == "weak tag" else '"a"'

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers)
        body, headers = b"0123456789", {"etag": etag}
        if "range" in request.headers:
            headers |= {"content-range": "bytes 4-9/10", "content-length": "6"}
            return httpx.Response(206, headers=headers, stream=httpx.ByteStream(body[4:]))
        sent = body[:4] if len(asked) == 1 else body
        return httpx.Response(200, headers=headers | {"content-length": "10"}, stream=httpx.ByteStream(sent))

    part, note = tmp_path / "x.part", tmp_path / "x.part.json"
    error = failure(lambda: door_for(answer, attempts=1).download("https://a.org/x", part, limits=LIMITS))
    assert why(error) == "cut off"
    assert part.read_bytes() == b"0123"
    if harm == "no note":
        note.unlink()
    elif harm == "torn note":
        note.write_text(note.read_text()[:10])
    elif harm == "other boot":
        (tmp_path / "boot").write_text("another")
        monkeypatch.setattr(http, "_BOOT", tmp_path / "boot")
    elif harm == "no part":
        part.unlink()
    fetched = door_for(answer).download("https://a.org/x", part, limits=LIMITS)
    assert (part.read_bytes(), fetched.size, fetched.etag, fetched.framed) == (b"0123456789", 10, etag, True)
    assert asked[1].get("range") == ("bytes=4-" if harm == "none" else None)
    assert asked[1].get("if-range") == (etag if harm == "none" else None)
    assert not note.exists()


def test_volumes_stop_a_body_in_the_middle_and_count_what_came(fault_server: object, tmp_path: Path) -> None:
    fault_server.bodies["big"] = bytes(5 * 10**6)
    policy = Policy(hosts=(fault_server.host,), schemes=("http",), ports=(fault_server.port,), public_only=False)
    table = [Budget(hosts=policy.hosts, per_second=1e6, bytes_per_hour=2 * 10**6)]
    with Door(policy, Budgets(tmp_path / "budgets.sqlite", table)) as door:
        error = failure(lambda: door.get(fault_server.url("big")))
        assert "bytes of an hour are spent; come back at" in str(error)
        assert error.kind == "temporary"
        assert why(failure(lambda: door.get(fault_server.url("plain")))) == "its bytes of an hour are spent"
    assert [path for _, path in fault_server.hits] == ["/big"]
