"""URLs to verified media: download, check in limited children, name by content.

    threads of each host:  URL -> incoming/<hash of the URL>.part -> whole and synced: incoming/<hash of the URL>
    this thread:           -> verdict -> ledger row -> media/ab/<sha256>.<type by content>

A file under its final name is whole and verified, or does not exist. The row is on the disk before the file is
renamed, and is believed only while the file is there, so that a kill between the two costs neither the file nor a
second download. A URL that failed for good is not asked again; one that failed for a time is, in the next run.

What comes out depends on what the servers give, not on order or number of threads. One exception: a host that refuses
`http.STREAK` times in a row is left alone, and what was not asked then is asked in the next run.
"""

import dataclasses
import fcntl
import hashlib
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from biovita.data.dataset import MEDIA_FOLDER
from biovita.data.intake import Check, media_path
from biovita.data.ledger import Fetch, Kind, Ledger
from biovita.errors import DatasetError, FetchError
from biovita.files import sync_folder
from biovita.log import Progress
from biovita.media.check import Verdict
from biovita.sources.http import LIMITS, Door, Fetched, Limits, why

INCOMING = "incoming"
N_WAITING = 64  # whole files that may wait for the checker
UNCERTAIN = ("truncated", "corrupt", "empty_file", "no_samples", "bad_header")  # what a body that was cut may look like


def fetch_media(
    modality_of: Mapping[str, str],
    out: Path,
    ledger: Ledger,
    door: Door | None,
    *,
    found: Callable[[str, Verdict], None],
    check: Check,
    workers: int = 4,
    limits: Mapping[str, Limits] = LIMITS,
) -> None:
    """Bring media from URLs under their final names in `out/media`, and tell what came of each URL.

    Args:
        modality_of: what each URL should give, audio or image.
        out: the dataset folder.
        ledger: of this folder; URLs that are settled in it are not asked again.
        door: to the network; without one, what is not in the folder is refused as `offline`.
        found: takes a URL and its verdict, in no stated order; a URL without a file is refused as `download_failed`.
        check: gives the verdicts, `media.check.check_files` with its settings.
        workers: threads a host; its budget holds for all of them together.
        limits: of a body, by modality.

    Raises:
        DatasetError: the folder is full, cannot be written, or another process downloads into it. What is verified
            stays, and the same call goes on.
    """
    with _sole(Path(out) / INCOMING) as incoming, Progress("fetch", len(modality_of), "files") as bar:
        job = _Job(modality_of, Path(out), incoming, ledger, door, found, limits, bar)
        try:
            job.plan()
            job.run(check, workers)
        except OSError as error:
            raise _stopped(
                Path(out),
                f"{out}: {error.strerror or error}; free some room or mend it, and run the same command again",
            ) from error
        except DatasetError as error:  # of the ledger or the budgets
            raise _stopped(Path(out), str(error)) from error


