"""What may be asked of each host, and how much of it is spent: shared by threads, processes and restarts.

Requests are spaced evenly, a little wider than the terms ask, so that no window of a second, however it is laid, holds
more than it may. The state is one SQLite file: whoever wants to ask takes the host's turn inside a transaction. Times
are the wall clock's, because they outlive a restart; a clock that was put back costs one interval and never a stall.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from biovita.errors import DatasetError, FetchError
from biovita.files import home

MARGIN = 1.1  # times the interval that the terms allow; covers what a network adds or takes between two requests
SHARE = 0.95  # of a published volume
MAX_BLOCK_S = 86_400.0  # a Retry-After beyond a day is taken for a day
GB = 10**9
_MINUTES_A_DAY = 1440


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a service allows; its hosts share it."""

    hosts: tuple[str, ...]
    per_second: float = 1.0
    requests_per_day: int | None = None
    bytes_per_hour: int | None = None
    bytes_per_day: int | None = None


BUDGETS: Final[tuple[Budget, ...]] = (
    # xeno-canto.org/explore/api: "a rate limit of 1 request per second"; sounds come from the same server
    Budget(hosts=("xeno-canto.org", "www.xeno-canto.org"), per_second=1.0),
    # api.inaturalist.org/v1/docs, terms of use: throttled at 100 a minute, asks for 60, and under 10,000 a day
    Budget(hosts=("api.inaturalist.org", "www.inaturalist.org"), per_second=1.0, requests_per_day=10_000),
    # inaturalist.org/pages/api+recommended+practices: 5 GB of media an hour, 24 GB a day; the rate is ours
    Budget(
        hosts=("static.inaturalist.org", "inaturalist-open-data.s3.amazonaws.com"),
        per_second=4.0,
        bytes_per_hour=5 * GB,
        bytes_per_day=24 * GB,
    ),
    # techdocs.gbif.org publishes no number and answers 429; ours, since downloads are the right door for bulk
    Budget(hosts=("api.gbif.org",), per_second=1.0),
)


def default_path() -> Path:
    """Return the file that all runs of a user share."""
    return home() / "budgets.sqlite"


