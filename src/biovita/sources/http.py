"""The one door to the network: polite, bounded, and only to the hosts that it was made for.

Every request, redirect and retry takes its host's turn (`budget`), passes the rules for URLs (`address`) and is
connected to the numeric address that was checked. Bodies are streamed as they are sent: other codings, other lengths
than announced and more bytes than allowed are refused. What fails says `refused`, `permanent` or `temporary`; messages
are `URL: what happened; what to do`, and never show a query, a header or a key.

Neither `httpx.Client` nor its redirects, cookies, proxies and environment are used, only its transport interface:
tests pass an `httpx.MockTransport`.
"""

import functools
import json
import math
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

import httpcore
import httpx

from biovita.errors import ConfigError, FetchError
from biovita.sources.address import Address, Policy, check_url, resolve, shown
from biovita.sources.budget import MAX_BLOCK_S, Budgets

T = TypeVar("T")

MAX_HOPS = 5
STREAK = 10  # this many refusals one after another, and a host is left alone until the next run
COUNT_BYTES = 1 << 20  # how finely bytes are counted while they arrive
_REDIRECTS = (301, 302, 303, 307, 308)
_RETRIED = (408, 425, 429, *range(500, 600))
_LATER = (401, 403, 407)  # a key, a block: nothing that asking again at once would mend
_LOCATION = re.compile(r'[!"$-\[\]-~]+')  # as in a URL: ASCII, no blank, backslash or fragment
_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")
_NO_LINE = (httpx.ConnectError, httpx.ConnectTimeout, httpcore.ConnectError, httpcore.ConnectTimeout)
_CORE_ERRORS = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one body may be and cost."""

    max_bytes: int
    total_s: float
    connect_s: float = 10.0
    idle_s: float = 30.0
    """also the time that the slowest start is given before `min_bytes_per_s` counts"""
    min_bytes_per_s: float = 4_000.0
    """averaged over the whole body"""


LIMITS: Final[Mapping[str, Limits]] = {
    "image": Limits(max_bytes=200 * 10**6, total_s=900.0),
    "audio": Limits(max_bytes=2 * 10**9, total_s=7200.0),
}


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A body that has arrived.

    Attributes:
        size: in bytes.
        etag: of the server, or empty.
        framed: whether the server said where the body ends; if not, only its content can tell that nothing is missing.
    """

    size: int
    etag: str
    framed: bool


