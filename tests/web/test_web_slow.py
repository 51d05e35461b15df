"""Clients that dawdle, against a real server with short limits: each is dropped in time, and nobody waits for them."""

import contextlib
import http.client
import json
import os
import re
import select
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hasty import BODY_S, HEAD_S, IDLE_S, MAX_WAITING, TAKE_S
from served import Served, serving

SPARE_S = 6.0  # what a loaded machine may take on top of a limit
POST = b"POST /api/identify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
BEGIN = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
ALIVE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def hasty(model_folder: Path) -> Iterator[Served]:
    with serving(model_folder, line=[sys.executable, str(Path(__file__).with_name("hasty.py"))]) as server:
        yield server


@contextlib.contextmanager
def client(server: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as opened:
        yield opened


def health(server: Served) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return json.loads(connection.getresponse().read())


def rest(opened: socket.socket) -> bytes:
    """Read to the end, which is the server's to make."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while part := opened.recv(65536):
            answer += part
    return answer


def dribble(opened: socket.socket, part: bytes, every_s: float) -> float:
    """Send one piece after the other until the server has had enough; return after how many seconds that is."""
    started = time.monotonic()
    opened.setblocking(False)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - started < 60:
            opened.sendall(part)
            time.sleep(every_s)
            with contextlib.suppress(BlockingIOError):
                if opened.recv(1, socket.MSG_PEEK) in (b"", b"H"):
                    break
    opened.setblocking(True)
    return time.monotonic() - started


@pytest.mark.parametrize("length", [b"Content-Length: 5000000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_that_comes_byte_by_byte_is_refused_when_its_time_is_up(hasty: Served, length: bytes) -> None:
    is_chunked = b"chunked" in length
    with client(hasty) as opened:
        first = f"{len(BEGIN):x}\r\n".encode() + BEGIN + b"\r\n" if is_chunked else BEGIN
        opened.sendall(POST + length + b"\r\n" + first)
        took_s = dribble(opened, b"1\r\nx\r\n" if is_chunked else b"x", IDLE_S / 5)
        answer = rest(opened)
    assert BODY_S - 0.5 < took_s < BODY_S + SPARE_S
    assert b" 408 " in answer
    assert b"too_slow" in answer


def test_a_body_that_stops_coming_is_refused_after_the_pause_that_it_may_make(hasty: Served) -> None:
    with client(hasty) as opened:
        opened.sendall(POST + b"Content-Length: 5000000\r\n\r\n" + BEGIN)
        started = time.monotonic()
        answer = rest(opened)
    assert IDLE_S - 0.5 < time.monotonic() - started < IDLE_S + SPARE_S
    assert b" 408 " in answer


def test_slow_bodies_take_no_seat_from_others(hasty: Served, media: dict[str, list[Path]]) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_WAITING):
            opened = stack.enter_context(client(hasty))
            opened.sendall(POST + b"Content-Length: 5000000\r\n\r\n" + BEGIN)
        assert health(hasty)["n_waiting"] == 0
        connection = stack.enter_context(
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", hasty.port, timeout=60))
        )
        body = BEGIN.replace(b".wav", b".jpg") + media["image"][0].read_bytes() + b"\r\n--b--\r\n"
        connection.request("POST", "/api/identify", body, {"Content-Type": "multipart/form-data; boundary=b"})
        assert connection.getresponse().status == 200


def test_clients_that_go_away_are_counted_and_fill_no_log(hasty: Served) -> None:
    assert hasty.process.stderr
    while select.select([hasty.process.stderr], [], [], 0.5)[0]:
        os.read(hasty.process.stderr.fileno(), 65536)
    for _ in range(5):
        with client(hasty) as opened:
            opened.sendall(POST + b"Content-Length: 5000000\r\n\r\n" + BEGIN)
            time.sleep(0.2)
    with urllib.request.urlopen(f"{hasty.url}/metrics", timeout=60) as answer:
        counts = answer.read().decode()
    n_left = re.search(r'biovita_requests_total{route="/api/identify",status="499"} (\d+)', counts)
    assert n_left
    assert int(n_left[1]) >= 5
    assert 'status="500"' not in counts
    assert not select.select([hasty.process.stderr], [], [], 1.0)[0]


@pytest.mark.parametrize("before", [b"", ALIVE], ids=["the first", "the second"])
@pytest.mark.parametrize("part", [b"", b"x"], ids=["silent", "byte by byte"])
def test_a_head_that_never_ends_is_dropped(hasty: Served, before: bytes, part: bytes) -> None:
    with client(hasty) as opened:
        if before:
            opened.sendall(before)
            answer = b""
            while not answer.endswith(b"}"):
                answer += opened.recv(65536)
        opened.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        took_s = dribble(opened, part, HEAD_S / 5) if part else 0.0
        started = time.monotonic()
        assert rest(opened) == b""
        took_s += time.monotonic() - started
    assert HEAD_S - 0.5 < took_s < 2 * HEAD_S + SPARE_S


def test_a_connection_that_says_nothing_is_dropped(hasty: Served) -> None:
    started = time.monotonic()
    with client(hasty) as opened:
        assert rest(opened) == b""
    assert HEAD_S - 0.5 < time.monotonic() - started < HEAD_S + SPARE_S


def test_an_answer_that_nobody_takes_is_dropped_and_a_slow_reader_gets_all_of_it(
    hasty: Served, media: dict[str, list[Path]]
) -> None:
    parts = [BEGIN + media["audio"][0].read_bytes() + b"\r\n"] * 4
    body = b"".join(parts) + b"--b--\r\n"
    head = POST.replace(b"/api/identify", b"/") + f"Content-Length: {len(body)}\r\n\r\n".encode()
    n_open = n_descriptors(hasty)
    with socket.socket() as never, socket.socket() as slow:
        for opened in (never, slow):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            opened.settimeout(60)
            opened.connect(("127.0.0.1", hasty.port))
            opened.sendall(head + body)
        answer = b""
        while part := slow.recv(65536):
            answer += part
            time.sleep(0.002)
            length = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"\r\n\r\n" in answer else -1
            if length > 0 and len(answer.split(b"\r\n\r\n", 1)[1]) == length:
                break
        assert answer.rstrip().endswith(b"</html>")
        end = time.monotonic() + TAKE_S + 2 * HEAD_S + SPARE_S
        while n_descriptors(hasty) > n_open + 1 and time.monotonic() < end:
            time.sleep(0.1)
        assert n_descriptors(hasty) <= n_open + 1  # the slow reader's may be kept alive


def n_descriptors(server: Served) -> int:
    """Count the sockets that the server has open."""
    there = 0
    for one in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            there += str(one.readlink()).startswith("socket:")
    return there


def test_after_all_of_them_the_server_stops_cleanly(hasty: Served) -> None:
    with client(hasty) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        assert hasty.stop() == 0