class Budgets:
    """The budgets of all hosts; a host without terms in the table gets one request a second.

    Args:
        path: the SQLite file; made if it does not exist.
        table: the terms.
        clock: seconds since 1970; tests give another.

    Raises:
        DatasetError: the file cannot be made or is something else.
    """

    def __init__(
        self, path: Path, table: Sequence[Budget] = BUDGETS, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self._table = {host: budget for budget in table for host in budget.hosts}
        self._clock = clock
        self._lock = threading.Lock()  # of the connection
        self._turns: dict[str, threading.Lock] = {}  # one thread a service waits at the file, the others wait here
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
            self._db.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                "CREATE TABLE IF NOT EXISTS service (name TEXT PRIMARY KEY, next_at REAL NOT NULL DEFAULT 0,"
                " blocked_at REAL NOT NULL DEFAULT 0, blocked_s REAL NOT NULL DEFAULT 0) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS spent (name TEXT, minute INT, requests INT NOT NULL, bytes INT NOT NULL,"
                " PRIMARY KEY (name, minute)) WITHOUT ROWID;"
            )
        except (OSError, sqlite3.Error) as error:
            raise DatasetError(f"{self.path}: cannot keep the hosts' budgets ({error}); set BIOVITA_HOME") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def of(self, host: str) -> Budget:
        """Return the terms that hold for a host."""
        return self._table.get(host) or Budget(hosts=(host,))

    def take(self, host: str, *, patience_s: float = 600.0, stop: threading.Event | None = None) -> None:
        """Wait for the host's next turn and take it.

        Args:
            host: exact name.
            patience_s: give up at once where the wait would be longer.
            stop: ends the wait.

        Raises:
            FetchError: `temporary`; says when to come back.
        """
        budget = self.of(host)
        with self._lock:
            turn = self._turns.setdefault(budget.hosts[0], threading.Lock())
        until = time.monotonic() + patience_s
        with turn:
            while True:
                wait_s, why = self._try(budget)
                if not why:
                    return
                if wait_s > until - time.monotonic():
                    raise self._come_back(host, why, wait_s)
                if (stop or threading.Event()).wait(wait_s):
                    raise FetchError(f"{host}: stopped", kind="temporary")

    def block(self, host: str, seconds: float) -> None:
        """Let nobody ask before the time that the host itself named (Retry-After); a day at most."""
        seconds = min(seconds, MAX_BLOCK_S)
        name = self.of(host).hosts[0]
        with self._transaction() as db:
            now = self._clock()
            if seconds > self._blocked_s(db, name, now):
                db.execute("UPDATE service SET blocked_at = ?, blocked_s = ? WHERE name = ?", (now, seconds, name))

    def spend(self, host: str, n_bytes: int) -> None:
        """Count bytes that have arrived."""
        budget = self.of(host)
        if budget.bytes_per_hour is not None or budget.bytes_per_day is not None:
            with self._transaction() as db:
                self._count(db, budget.hosts[0], self._clock(), 0, n_bytes)

    def check_volume(self, host: str) -> None:
        """Ask in the middle of a body whether more of it may be read.

        Raises:
            FetchError: `temporary`, the bytes of an hour or a day are used up; says when to come back.
        """
        budget = self.of(host)
        if budget.bytes_per_hour is not None or budget.bytes_per_day is not None:
            with self._transaction() as db:
                wait_s, why = self._used_up(db, replace(budget, requests_per_day=None), self._clock())
            if why:
                raise self._come_back(host, why, wait_s)

    def _come_back(self, host: str, why: str, wait_s: float) -> FetchError:
        when = datetime.fromtimestamp(self._clock() + wait_s, UTC) + timedelta(minutes=1)
        return FetchError(f"{host}: {why}; come back at {when:%Y-%m-%d %H:%M} UTC", kind="temporary")

    def _try(self, budget: Budget) -> tuple[float, str]:
        """Take the turn if it is due; return what to wait in seconds and why, or an empty reason."""
        name = budget.hosts[0]
        with self._transaction() as db:
            now = self._clock()
            interval = MARGIN / budget.per_second
            blocked_s = self._blocked_s(db, name, now)
            if blocked_s > 0:
                return blocked_s, "asked us to wait"
            wait_s, why = self._used_up(db, budget, now)
            if why:
                return wait_s, why
            [next_at] = db.execute("SELECT next_at FROM service WHERE name = ?", (name,)).fetchone()
            if next_at > now + interval:  # nobody sets it further ahead: the clock was put back
                next_at = now + interval
                db.execute("UPDATE service SET next_at = ? WHERE name = ?", (next_at, name))
            if next_at > now:
                return next_at - now, "too many requests"
            db.execute("UPDATE service SET next_at = ? WHERE name = ?", (now + interval, name))
            if budget.requests_per_day is not None:
                self._count(db, name, now, 1, 0)
            return 0.0, ""

    def _blocked_s(self, db: sqlite3.Connection, name: str, now: float) -> float:
        """Return the seconds that a block still lasts; it starts again where the clock was put back behind it."""
        db.execute("INSERT OR IGNORE INTO service (name) VALUES (?)", (name,))
        at, seconds = db.execute("SELECT blocked_at, blocked_s FROM service WHERE name = ?", (name,)).fetchone()
        if now < at:
            db.execute("UPDATE service SET blocked_at = ? WHERE name = ?", (now, name))
            at = now
        return at + seconds - now

    def _used_up(self, db: sqlite3.Connection, budget: Budget, now: float) -> tuple[float, str]:
        """Find a volume that is used up; return the seconds until the oldest of it is out of the window, and which."""
        windows = (
            (budget.requests_per_day, "requests", _MINUTES_A_DAY, "its requests of a day are spent"),
            (budget.bytes_per_day, "bytes", _MINUTES_A_DAY, "its bytes of a day are spent"),
            (budget.bytes_per_hour, "bytes", 60, "its bytes of an hour are spent"),
        )
        minute = int(now // 60)
        for limit, column, n_minutes, why in windows:
            if limit is None:
                continue
            since = minute - n_minutes  # the minute that is half out of the window still counts
            rows = db.execute(
                f"SELECT min(minute, ?), {column} FROM spent WHERE name = ? AND minute >= ? ORDER BY minute",  # noqa: S608
                (minute, budget.hosts[0], since),
            ).fetchall()
            over = sum(amount for _, amount in rows) - int(limit * SHARE)
            for then, amount in rows if over >= 0 else ():
                over -= amount
                if over < 0:
                    return max(1.0, (then + n_minutes + 1) * 60 - now), why
        return 0.0, ""

    def _count(self, db: sqlite3.Connection, name: str, now: float, requests: int, n_bytes: int) -> None:
        minute = int(now // 60)
        # minutes to come are from before the clock was put back: they count as of now; a day later nothing counts
        late = db.execute(
            "SELECT coalesce(sum(requests), 0), coalesce(sum(bytes), 0) FROM spent WHERE name = ? AND minute > ?",
            (name, minute),
        ).fetchone()
        db.execute(
            "DELETE FROM spent WHERE name = ? AND (minute > ? OR minute < ?)", (name, minute, minute - _MINUTES_A_DAY)
        )
        db.execute(
            "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (name, minute) DO UPDATE SET"
            " requests = requests + excluded.requests, bytes = bytes + excluded.bytes",
            (name, minute, requests + late[0], n_bytes + late[1]),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time: among threads by the lock, among processes by SQLite."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise DatasetError(f"{self.path}: cannot keep the hosts' budgets ({error})") from error