class _AgainError(FetchError):
    """A temporary failure that is worth asking again in this run."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, kind="temporary", status=status)


class _UnreachableError(Exception):
    """The host has no address that may be connected to."""


class Door:
    """Asks servers for things; one for all threads of a process.

    Args:
        policy: where it leads.
        budgets: what the hosts allow.
        contact: an address for the operators of the servers, sent with every request.
        transport: tests pass a function of theirs.
        attempts: requests for one thing, if the failures are temporary.
        backoff_s: between the first two of them; doubles.
        patience_s: the longest wait for a host's turn.

    Raises:
        ConfigError: the contact cannot stand in a header.
    """

    def __init__(
        self,
        policy: Policy,
        budgets: Budgets,
        *,
        contact: str = "",
        transport: httpx.BaseTransport | None = None,
        attempts: int = 4,
        backoff_s: float = 1.0,
        patience_s: float = 600.0,
    ) -> None:
        if not (contact.isascii() and contact.isprintable()):
            raise ConfigError(f"contact {contact!r}: use an e-mail or web address in ASCII")
        self.policy = policy
        self._budgets = budgets
        self._agent = f"biovita/{version('biovita')}" + (f" ({contact})" if contact else "")
        self._attempts, self._backoff_s, self._patience_s = attempts, backoff_s, patience_s
        self._lines = _Lines(policy)
        self._transport = transport or _Transport(self._lines)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._refusals: Counter[str] = Counter()  # in a row, by host
        self._left_alone: dict[str, str] = {}  # host -> why

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Break off whatever other threads are reading or waiting for."""
        self._stop.set()
        self._lines.hang_up()
        self._transport.close()

    def check(self, url: str) -> str:
        """Return the host of a URL that may be asked for; pure.

        Raises:
            FetchError: `refused`.
        """
        return check_url(url, self.policy).host

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 64_000_000,
    ) -> bytes:
        """Return a whole body, such as a page of an API's answer.

        Args:
            url: without what `params` adds.
            params: query; may hold a key, since messages show no query.
            headers: may hold a key as well; with either, a redirect to another host is refused.
            max_bytes: more is refused.

        Raises:
            FetchError: it was refused or did not come.
        """
        limits = Limits(max_bytes=max_bytes, total_s=300.0)
        check_url(url, self.policy)
        full = str(httpx.URL(url).copy_merge_params(params)) if params else url

        def once() -> bytes:
            with self._ask(full, limits, headers or {}, stay=bool(params or headers)) as answer:
                answer.expect(200)
                return b"".join(answer.blocks(limits))

        return self._persist(once)

    def download(self, url: str, part: Path, *, limits: Limits) -> Fetched:
        """Write a body to `part`, going on where an earlier try of the same boot stopped if the server lets us.

        What is in `part` after a failure is kept for the next try, together with a note beside it (`.json`) that says
        of which version of the body it is. Only a 206 of just that version and offset is appended.

        Args:
            url: of the media file.
            part: where to; nobody else may write there.
            limits: see `LIMITS`.

        Raises:
            FetchError: it was refused or did not come.
            OSError: the disk is full or may not be written.
        """
        note = part.with_name(f"{part.name}.json")

        def once() -> Fetched:
            have, validator = _resumable(part, note)
            asked = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
            with self._ask(url, limits, asked) as answer:
                rest = answer.rest(have, validator) if have else None
                if have and rest is None and answer.status in (206, 416):
                    note.unlink()
                    raise _AgainError(f"{shown(url)}: cannot go on where it stopped")
                if rest is None:
                    answer.expect(200)
                    have = 0
                    part.unlink(missing_ok=True)
                    note.write_text(json.dumps({"validator": answer.validator(), "boot": _boot()}))
                with part.open("ab") as file:
                    for block in answer.blocks(limits, have, rest):
                        file.write(block)
                return Fetched(
                    size=part.stat().st_size, etag=answer.header("etag"), framed=answer.framed or rest is not None
                )

        try:
            fetched = self._persist(once)
        except FetchError as error:
            if error.kind != "temporary":
                note.unlink(missing_ok=True)
                part.unlink(missing_ok=True)
            raise
        note.unlink(missing_ok=True)
        return fetched

    def _persist(self, once: Callable[[], T]) -> T:
        """Call until it succeeds, fails for good, or has failed too often."""
        for attempt in range(1, self._attempts):
            try:
                return once()
            except _AgainError:
                self._stop.wait(self._backoff_s * 2 ** (attempt - 1))
        return once()

    @contextmanager
    def _ask(self, url: str, limits: Limits, headers: Mapping[str, str], *, stay: bool = False) -> Iterator["_Answer"]:
        """Send one request, follow its redirects by hand, and yield the answer with its body still to be read.

        With `stay` they may not leave the host, because the request holds what is meant for it alone.
        """
        timeout = {"connect": limits.connect_s, "read": limits.idle_s, "write": limits.idle_s, "pool": limits.idle_s}
        here = check_url(url, self.policy)
        for _ in range(MAX_HOPS + 1):
            self._budget(here, self._budgets.take, patience_s=self._patience_s, stop=self._stop)
            request = httpx.Request(
                "GET",
                here.url,
                headers={"Accept-Encoding": "identity", **headers, "User-Agent": self._agent},
                extensions={"timeout": timeout},
            )
            if request.url.host != here.host:  # the library reads it as another one than we do
                raise FetchError(f"{shown(url)}: not a plain web address", kind="refused")
            with self._faults(here), self._lines.deadline(limits.total_s):
                response = self._transport.handle_request(request)
                try:
                    self._note(here.host, response)
                    if response.status_code not in _REDIRECTS:
                        yield _Answer(here.url, response, functools.partial(self._spend, here))
                        return
                    here = self._redirected(here, response.headers.get("location", ""), stay=stay)
                finally:
                    cast(httpx.SyncByteStream, response.stream).close()
        raise FetchError(f"{shown(url)}: more than {MAX_HOPS} redirects", kind="refused", status=302)

    def _redirected(self, here: Address, location: str, *, stay: bool) -> Address:
        """Read where a redirect leads, by the same rules as any URL."""

        def refuse(where: object) -> FetchError:
            return FetchError(f"{shown(here.url)}: redirects to {where}", kind="refused", status=302)

        if not _LOCATION.fullmatch(location):
            raise refuse("no plain web address")
        try:
            there = check_url(str(httpx.URL(here.url).join(location)), self.policy)
        except httpx.InvalidURL:
            raise refuse("no plain web address") from None
        except FetchError as error:
            raise refuse(error) from None
        if stay and (there.host, there.port) != (here.host, here.port):
            raise refuse("another host, which may not see the key")
        return there

    def _spend(self, here: Address, n_bytes: int, more: bool) -> None:
        self._budgets.spend(here.host, n_bytes)
        if more:
            self._budget(here, self._budgets.check_volume)

    def _budget(self, here: Address, ask: Callable[..., None], **options: Any) -> None:
        """Ask for a turn or for room; the error names the URL in place of the host."""
        if cause := self._left_alone.get(here.host):
            raise FetchError(f"{shown(here.url)}: {cause}; the host is left alone until the next run", kind="temporary")
        try:
            ask(here.host, **options)
        except FetchError as error:
            raise FetchError(f"{shown(here.url)}: {str(error).partition(': ')[2]}", kind="temporary") from None

    def _note(self, host: str, response: httpx.Response) -> None:
        """Obey Retry-After for everybody, and count refusals."""
        status = response.status_code
        self._count(host, str(status) if status in (*_LATER, 429) else "")
        if status in (429, 503):
            seconds = retry_after_s(response.headers.get("retry-after", ""), response.headers.get("date", ""))
            if seconds is None and status == 429:
                seconds = self._backoff_s * self._refusals[host]
            if seconds:
                self._budgets.block(host, seconds)

    def _count(self, host: str, refusal: str) -> None:
        with self._lock:
            self._refusals[host] = self._refusals[host] + 1 if refusal else 0
            if self._refusals[host] >= STREAK:
                self._left_alone[host] = refusal

    @contextmanager
    def _faults(self, here: Address) -> Iterator[None]:
        """Turn what the libraries raise into our errors; `from None`, since theirs may show headers."""
        name = shown(here.url)
        try:
            yield
        except _UnreachableError as error:
            self._count(here.host, str(error))
            raise _AgainError(f"{name}: {error}") from None
        except (httpx.TransportError, *_CORE_ERRORS) as error:
            if self._stop.is_set():
                raise FetchError(f"{name}: stopped", kind="temporary") from None
            if isinstance(error, _NO_LINE):
                is_bad = isinstance(error.__context__, ssl.SSLCertVerificationError)
                self._count(here.host, cause := "bad certificate" if is_bad else "no connection")
                raise _AgainError(f"{name}: {cause}") from None
            if isinstance(error, (httpx.TimeoutException, httpcore.TimeoutException)):
                raise _AgainError(f"{name}: timeout") from None
            if isinstance(error, (httpx.NetworkError, httpcore.NetworkError)) or _is_cut(error):
                raise _AgainError(f"{name}: cut off") from None
            raise FetchError(f"{name}: broken HTTP", kind="permanent") from None


