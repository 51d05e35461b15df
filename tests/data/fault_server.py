"""A web server on loopback that fails in every way we could think of: raw sockets, one thread a connection.

A URL is `http://HOST:PORT/KIND`; `FAULTS` says what each kind does and what should come of it. `server.hits` has the
time and path of every request that arrived.
"""

import gzip
import io
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from biovita.media.audio import write_audio

AUDIO_RATE_HZ = 8_000


@dataclass(frozen=True)
class Reply:
    """One request, and how to answer it."""

    server: "FaultServer"
    socket: socket.socket
    path: str
    headers: Mapping[str, str]
    n: int  # how often this path was asked before
    body: bytes

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self, status: int = 200, *lines: str) -> None:
        self.raw("\r\n".join([f"HTTP/1.1 {status} Status", *lines, "", ""]).encode("latin-1"))

    def whole(self, body: bytes | None = None, *lines: str, status: int = 200) -> None:
        body = self.body if body is None else body
        self.head(status, f"Content-Length: {len(body)}", *lines)
        self.raw(body)

    @property
    def offset(self) -> int | None:
        """Where a Range asks to begin."""
        asked = self.headers.get("range", "")
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else None

    def rest(self, begin: int, end: int | None = None, etag: str = '"a"', says: int | None = None) -> None:
        """Answer a Range with 206."""
        n = len(self.body)
        span = f"Content-Range: bytes {begin if says is None else says}-{n - 1}/{n}"
        self.head(206, f"Content-Length: {n - begin}", span, f"ETag: {etag}")
        self.raw(self.body[begin:end])

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError


class Closed(Exception):  # noqa: N818 - the handler has closed the connection on purpose
    pass


