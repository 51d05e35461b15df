"""What a run has answered so far, on disk: a killed run goes on behind the last block, and tables are made from it.

A journal is JSON lines: first what was asked, then a line a `Block`, each synced before the next one is begun. A line
that was cut by a crash is dropped. Since tables are written from the journal alone, after the last file, a run that
was broken off and taken up again leaves the same bytes as one that was not; and the same run can be written once more
in other formats without looking at a file again.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from biovita.errors import ConfigError
from biovita.files import sync_folder
from biovita.identify.blocks import Block, State, stamp_of

BEGIN = b'{"request":'


class Journal:
    """The blocks of one run; use `Journal.open`.

    Attributes:
        path: of the file.
        request: the first line: what was asked.
        state: after the last block.
    """

    def __init__(self, path: Path, file: BinaryIO, request: dict[str, Any], state: State) -> None:
        self.path, self._file, self.request, self.state = path, file, request, state

    @classmethod
    @contextmanager
    def open(cls, path: Path, request: dict[str, Any], **facts: Any) -> Iterator[Self]:
        """Begin a journal, or take up the one that is there.

        Args:
            path: of the file.
            request: all that answers depend on, JSON-able.
            facts: to be kept from the beginning of the run, such as its time.

        Raises:
            ConfigError: it is of another request, a file has changed since, or another process writes it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{path}: another run is writing here; wait for it, or choose another --out"
                ) from None
            if not _is_ours(path):
                raise ConfigError(f"{path}: exists, and is no journal of `biovita identify`; choose another --out")
            first, state, n_bytes = None, None, 0
            for line in _lines(path):
                n_bytes += len(line)
                if first is None:
                    first = json.loads(line)
                    continue
                if state is None:
                    _compare(path, first["request"], request)
                block = Block.from_row(json.loads(line))
                _check_unchanged(path, block)
                state = block.state
            if state is None and first and first["request"] != request:  # broken off before it had answered anything
                first, n_bytes = None, 0
            state = state or State()
            os.ftruncate(file.fileno(), n_bytes)
            journal = cls(path, file, {"request": request, **facts} if first is None else first, state)
            if first is None:
                journal._append(journal.request)
                sync_folder(path.parent)
            if state.opened and stamp_of(Path(state.opened.path)) != state.opened.stamp:
                raise _changed(path, state.opened.path)
            yield journal

    def write(self, block: Block) -> None:
        """Keep a block for good."""
        self._append(block.row())
        self.state = block.state

    def blocks(self) -> Iterator[Block]:
        """Read all blocks, one after the other."""
        lines = _lines(self.path)
        next(lines)
        for line in lines:
            yield Block.from_row(json.loads(line))

    def _append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")  # ASCII, also where a name is not UTF-8
        self._file.flush()
        os.fsync(self._file.fileno())


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(BEGIN))
    return BEGIN.startswith(start)


def _lines(path: Path) -> Iterator[bytes]:
    """Read whole lines; what a crash has cut off is none."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"}\n"):
                return
            yield line


def _compare(path: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if there.get(key) != value:
            raise ConfigError(
                f"{path}: is of another run: its {key} is {there.get(key)!r}, now it is {value!r}; "
                f"choose another --out, or remove that one"
            )


def _check_unchanged(path: Path, block: Block) -> None:
    for one in block.ended:
        if stamp_of(Path(one.verdict.path)) != one.stamp:
            raise _changed(path, one.verdict.path)


def _changed(path: Path, name: str) -> ConfigError:
    return ConfigError(f"{ascii(name)[1:-1]}: has changed since {path} was begun; choose another --out")