class _Answer:
    """The head of a response, and its body to be read once."""

    def __init__(self, url: str, response: httpx.Response, count: Callable[[int, bool], None]) -> None:
        self.status = response.status_code
        self._name = shown(url)
        self._headers = response.headers
        self._stream = cast(Iterable[bytes], response.stream)  # as sent, whatever the coding
        self._count = count

    def header(self, name: str) -> str:
        return self._headers.get(name, "")

    @property
    def framed(self) -> bool:
        """Whether the end of the body is marked."""
        return bool(self.header("content-length") or self.header("transfer-encoding"))

    def expect(self, *statuses: int) -> int:
        """Refuse every other status, and a coding that we did not ask for."""
        if self.status not in statuses:
            if self.status in _RETRIED:
                raise _AgainError(f"{self._name}: {self.status}", self.status)
            kind = "temporary" if self.status in _LATER else "permanent"
            raise FetchError(f"{self._name}: {self.status}", kind=kind, status=self.status)
        if self.header("content-encoding").strip().lower() not in ("", "identity"):
            raise FetchError(f"{self._name}: coded although we asked for it plain", kind="permanent")
        return self.status

    def validator(self) -> str:
        """Return what names this version of the body, or nothing: a strong ETag, else the date of the last change."""
        etag = self.header("etag")
        return etag if etag and not etag.startswith("W/") else "" if etag else self.header("last-modified")

    def rest(self, have: int, validator: str) -> int | None:
        """Return how many bytes a 206 adds to those that are there; None if it is no 206 or not just the rest."""
        span = _RANGE.fullmatch(self.header("content-range")) if self.status == 206 else None
        if span is None or self.validator() != validator:
            return None
        begin, end, total = (int(number) for number in span.groups())
        self.expect(206)
        is_rest = begin == have < total == end + 1 and self._length() in (None, total - have)
        return total - have if is_rest else None

    def blocks(self, limits: Limits, have: int = 0, rest: int | None = None) -> Iterator[bytes]:
        """Yield the body as it arrives, within the limits.

        Args:
            limits: for the whole, with what is there already.
            have: bytes that are there.
            rest: bytes that must follow; None for whatever length was announced.
        """
        length = self._length() if rest is None else rest
        room = limits.max_bytes - have
        too_large = FetchError(f"{self._name}: larger than {limits.max_bytes:,} bytes", kind="permanent")
        if length is not None and length > room:
            raise too_large
        started = time.monotonic()
        size = counted = 0
        try:
            for block in self._stream:
                size += len(block)
                if size > room:
                    raise too_large
                if size < (time.monotonic() - started - limits.idle_s) * limits.min_bytes_per_s:
                    raise _AgainError(f"{self._name}: timeout")
                yield block
                if size - counted >= COUNT_BYTES:
                    self._count(size - counted, True)
                    counted = size
        finally:
            self._count(size - counted, False)
        if length is not None and size != length:
            raise _AgainError(f"{self._name}: cut off")

    def _length(self) -> int | None:
        """Return the announced length; two of them, or something that is no number, are refused."""
        text = self.header("content-length")
        if not text:
            return None
        if not (text.isascii() and text.isdigit()) or self.header("transfer-encoding"):
            raise FetchError(f"{self._name}: broken HTTP", kind="permanent")
        return int(text)


