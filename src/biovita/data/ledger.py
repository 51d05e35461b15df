"""What is known about each source file and URL, in SQLite: survives kill -9, so that hard work is done once."""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from biovita.errors import DatasetError
from biovita.media.check import Verdict

Kind = Literal["", "refused", "permanent", "temporary"]

COMMIT_S = 1.0  # at most this much work is done again after a kill


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """What came of a URL.

    Attributes:
        state: `ok` its file is usable, `refused` by its content, `failed` to arrive.
        kind: of a failure, as `FetchError` has it; a `temporary` one is asked for again.
        status: of HTTP, where that was the failure.
        attempts: runs that asked for it.
        etag: of the server.
        size: in bytes, of what arrived.
        verdict: on the file, or a `download_failed` with what happened.
    """

    state: Literal["ok", "refused", "failed"]
    kind: Kind
    status: int | None = None
    attempts: int = 1
    etag: str = ""
    size: int | None = None
    verdict: Verdict

    @property
    def is_final(self) -> bool:
        """Say whether asking again would change nothing."""
        return self.kind in ("permanent", "refused")


class Ledger:
    """Verdicts by path, valid while size, time and checking policy are the same; and what came of each URL.

    Args:
        path: the SQLite file; made if it does not exist.
        policy: hash of limits and decoder versions (`check.policy`).

    Raises:
        DatasetError: the file is no ledger.
    """

    def __init__(self, path: Path, policy: str) -> None:
        self.policy = policy
        self._path = path
        self._committed = time.monotonic()
        try:
            self._db = sqlite3.connect(path)
            self._db.executescript(
                # FULL: a row that claims a file is on the disk before the file gets its final name
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                "CREATE TABLE IF NOT EXISTS file (path BLOB PRIMARY KEY, size INT NOT NULL, mtime_ns INT NOT NULL,"
                " policy TEXT NOT NULL, sha256 TEXT, verdict TEXT NOT NULL) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS fetch (url TEXT PRIMARY KEY, state TEXT NOT NULL, kind TEXT NOT NULL,"
                " status INT, attempts INT NOT NULL, detail TEXT NOT NULL, sha256 TEXT, size INT, etag TEXT NOT NULL,"
                " fetched_at REAL NOT NULL, policy TEXT NOT NULL, verdict TEXT NOT NULL) WITHOUT ROWID;"
            )
        except sqlite3.OperationalError as error:
            raise DatasetError(f"{path}: {error}; choose a folder that can be written") from error
        except sqlite3.DatabaseError as error:
            raise DatasetError(f"{path}: not a ledger ({error}); delete it to check all files again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            with self._writing():
                self._db.commit()
        except DatasetError:
            if kind is None:  # else the error that is on its way says more
                raise
        finally:
            self._db.close()

    def gather(self, others: Iterable[Path]) -> None:
        """Take over what other ledgers of the same folder know: those of the parts of a build."""
        for other in others:
            with Ledger(other, self.policy):  # is one, and is whole
                pass
            with self._writing():
                self._db.commit()
                self._db.execute("ATTACH ? AS part", (os.fspath(other),))
                for table in ("file", "fetch"):
                    self._db.execute(f"INSERT OR REPLACE INTO {table} SELECT * FROM part.{table}")  # noqa: S608
                self._db.commit()
                self._db.execute("DETACH part")

    def find(self, path: Path) -> Verdict | None:
        """Return the verdict on a file that has not changed since."""
        row = self._db.execute(
            "SELECT size, mtime_ns, policy, verdict FROM file WHERE path = ?", (os.fsencode(path),)
        ).fetchone()
        if row is None or row[:3] != (*_state(path), self.policy):
            return None
        return Verdict.from_row(json.loads(row[3]))

    def keep(self, path: Path, verdict: Verdict) -> None:
        """Remember a verdict; one that depends on more than the bytes (`unreadable`) is asked for again next time."""
        if verdict.reason == "unreadable":
            return
        row = (os.fsencode(path), *_state(path), self.policy, verdict.sha256, json.dumps(verdict.row()))
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?)", row)
            self._commit_now_and_then()

    def find_fetch(self, url: str) -> tuple[Fetch, bool] | None:
        """Return what came of a URL, and whether its file was checked by the policy of today."""
        row = self._db.execute(
            "SELECT state, kind, status, attempts, etag, size, verdict, policy FROM fetch WHERE url = ?", (url,)
        ).fetchone()
        if row is None:
            return None
        state, kind, status, attempts, etag, size, verdict, policy = row
        fetch = Fetch(
            state=state,
            kind=kind,
            status=status,
            attempts=attempts,
            etag=etag,
            size=size,
            verdict=Verdict.from_row(json.loads(verdict)),
        )
        return fetch, policy == self.policy

    def keep_fetch(self, url: str, fetch: Fetch) -> None:
        """Remember what came of a URL. A row about a file is on the disk when this returns."""
        verdict = fetch.verdict
        row = (url, fetch.state, fetch.kind, fetch.status, fetch.attempts, verdict.detail, verdict.sha256, fetch.size,
               fetch.etag, time.time(), self.policy, json.dumps(verdict.row()))  # fmt: skip
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO fetch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            if fetch.state == "failed":
                self._commit_now_and_then()
            else:
                self._db.commit()

    def _commit_now_and_then(self) -> None:
        if time.monotonic() - self._committed > COMMIT_S:
            self._db.commit()
            self._committed = time.monotonic()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DatasetError(f"{self._path}: {error}; mend that and run the same command again") from error


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.lstat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