class _Job:
    """One call of `fetch_media`; the ledger, `found` and the final names are touched by its own thread only."""

    def __init__(
        self,
        modality_of: Mapping[str, str],
        out: Path,
        incoming: Path,
        ledger: Ledger,
        door: Door | None,
        found: Callable[[str, Verdict], None],
        limits: Mapping[str, Limits],
        bar: Progress,
    ) -> None:
        self.modality_of, self.out, self.incoming = modality_of, out, incoming
        self.ledger, self.door, self.found, self.limits, self.bar = ledger, door, found, limits, bar
        self.to_ask: dict[str, deque[str]] = {}  # by host
        self.to_check: list[tuple[str, Path]] = []  # whole already: from before a kill, or judged by other limits
        self.judged: deque[tuple[str, Path, Fetched | None]] = deque()  # at the checker, in its order
        self.whole: queue.Queue[tuple[str, Fetched | BaseException] | None] = queue.Queue(N_WAITING)
        self.answered: Counter[str] = Counter()  # by host
        self.started = time.monotonic()

    def plan(self) -> None:
        """Sort the URLs into settled, refused by our rules, on the disk, and to be asked for."""
        for url in self.modality_of:
            known, is_current = self.ledger.find_fetch(url) or (None, False)
            path = self.incoming / _key(url)
            if known and known.state == "ok" and (target := self.out / media_path(known.verdict)).is_file():
                path = target
                is_settled = is_current
            else:
                is_settled = known is not None and known.is_final and (is_current or known.state == "failed")
            if known and is_settled:
                self._tell(url, known.verdict)
            elif path.is_file():
                self.to_check.append((url, path))
            elif self.door is None:
                self._tell(url, _failed(url, "offline"))
            else:
                try:
                    self.to_ask.setdefault(self.door.check(url), deque()).append(url)
                except FetchError as error:  # a rule of ours, so there is nothing to remember
                    self._tell(url, _failed(url, why(error)))

    def run(self, check: Check, workers: int) -> None:
        """Download in threads; judge and settle here whatever is whole."""
        threads = [
            threading.Thread(target=self._download, args=(host,), name=f"fetch {host} {n}", daemon=True)
            for host, urls in self.to_ask.items()
            for n in range(min(workers, len(urls)))
        ]
        try:
            for thread in threads:
                thread.start()
            for verdict in check(self._arrivals(len(threads))):
                self._settle(*self.judged.popleft(), verdict)
        except BaseException:
            for urls in self.to_ask.values():
                urls.clear()
            if self.door:
                self.door.close()
            raise
        finally:
            while any(thread.is_alive() for thread in threads):
                with suppress(queue.Empty):  # make room for a thread that waits for it
                    self.whole.get(timeout=0.02)

    def _download(self, host: str) -> None:
        """Work through the URLs of a host; failures travel to the main thread, of whatever kind."""
        urls, door = self.to_ask[host], self.door
        assert door, "only a door gives hosts to ask"
        try:
            while (url := _next(urls)) is not None:
                path = self.incoming / _key(url)
                part = path.with_name(f"{path.name}.part")
                try:
                    fetched = door.download(url, part, limits=self.limits[self.modality_of[url]])
                    with part.open("rb") as file:
                        os.fsync(file.fileno())
                    part.replace(path)
                    self.whole.put((url, fetched))
                except FetchError as error:
                    self.whole.put((url, error))
            self.whole.put(None)
        except BaseException as error:
            self.whole.put(("", error))

    def _arrivals(self, n_threads: int) -> Iterator[Path]:
        """Yield whole files as they come, with a note in `judged`; settle what failed."""
        for url, path in self.to_check:
            self.judged.append((url, path, None))
            yield path
        while n_threads:
            arrival = self.whole.get()
            if arrival is None:
                n_threads -= 1
                continue
            url, came = arrival
            if isinstance(came, FetchError):
                verdict = _failed(url, why(came))
                self._keep(url, Fetch(state="failed", kind=came.kind, status=came.status, verdict=verdict))
                self._tell(url, verdict)
            elif isinstance(came, BaseException):
                raise came
            else:
                self.judged.append((url, self.incoming / _key(url), came))
                yield self.judged[-1][1]

    def _settle(self, url: str, path: Path, fetched: Fetched | None, verdict: Verdict) -> None:
        """Write down what a whole file is, then give it its final name or remove it."""
        verdict = dataclasses.replace(verdict.expecting(self.modality_of[url]), path=url, elapsed_s=0.0)
        may_be_cut = (fetched is None or not fetched.framed) and verdict.reason in UNCERTAIN
        is_busy = verdict.reason == "unreadable"  # no verdict in time, or the disk: says nothing about the file
        kind: Kind = "" if verdict.ok else "temporary" if may_be_cut or is_busy else "permanent"
        etag, size = (fetched.etag, fetched.size) if fetched else ("", path.stat().st_size)
        state = "ok" if verdict.ok else "refused"
        self._keep(url, Fetch(state=state, kind=kind, etag=etag, size=size, verdict=verdict))
        if verdict.ok:
            target = self.out / media_path(verdict)
            if path != target:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                sync_folder(target.parent)
        elif path.parent == self.incoming and not is_busy:
            path.unlink()
        self._tell(url, verdict)

    def _keep(self, url: str, fetch: Fetch) -> None:
        known = self.ledger.find_fetch(url)
        self.ledger.keep_fetch(url, dataclasses.replace(fetch, attempts=known[0].attempts + 1 if known else 1))
        self.answered[url.split("/", 3)[2]] += 1

    def _tell(self, url: str, verdict: Verdict) -> None:
        seconds = max(time.monotonic() - self.started, 1e-3)
        rates = (f"{host} {n / seconds:.2g}/s" for host, n in self.answered.most_common(3))
        self.bar.advance(bad=not verdict.ok, note=", ".join(rates))
        self.found(url, verdict)


def _failed(url: str, detail: str) -> Verdict:
    return Verdict(path=url, verdict="reject", reason="download_failed", detail=detail)


def _next(urls: deque[str]) -> str | None:
    try:
        return urls.popleft()
    except IndexError:
        return None


def _key(url: str) -> str:
    return hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()


@contextmanager
def _sole(folder: Path) -> Iterator[Path]:
    """Make a folder and keep other processes out of it; the lock ends with the process, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise DatasetError(f"{folder}: {error.strerror}; choose a folder that can be written") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatasetError(f"{folder}: another process downloads into it; wait for its end") from None
        yield folder


def _stopped(out: Path, why_: str) -> DatasetError:
    """Say what is there after the disk failed us."""
    sizes = [path.stat().st_size for path in (out / MEDIA_FOLDER).glob("*/*")]
    there = f"{len(sizes):,} verified files ({sum(sizes) / 1e6:,.1f} MB) are kept"
    return DatasetError(f"{why_}; {there}")
