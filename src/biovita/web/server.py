"""The server under the application: a connection may not dawdle, whichever way the bytes go, and a stop is graceful."""

import asyncio
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from biovita.errors import WebError

HEAD_BYTES = 16_384
HEAD_S = 10.0  # a client may take so long for the head of a request; after the first one up to twice as long
TAKE_S = 60.0  # a client may so long take nothing of an answer that waits for it
DRAIN_S = 20  # what is being answered when a stop is asked may take so long
BACKLOG = 512
MAX_PORT = 65_535
MAX_CONNECTIONS = 100  # of one address


class Connection(H11Protocol):
    """A connection that is dropped where a head or the taking of an answer dawdles, or its address has too many.

    The body of a request is the gate's to wait for (`gate.Gate.limited`).
    """

    of_address: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.of_address[self.address] += 1
        self.seen: tuple[object, ...] = (None, False, 0)
        self.since = self.loop.time()
        self.timer = self.loop.call_later(HEAD_S, self._look)
        if self.of_address[self.address] > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.of_address[self.address] -= 1
        if not self.of_address[self.address]:
            del self.of_address[self.address]
        super().connection_lost(exc)

    def _look(self) -> None:
        """Drop a client that has done nothing since the last look, where it is the client's turn."""
        n_left = self.transport.get_write_buffer_size()
        is_at_work = self.cycle is not None and not self.cycle.response_complete
        seen = (self.cycle, is_at_work, n_left)
        if seen != self.seen:
            self.seen, self.since = seen, self.loop.time()
        is_theirs = n_left > 0 or not is_at_work
        if is_theirs and self.loop.time() - self.since >= (TAKE_S if n_left else HEAD_S):
            self.transport.abort()
        else:
            self.timer = self.loop.call_later(HEAD_S, self._look)


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        WebError: there is no such port, the address is none of this machine's, or the port is taken.
    """
    if not 0 <= port <= MAX_PORT:
        raise WebError(f"--port {port}: give 1 to {MAX_PORT}, or 0 for a free one")
    with ExitStack() as stack:
        try:
            family, kind, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            opened = stack.enter_context(socket.socket(family, kind))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(at)
            opened.listen(BACKLOG)  # who comes before the server runs waits for it
        except OSError as error:
            said = error.strerror or error
            raise WebError(f"--host {host} --port {port}: cannot listen there: {said}; choose another") from error
        stack.pop_all()
        return opened


def run(app: FastAPI, opened: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; refuse new requests then, and finish what is being answered."""
    config: dict[str, Any] = {"http": Connection, "ws": "none", "lifespan": "on", "access_log": False}
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_graceful_shutdown=DRAIN_S,
            **config,
        )
    )
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again once all is done
    try:
        server.run(sockets=[opened])
    finally:
        signal.signal(signal.SIGTERM, before)