def cut(reply: Reply, etag: str = 'ETag: "a"') -> None:
    """Send the head for the whole body and half of it."""
    reply.head(200, f"Content-Length: {len(reply.body)}", etag)
    reply.raw(reply.body[: len(reply.body) // 2])
    raise Closed


def retry(*lines: str, status: int = 429, times: int = 1) -> Callable[[Reply], None]:
    def handler(reply: Reply) -> None:
        if reply.n < times:
            reply.whole(b"wait", *lines, status=status)
        else:
            reply.whole()

    return handler


def retry_date(seconds: float) -> Callable[[Reply], None]:
    def handler(reply: Reply) -> None:
        now = datetime.now(UTC)
        later = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
        retry(f"Retry-After: {later}", f"Date: {format_datetime(now, usegmt=True)}")(reply)

    return handler


def status(code: int, body: bytes = b"<html>error</html>") -> Callable[[Reply], None]:
    return lambda reply: reply.whole(body, status=code)


def redirect(location: str) -> Callable[[Reply], None]:
    def handler(reply: Reply) -> None:
        there = location.format(port=reply.server.port, host=reply.server.host)
        reply.whole(b"", f"Location: {there}", status=302)

    return handler


def hops(reply: Reply) -> None:
    n = int(reply.path.partition("?")[2] or 0)
    if n < 21:
        reply.whole(b"", f"Location: /redirect_21_hops?{n + 1}", status=302)
    else:
        reply.whole()


def drip(reply: Reply) -> None:
    reply.head(200, f"Content-Length: {len(reply.body)}")
    for byte in reply.body:
        reply.raw(bytes([byte]))
        time.sleep(0.02)


def slow_head(reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\n")
    for n in range(1000):
        reply.raw(f"X-{n}: y\r\n".encode())
        time.sleep(0.05)


def stall(n_bytes: int) -> Callable[[Reply], None]:
    def handler(reply: Reply) -> None:
        if n_bytes:
            reply.head(200, f"Content-Length: {len(reply.body)}")
            reply.raw(reply.body[:n_bytes])
        reply.server.stopping.wait(30)

    return handler


def without_length(share: float) -> Callable[[Reply], None]:
    def handler(reply: Reply) -> None:
        reply.head(200, "Connection: close")
        reply.raw(reply.body[: int(len(reply.body) * share)])
        raise Closed

    return handler


def chunked(size: int, share: float = 1.0) -> Callable[[Reply], None]:
    def handler(reply: Reply) -> None:
        reply.head(200, "Transfer-Encoding: chunked")
        end = int(len(reply.body) * share)
        chunks = [reply.body[i : i + size] for i in range(0, end, size)]
        reply.raw(b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks))
        if share < 1:
            raise Closed
        reply.raw(b"0\r\n\r\n")

    return handler


def bad_chunk(reply: Reply) -> None:
    reply.head(200, "Transfer-Encoding: chunked")
    reply.raw(b"5\r\nabcde\r\nzz\r\nno number\r\n0\r\n\r\n")


def endless(reply: Reply) -> None:
    reply.head(200, "Connection: close")
    while True:
        reply.raw(bytes(65536))


def lengths(*values: str, extra: bytes = b"") -> Callable[[Reply], None]:
    def handler(reply: Reply) -> None:
        texts = [
            value.format(n=len(reply.body), half=len(reply.body) // 2, more=len(reply.body) + 10) for value in values
        ]
        reply.head(200, *(f"Content-Length: {text}" for text in texts))
        reply.raw(reply.body + extra)
        raise Closed

    return handler


def coded(pack: Callable[[bytes], bytes]) -> Callable[[Reply], None]:
    return lambda reply: reply.whole(pack(gzip.compress(reply.body)), "Content-Encoding: gzip")


def resumed(second: Callable[[Reply], None], then: Callable[[Reply], None] = Reply.whole) -> Callable[[Reply], None]:
    """Cut the first answer, give the second in some way, and the third as asked."""

    def handler(reply: Reply) -> None:
        [cut, second, then][min(reply.n, 2)](reply)

    return handler


def resets(reply: Reply) -> None:
    """Reset the connection at a quarter, a half and three quarters; resume honestly."""
    begin = reply.offset or 0
    quarter = len(reply.body) // 4
    if reply.n < 3:
        if reply.offset is None:
            reply.head(200, f"Content-Length: {len(reply.body)}", 'ETag: "a"')
            reply.raw(reply.body[:quarter])
        else:
            reply.rest(begin, begin + quarter)
        time.sleep(0.1)  # a reset overtakes what is still on its way
        reply.reset()
    reply.rest(begin)


def flaky(reply: Reply) -> None:
    if reply.n < 2:
        reply.reset()
    reply.whole()


def picture(rng: np.random.Generator, side_px: int = 48) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (side_px, side_px, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def new_content(reply: Reply) -> None:
    """Give the other version whole, as a server does whose If-Range does not match."""
    reply.whole(reply.server.others[reply.path.strip("/")], 'ETag: "b"')


PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
OK = "ok"

# kind -> (what it does, what should come of it: ok, or class and reason or detail)
FAULTS: dict[str, tuple[Callable[[Reply], None], str]] = {
    "plain": (Reply.whole, OK),
    "wrong_content_type": (lambda r: r.whole(None, "Content-Type: text/html"), OK),
    "disposition_with_up_steps": (lambda r: r.whole(None, "Content-Disposition: attachment; filename=../../x"), OK),
    "many_headers_and_cookies": (lambda r: r.whole(None, *(f"Set-Cookie: c{n}=1" for n in range(1000))), OK),
    "429_seconds": (retry("Retry-After: 1"), OK),
    "429_date": (retry_date(1), OK),
    "429_date_in_the_past": (retry_date(-3600), OK),
    "429_nonsense": (retry("Retry-After: soon"), OK),
    "429_without": (retry(), OK),
    "503_burst": (retry(status=503, times=3), OK),
    "503_with_seconds": (retry("Retry-After: 1", status=503), OK),
    "500_always": (status(500), "temporary 500"),
    "503_always": (status(503), "temporary 503"),
    "404": (status(404), "permanent 404"),
    "410": (status(410), "permanent 410"),
    "451": (status(451), "permanent 451"),
    "204": (lambda r: r.head(204), "permanent 204"),
    "206_unasked": (lambda r: r.rest(100), "permanent 206"),
    "drip": (drip, "temporary timeout"),
    "slow_head": (slow_head, "temporary timeout"),
    "stall_before_the_head": (stall(0), "temporary timeout"),
    "stall_in_the_body": (stall(500), "temporary timeout"),
    "cut_with_length": (lambda r: cut(r), "temporary cut off"),
    "cut_without_length": (without_length(0.5), "temporary truncated"),
    "whole_without_length": (without_length(1), OK),
    "chunked": (chunked(1000), OK),
    "tiny_chunks": (chunked(1), OK),
    "chunked_cut": (chunked(1000, 0.5), "temporary cut off"),
    "bad_chunk_size": (bad_chunk, "permanent broken HTTP"),
    "html_with_200": (lambda r: r.whole(PAGE, "Content-Type: audio/mpeg"), "permanent html_document"),
    "json_with_200": (lambda r: r.whole(b'{"error": "not found"}'), "permanent json_document"),
    "placeholder_picture_for_a_sound": (Reply.whole, "permanent wrong_modality"),
    "empty": (lambda r: r.whole(b""), "permanent empty_file"),
    "noise": (lambda r: r.whole(r.body[::-1]), "permanent not_media"),
    "redirect": (redirect("/plain_2"), OK),
    "redirect_to_loopback": (redirect("http://127.0.0.9:{port}/plain"), "refused redirects to"),
    "redirect_to_another_host": (redirect("http://example.org/plain"), "refused redirects to"),
    "redirect_to_a_file": (redirect("file:///etc/passwd"), "refused redirects to"),
    "redirect_with_user": (redirect("http://a:b@{host}:{port}/plain"), "refused redirects to"),
    "redirect_to_nowhere": (lambda r: r.whole(b"", status=302), "refused redirects to"),
    "redirect_loop": (redirect("/redirect_loop"), "refused more than 5 redirects"),
    "redirect_21_hops": (hops, "refused more than 5 redirects"),
    "endless": (endless, "permanent larger than"),
    "announced_10_gb": (lambda r: r.head(200, "Content-Length: 10000000000"), "permanent larger than"),
    "gzip": (coded(lambda data: data), "permanent coded although we asked for it plain"),
    "gzip_cut": (coded(lambda data: data[:100]), "permanent coded although we asked for it plain"),
    "gzip_bomb": (
        lambda r: r.whole(gzip.compress(bytes(10**7)), "Content-Encoding: gzip"),
        "permanent coded although we asked for it plain",
    ),
    "length_too_long": (lengths("{more}"), "temporary cut off"),
    "length_too_short": (lengths("{half}"), "permanent truncated"),
    "length_negative": (lengths("-1"), "permanent broken HTTP"),
    "length_no_number": (lengths("many"), "permanent broken HTTP"),
    "two_lengths": (lengths("{n}", "{half}"), "permanent broken HTTP"),
    "length_and_chunks": (
        lambda r: r.whole(b"0\r\n\r\n", "Transfer-Encoding: chunked"),
        "permanent broken HTTP",
    ),
    "resets_at_three_places": (resets, OK),
    "reset_twice": (flaky, OK),
    "reset_always": (Reply.reset, "temporary cut off"),
    "200_for_206": (resumed(Reply.whole), OK),
    "206_of_another_offset": (resumed(lambda r: r.rest(r.offset or 0, says=7)), OK),
    "206_of_another_version": (resumed(lambda r: r.rest(r.offset or 0, etag='"b"')), OK),
    "206_that_is_cut": (resumed(lambda r: r.rest(r.offset or 0, -100), lambda r: r.rest(r.offset or 0)), OK),
    "416": (resumed(status(416)), OK),
    "changed_content_on_resume": (resumed(new_content, new_content), OK),
    "no_http": (lambda r: r.raw(b"220 ftp.example.org ready\r\n\r\n"), "permanent broken HTTP"),
}
ELSEWHERE = {"plain_2": Reply.whole, "403": status(403), "429_ten_years": retry("Retry-After: 315360000", times=9**9)}


class FaultServer:
    """Listens on a loopback address while it is open as a context.

    Args:
        host: 127.0.0.1, or on Linux any other of 127.0.0.0/8, which counts as another host.
        folder: where to write a sound for a moment.
        n_plain: how many good files it has besides, under `/file/0`, `/file/1` and so on.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", n_plain: int = 0, delay_s: float = 0.0) -> None:
        self.host, self.delay_s = host, delay_s
        self.hits: list[tuple[float, str]] = []
        self.stopping = threading.Event()
        rng = np.random.default_rng(11)
        self.bodies = {kind: picture(rng) for kind in (*FAULTS, *ELSEWHERE)}
        self.others = {"changed_content_on_resume": picture(rng)}
        for n in range(n_plain):
            self.bodies[f"file/{n}"] = picture(rng)
        write_audio(folder / "whole.wav", rng.uniform(-0.5, 0.5, 3_000), AUDIO_RATE_HZ)
        self.bodies["tiny_chunks"] = picture(rng, 18)
        for kind in ("plain", "resets_at_three_places", "length_too_short"):
            self.bodies[kind] = (folder / "whole.wav").read_bytes()[:-2] + kind[:2].encode()
        (folder / "whole.wav").unlink()
        self.audio = {"plain", "resets_at_three_places", "length_too_short",
                      "placeholder_picture_for_a_sound", "html_with_200"}  # fmt: skip
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._listener = socket.create_server((host, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                connection.close()

    def url(self, kind: str) -> str:
        return f"http://{self.host}:{self.port}/{kind}"

    def modality_of(self, *kinds: str) -> dict[str, str]:
        """Return the URLs of some kinds with what they should be."""
        return {self.url(kind): "audio" if kind in self.audio else "image" for kind in kinds}

    def n_hits(self, kind: str) -> int:
        return sum(path.partition("?")[0] == f"/{kind}" for _, path in self.hits)

    def forget(self) -> None:
        """Start counting anew, as if no path had been asked."""
        self.hits.clear()
        self._asked.clear()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            data = b""
            while not self.stopping.is_set():
                while b"\r\n\r\n" not in data:
                    block = connection.recv(65536)
                    if not block:
                        return
                    data += block
                head, _, data = data.partition(b"\r\n\r\n")
                self._answer(connection, head.decode("latin-1"))
        except (OSError, Closed):
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, head: str) -> None:
        now = time.time()
        first, *lines = head.split("\r\n")
        path = first.split()[1]
        kind = path.partition("?")[0].strip("/")
        with self._lock:
            self.hits.append((now, path))
            n = self._asked[kind]
            self._asked[kind] += 1
        if self.delay_s:
            time.sleep(self.delay_s)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        reply = Reply(self, connection, path, headers, n, self.bodies.get(kind, b""))
        handler = FAULTS[kind][0] if kind in FAULTS else ELSEWHERE.get(kind, Reply.whole)
        handler(reply)
        if kind in FAULTS and FAULTS[kind][1] != OK:
            raise Closed  # whatever that was, nothing follows on this connection
