"""Where uploads wait, are checked and meet the model: a few threads, a bounded queue, and never the event loop."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from starlette.datastructures import UploadFile

from biovita.media.check import Limits, Verdict, checkers
from biovita.media.check_child import SUFFIXES
from biovita.web.gate import Refusal
from biovita.web.settings import Settings

T = TypeVar("T")
N_CHECKERS = 2
PREFIX = "biovita-serve-"
KNOWN_SUFFIXES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One file that was sent: where it lies until the answer, and what the checker says about it."""

    path: Path
    verdict: Verdict


class Desk:
    """Owns the threads, the checker's children and the private folder; use as a context manager.

    The model works in one thread, so that two answers never share its memory; checking and drawing have others.

    Attributes:
        n_waiting: requests that have a seat.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.n_waiting = 0

    def __enter__(self) -> Self:
        sweep()
        with ExitStack() as stack:
            name = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")  # for this user only
            self.folder = Path(name)
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.children = stack.enter_context(checkers(N_CHECKERS, Limits(max_duration_s=self.settings.max_sound_s)))
            self.hands = ThreadPoolExecutor(N_CHECKERS, thread_name_prefix="hands")
            self.head = ThreadPoolExecutor(1, thread_name_prefix="head")
            for threads in (self.hands, self.head):
                stack.callback(threads.shutdown, cancel_futures=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[Path]:
        """Take a place in the queue and a folder of one's own, which is gone afterwards with all that is in it.

        Raises:
            Refusal: as many requests as may wait are waiting.
        """
        self.refuse_crowd()
        self.n_waiting += 1
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield folder
        finally:
            self.n_waiting -= 1
            await self.by_hand(shutil.rmtree, folder, True)

    def refuse_crowd(self) -> None:
        """Tell one more to come back; also asked before a body is read, which may be slow and so takes no seat.

        Raises:
            Refusal: as many requests as may wait are waiting.
        """
        if self.n_waiting >= self.settings.max_waiting:
            raise Refusal(429, "busy", f"{self.n_waiting} requests are waiting; try again", retry_s=2)

    async def by_hand(self, work: Callable[..., T], *args: object) -> T:
        """Check, decode or draw in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.hands, work, *args)

    async def by_head(self, work: Callable[..., T], *args: object) -> T:
        """Let the model work, in its own thread."""
        return await asyncio.get_running_loop().run_in_executor(self.head, work, *args)

    async def take(self, files: Sequence[UploadFile], folder: Path) -> list[Upload]:
        """Write what was sent into a folder and have it checked, in the checker's child."""
        return [await self.by_hand(self._take, n, file, folder) for n, file in enumerate(files)]

    def _take(self, number: int, file: UploadFile, folder: Path) -> Upload:
        # The given name is a stranger's: of it only the suffix is used, and only one that we know.
        suffix = Path(file.filename or "").suffix.lower()
        path = folder / f"{number}{suffix if suffix in KNOWN_SUFFIXES else ''}"
        with path.open("wb") as out:
            shutil.copyfileobj(file.file, out, 1 << 20)
        child = self.children.get()
        try:
            verdict = child.judge(path)
        finally:
            self.children.put(child)
        if verdict.ok and verdict.suffix:  # readers go by the suffix, which is now the one of the content
            path = path.rename(path.with_name(f"{number}{verdict.suffix}"))
        return Upload(path=path, verdict=verdict)


def sweep() -> None:
    """Delete what servers that were killed left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        is_ours = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
        if is_ours and pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
