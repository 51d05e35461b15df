"""A real server on loopback: slow and rude clients are dropped, a stop is graceful, nothing stays on disk."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served import TOKEN, Served, serving

from biovita.web.desk import PREFIX

MARKER = b"a planted marker of sixty-four bytes, found nowhere afterwards.."


def form(*paths: Path, **fields: str) -> tuple[bytes, dict[str, str]]:
    """Make a multipart body by hand."""
    body = b""
    for name, value in fields.items():
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for path in paths:
        body += f'--b\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'.encode()
        body += path.read_bytes() + b"\r\n"
    return body + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


def ask(
    server: Served, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def raw(server: Served, *parts: bytes) -> bytes:
    """Send bytes as they are, and read what comes until the server closes or has said enough."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as opened:
        answer = b""
        with contextlib.suppress(ConnectionError):
            for part in parts:
                opened.sendall(part)
            while b"\r\n\r\n" not in answer and (part := opened.recv(65536)):
                answer += part
        return answer


HEAD = b"Host: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"


def test_a_real_server_names_a_recording(served: Served, media: dict[str, list[Path]]) -> None:
    status, content = ask(served, "POST", "/api/identify", *form(media["audio"][0], k="2"))
    assert status == 200
    assert len(json.loads(content)["files"][0]["whole"]["taxa"]) == 2


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: example.org\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", 421),
        (b"TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 300_000 + b"\r\n\r\n", 431),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"GET /static/..%2f..%2fapp.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"\x16\x03\x01 hello\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_requests_that_are_not_as_they_should_be_get_a_4xx(served: Served, head: bytes, status: int) -> None:
    answer = raw(served, head)
    if status == 431 and not answer:  # the server has closed while we were still sending
        return
    assert int(answer.split(b" ")[1]) in ({status} if status != 431 else {400, 431})
    assert b"Traceback" not in answer


def test_a_body_in_chunks_is_cut_off_at_the_limit(served: Served) -> None:
    """The server stops reading: what was sent when the answer came is not much more than the limit."""
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    begin = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as opened:
        opened.sendall(b"POST /api/identify HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        opened.sendall(f"{len(begin):x}\r\n".encode() + begin + b"\r\n")
        n_sent = 0
        with contextlib.suppress(ConnectionError):
            while n_sent < 3 * 64_000_000:
                opened.sendall(chunk)
                n_sent += 65_536
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = opened.recv(65536)
    assert n_sent < 64_000_000 + 8_000_000  # what the kernel's buffers hold comes on top of our limit
    assert not answer or b" 413 " in answer


def test_a_client_that_says_a_length_that_is_too_long_is_not_listened_to(served: Served) -> None:
    started = time.monotonic()
    answer = raw(served, b"POST /api/identify HTTP/1.1\r\n" + HEAD + b"Content-Length: 99999999999\r\n\r\n", b"x")
    assert b" 413 " in answer
    assert time.monotonic() - started < 5


def test_a_slow_head_is_dropped_and_others_do_not_wait(served: Served) -> None:
    slow = [socket.create_connection(("127.0.0.1", served.port), timeout=30) for _ in range(40)]
    try:
        for opened in slow:
            opened.sendall(b"GET / HTTP/1.1\r\nHo")
        started = time.monotonic()
        assert ask(served, "GET", "/healthz")[0] == 200
        assert time.monotonic() - started < 2
        for opened in slow:
            with contextlib.suppress(ConnectionError):
                assert opened.recv(10) == b""
        assert 5 < time.monotonic() - started < 15
    finally:
        for opened in slow:
            opened.close()


def test_a_client_that_goes_away_leaves_nothing(served: Served, media: dict[str, list[Path]]) -> None:
    body, _ = form(media["audio"][0])
    for part in (b"", body[: len(body) // 2], body):
        with socket.create_connection(("127.0.0.1", served.port)) as opened:
            length = f"Content-Length: {len(body)}\r\n\r\n".encode()
            opened.sendall(b"POST /api/identify HTTP/1.1\r\n" + HEAD + length + part)
    end = time.monotonic() + 20
    while left(served.process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left(served.process.pid)


def left(pid: int) -> list[Path]:
    return [path for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{pid}-*") for path in folder.rglob("*")]


def test_a_stop_answers_what_it_has_begun_and_exits_0(model_folder: Path, media: dict[str, list[Path]]) -> None:
    with serving("--model", model_folder, "--token", TOKEN) as server:
        body, headers = form(*media["audio"][:3], *media["image"][:1])
        headers["Authorization"] = f"Bearer {TOKEN}"
        codes: list[int] = []

        def client() -> None:
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                codes.append(ask(server, "POST", "/api/identify", body, headers)[0])

        clients = [threading.Thread(target=client) for _ in range(8)]
        for thread in clients:
            thread.start()
        while n_waiting(server, headers) + len(codes) < len(clients):
            time.sleep(0.02)
        assert server.stop() == 0
        for thread in clients:
            thread.join()
        assert codes == [200] * 8
        with pytest.raises(ConnectionError):
            ask(server, "GET", "/healthz")
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{server.process.pid}-*"))


def n_waiting(server: Served, headers: dict[str, str]) -> int:
    text = ask(server, "GET", "/metrics", headers={"Authorization": headers["Authorization"]})[1].decode()
    return int(text.split("\nbiovita_waiting_requests ")[1].split()[0])


def test_nothing_of_an_upload_is_left_after_kill_9_and_a_start(
    model_folder: Path, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    sound = tmp_path / "marked.flac"
    sound.write_bytes(media["audio"][0].read_bytes() + MARKER * 50)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving("--model", model_folder, TMPDIR=str(temporary)) as server:
        assert ask(server, "POST", "/api/identify", *form(sound))[0] == 200
        assert not found(temporary)
        thread = threading.Thread(target=rude, args=(server, form(*[sound] * 4)))
        thread.start()
        while not found(temporary):
            time.sleep(0.005)
        server.process.kill()
        thread.join()
        server.process.wait()
    assert found(temporary)
    with serving("--model", model_folder, TMPDIR=str(temporary)) as server:
        assert ask(server, "GET", "/healthz")[0] == 200
        assert not found(temporary)
        assert server.stop() == 0
    assert not list(temporary.iterdir())


def rude(server: Served, request: tuple[bytes, dict[str, str]]) -> None:
    with contextlib.suppress(ConnectionError, http.client.HTTPException, OSError):
        ask(server, "POST", "/api/identify", *request)


def found(folder: Path) -> bool:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and MARKER in path.read_bytes():
                return True
    return False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to serve"),
        (["--results", "no.json"], "no.json: no such results file"),
        (["--archive", "nowhere"], "--archive: searching needs the model"),
        (["--results", "{results}", "--host", "0.0.0.0"], "others can reach this address; give --token"),
        (["--results", "{results}", "--token", "short"], "at least 16"),
        (["--results", "{results}", "--port", "99999"], "--port 99999: give 1 to 65535"),
        (["--results", "{results}", "--port", "{taken}"], "cannot listen there: Address already in use"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_2(
    biovita: Callable[..., Any], results_file: Path, words: list[str], said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = biovita("serve", *[word.format(results=results_file, taken=port) for word in words])
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from biovita.cli import main; sys.argv = ['biovita', 'serve', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'fastapi', 'uvicorn', 'lancedb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.splitlines()[-1] == "[]"
