"""What is known about each source file, in SQLite: survives kill -9, so that hard work is done once."""

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Self

from biovita.errors import DatasetError
from biovita.media.check import Verdict

COMMIT_S = 1.0  # at most this much work is done again after a kill


class Ledger:
    """Verdicts by path, valid while size, time and checking policy are the same.

    Args:
        path: the SQLite file; made if it does not exist.
        policy: hash of limits and decoder versions (`check.policy`).

    Raises:
        DatasetError: the file is no ledger.
    """

    def __init__(self, path: Path, policy: str) -> None:
        self.policy = policy
        self._committed = time.monotonic()
        try:
            self._db = sqlite3.connect(path)
            self._db.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                "CREATE TABLE IF NOT EXISTS file (path BLOB PRIMARY KEY, size INT NOT NULL, mtime_ns INT NOT NULL,"
                " policy TEXT NOT NULL, sha256 TEXT, verdict TEXT NOT NULL) WITHOUT ROWID;"
            )
        except sqlite3.DatabaseError as error:
            raise DatasetError(f"{path}: not a ledger ({error}); delete it to check all files again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.commit()
        self._db.close()

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
        self._db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?)", row)
        if time.monotonic() - self._committed > COMMIT_S:
            self._db.commit()
            self._committed = time.monotonic()


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.lstat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