class _Lines(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, and knows the open connections, so that they can be broken off."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._tcp = httpcore.SyncBackend()
        self._thread = threading.local()
        self._open: set[_Line] = set()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = resolve(host, port, self._policy)
        except FetchError as error:
            raise _UnreachableError(why(error)) from None
        for address in addresses:
            try:
                stream = self._tcp.connect_tcp(address, port, self.left_s(timeout), local_address, socket_options)
                return _Line(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise _UnreachableError("name not found")

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Give this thread's request so long in all, from connecting to the last byte."""
        self._thread.until = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._thread.until

    def left_s(self, timeout: float | None) -> float:
        """Return how long one step may wait."""
        left = getattr(self._thread, "until", math.inf) - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the whole request took too long")
        return min(left, math.inf if timeout is None else timeout)

    def add(self, line: "_Line") -> None:
        self._open.add(line)

    def remove(self, line: "_Line") -> None:
        self._open.discard(line)

    def hang_up(self) -> None:
        """Wake whoever reads or writes."""
        for line in list(self._open):
            with suppress(OSError):  # it is closed already
                # not SSLSocket.shutdown, which pulls the encryption away under the thread that reads
                socket.socket.shutdown(line.get_extra_info("socket"), socket.SHUT_RDWR)


class _Line(httpcore.NetworkStream):
    """One connection, none of whose steps outlives the request's deadline."""

    def __init__(self, inner: httpcore.NetworkStream, lines: _Lines) -> None:
        self._inner, self._lines = inner, lines
        lines.add(self)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._lines.left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._lines.left_s(timeout))

    def close(self) -> None:
        self._lines.remove(self)
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._lines.remove(self)
        return _Line(self._inner.start_tls(ssl_context, server_hostname, self._lines.left_s(timeout)), self._lines)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Transport(httpx.BaseTransport):
    """httpx's transport over our own connections; certificates are checked for the host's name, not its address."""

    def __init__(self, lines: _Lines) -> None:
        context = httpx.create_ssl_context(trust_env=False)
        self._pool = httpcore.ConnectionPool(ssl_context=context, max_connections=None, network_backend=lines)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
        )
        sent = httpcore.Request(request.method, url, headers=request.headers.raw, extensions=request.extensions)
        answer = self._pool.handle_request(sent)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


def why(error: FetchError) -> str:
    """Return what happened, without URL and advice: short, and the same whenever the same thing happens."""
    return str(error).partition(": ")[2].partition(";")[0]


def retry_after_s(text: str, sent_at: str) -> float | None:
    """Read a Retry-After header: seconds, or a date by the server's own clock (its Date header); None if nonsense."""
    if text.isascii() and text.isdigit():
        return float(text[:12]) if len(text) <= 12 else MAX_BLOCK_S
    try:
        until, now = parsedate_to_datetime(text), parsedate_to_datetime(sent_at) if sent_at else datetime.now(UTC)
        seconds = (until.astimezone(UTC) - now.astimezone(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds + 1 if seconds > 0 else None  # dates have whole seconds


def _resumable(part: Path, note: Path) -> tuple[int, str]:
    """Return how many bytes of which version of a body are there; a part of an earlier boot may have holes."""
    try:
        known = json.loads(note.read_text())
        have = part.stat().st_size
        validator = known["validator"] if known["boot"] == _boot() else ""
    except (OSError, ValueError, TypeError, KeyError):
        return 0, ""
    return (have, validator) if validator else (0, "")


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def _is_cut(error: Exception) -> bool:
    """Tell a connection that ended too early from one that speaks no HTTP; only the message says."""
    return "closed connection" in str(error) or "disconnected" in str(error)
