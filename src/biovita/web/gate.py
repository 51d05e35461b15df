"""What stands before every route: host, origin, token, rate, size and time of a request; and what every answer carries.

It is ASGI itself and no dependency of a route, because a body must be refused before anything parses it.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import socket
import time
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from fastapi import HTTPException, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from biovita.log import warn
from biovita.web.meter import Meter
from biovita.web.settings import Settings

COOKIE = "biovita"
OPEN_PATHS = ("/healthz", "/login")  # and static files: they need no token
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LEFT = 499  # status of a request whose client went away, in the metrics; nobody is there to get it
MAX_ADDRESSES = 10_000  # whose requests are counted at a time
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}

Answer = Callable[[Request, HTTPException], Awaitable[Response]]


class Refusal(HTTPException):
    """A request that is not answered, with one word for programs and one line for people."""

    def __init__(self, status: int, error: str, detail: str, *, retry_s: float | None = None, **more: object) -> None:
        headers = {} if retry_s is None else {"Retry-After": str(max(1, round(retry_s + 0.5)))}
        super().__init__(status, detail, headers)
        self.error = error
        self.more = more


class Gate:
    """Refuses what no route should see, and gives every answer its headers and its request's number.

    Args:
        app: what lies behind.
        settings: limits, names and token.
        meter: counts every request.
        answer: turns a refusal into an answer, a page or JSON.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, meter: Meter, answer: Answer) -> None:
        self.app, self.settings, self.meter, self.answer = app, settings, meter, answer
        self.names = {"localhost", "127.0.0.1", "::1", socket.gethostname().lower(), settings.host.lower()}
        self.names |= {name.lower() for name in settings.names}
        self.allowance = Allowance(settings.requests_per_min)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 0
        request = Request(scope, receive)
        request.state.id = secrets.token_hex(8)
        request.state.is_read = not has_body(request)

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request.state.id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                if not request.state.is_read:  # else the server would go on and take in all the rest
                    headers["Connection"] = "close"
            await send(message)

        self.meter.n_open += 1
        try:
            self.judge(request)
            await self.app(scope, self.limited(request), send_on)
        except HTTPException as refusal:
            await (await self.answer(request, refusal))(scope, receive, send_on)
        except ClientDisconnect:
            status = LEFT
        except Exception as error:
            warn(f"request {request.state.id}: {type(error).__name__}\n{traceback.format_exc()}")
            if not status:
                broken = Refusal(500, "bug", "something went wrong here; the log has it under this request's number")
                await (await self.answer(request, broken))(scope, receive, send_on)
        finally:
            self.meter.n_open -= 1
            self.meter.count(route_of(scope), status, time.monotonic() - started)

    def judge(self, request: Request) -> None:
        """Refuse a request for what its head says.

        Raises:
            Refusal: a foreign host or origin, no token, too many requests, a body that is too long or coded.
        """
        host = request.headers.get("host", "")
        server = (request.scope.get("server") or ("", 0))[0]
        if name_in(host) not in self.names | {server}:
            raise Refusal(421, "bad_host", "this server has another name; --name adds one")
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() != f"{request.url.scheme}://{host}".lower():
            raise Refusal(403, "foreign_origin", "requests are taken from this server's own pages only")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method not in SAFE_METHODS:
            raise Refusal(403, "foreign_origin", "requests are taken from this server's own pages only")
        is_static = request.url.path.startswith("/static/")
        knows = self.knows(request)
        if request.method not in SAFE_METHODS or not knows:
            wait_s = self.allowance.wait_s(request.client.host if request.client else "")
            if wait_s and not is_static and request.url.path != "/healthz":
                raise Refusal(429, "too_many_requests", "too many requests from your address", retry_s=wait_s)
        if not knows and request.url.path not in OPEN_PATHS and not is_static:
            raise Refusal(401, "no_token", "this server asks for its token: log in, or send Authorization: Bearer")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "coded_body", "send the body as it is, not compressed")
        length = request.headers.get("content-length")
        if length is not None and "transfer-encoding" in request.headers:
            raise Refusal(400, "bad_request", "a body has a length or comes in chunks, not both")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Refusal(400, "bad_request", "the length of the body is no number")
        if length is not None and int(length) > self.settings.max_body_bytes:
            raise self._too_large()

    def knows(self, request: Request) -> bool:
        """Say whether a request has the token, in its header or as the cookie of the login page."""
        token = self.settings.token
        if token is None:
            return True
        given = request.headers.get("authorization", "")
        shown = request.cookies.get(COOKIE, "")
        return same(given, f"Bearer {token}") or same(shown, cookie_of(token))

    def limited(self, request: Request) -> Receive:
        """Receive a body no longer than it may be, from a client that does not dawdle.

        Raises:
            Refusal: from the call that gets a byte too many, or none in time.
        """
        n_bytes, deadline, is_whole = 0, time.monotonic() + self.settings.body_s, False

        async def receive() -> Message:
            nonlocal n_bytes, is_whole
            if is_whole:  # what comes now is that the client goes away
                return await request.receive()
            left_s = min(self.settings.idle_s, deadline - time.monotonic())
            try:
                message = await asyncio.wait_for(request.receive(), max(0.0, left_s))
            except TimeoutError:
                raise Refusal(408, "too_slow", "the body did not arrive in time") from None
            n_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if n_bytes > self.settings.max_body_bytes:
                raise self._too_large()
            request.state.is_read = is_whole
            return message

        return receive

    def _too_large(self) -> Refusal:
        most = self.settings.max_body_bytes / 1e6
        return Refusal(413, "body_too_large", f"a request may have {most:g} MB; for more there is `biovita identify`")


class Allowance:
    """How many requests each address may still make; it fills up evenly, to half a minute's worth."""

    def __init__(self, per_min: int) -> None:
        self.per_s, self.most = per_min / 60, max(1.0, per_min / 2)
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, who: str) -> float:
        """Take one request from what an address has left; return the seconds to wait where nothing is left, else 0."""
        now = time.monotonic()
        left, since = self.left.pop(who, (self.most, now))
        left = min(self.most, left + (now - since) * self.per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self.per_s
        self.left[who] = (left if wait_s else left - 1, now)
        if len(self.left) > MAX_ADDRESSES:
            self.left.popitem(last=False)
        return wait_s


def has_body(request: Request) -> bool:
    """Say whether a body follows the head."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def name_in(host: str) -> str:
    """Return the name in a Host header, without port and brackets, lower case; "" where it is no host."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d+)?", host.lower())
    return (found[1] or found[2]) if found else ""


def cookie_of(token: str) -> str:
    """Make what a browser keeps after a login: it proves the token and does not show it."""
    return hmac.new(token.encode(), b"biovita cookie", hashlib.sha256).hexdigest()


def same(given: str, right: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def route_of(scope: Scope) -> str:
    """Name the route that answered, for counting: its pattern, never what was typed."""
    return getattr(scope.get("route"), "path", "other")
