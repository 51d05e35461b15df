"""Files that records name, on disk or on the net, become verified files under `media/`, or a reason why not.

A final name is the hash of what was checked, so it means a verified file. Facts are collected in columns, block by
block: 3.6 M verdicts as objects would not fit the memory that a build may take.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl

from biovita.data.dataset import MEDIA_FOLDER
from biovita.data.ledger import Ledger
from biovita.errors import DatasetError, MediaError
from biovita.files import atomic_path
from biovita.log import Progress
from biovita.media.check import Verdict

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 50_000

Check = Callable[[Iterable[Path]], Iterator[Verdict]]  # verdicts in the order of the paths

FACT_SCHEMA: dict[str, pl.DataType] = {
    "entry": pl.String(),  # the path or the URL
    "reason": pl.String(),  # null for a usable file
    "detail": pl.String(),
    "found": pl.String(),  # modality by content
    "sha256": pl.String(),
    "path": pl.String(),  # relative to the dataset folder
    "duration_s": pl.Float64(),
    "sample_rate_hz": pl.Int32(),
    "n_channels": pl.Int32(),
    "width_px": pl.Int32(),
    "height_px": pl.Int32(),
    "fingerprint": pl.String(),
}


class Facts:
    """Verdicts as a table, gathered in blocks."""

    def __init__(self) -> None:
        self._blocks: list[pl.DataFrame] = []
        self._rows: list[tuple[object, ...]] = []

    def add(self, entry: str, verdict: Verdict) -> None:
        """Take the verdict on one path or URL."""
        v = verdict
        path = media_path(v) if v.ok else None
        size = v.size or (None, None)
        self._rows.append((entry, v.reason, v.detail, v.modality, v.sha256, path, v.duration_s, v.sample_rate_hz,
                           v.n_channels, *size, v.fingerprint))  # fmt: skip
        if len(self._rows) >= BLOCK_ROWS:
            self._flush()

    def table(self) -> pl.DataFrame:
        """Return all verdicts so far (FACT_SCHEMA)."""
        self._flush()
        return pl.concat([pl.DataFrame(schema=FACT_SCHEMA), *self._blocks], rechunk=True)

    def _flush(self) -> None:
        if self._rows:
            self._blocks.append(pl.DataFrame(self._rows, FACT_SCHEMA, orient="row"))
            self._rows = []


def take_in_files(names: list[str], out: Path, ledger: Ledger, check: Check, facts: Facts) -> None:
    """Check files on this machine and copy the good ones under their content's name.

    Args:
        names: distinct files, as the records spell them; so the facts name them.
        out: the dataset folder.
        ledger: verdicts from before; new ones are kept there.
        check: gives the verdicts, `media.check.check_files` with its settings.
        facts: takes the verdicts.
    """
    unknown: list[str] = []
    with Progress("check", len(names), "files") as bar:
        for name in names:
            if (known := ledger.find(Path(name))) is None:
                unknown.append(name)
                continue
            verdict = place(Path(name), known, out)
            facts.add(name, verdict)
            bar.advance(bad=not verdict.ok, note="known from before")
        for name, checked in zip(unknown, check([Path(name) for name in unknown]), strict=True):
            verdict = place(Path(name), checked, out)
            ledger.keep(Path(name), verdict)
            facts.add(name, verdict)
            bar.advance(bad=not verdict.ok, note="")


def media_path(verdict: Verdict) -> str:
    """Name a file by its content, relative to the dataset folder."""
    return f"{MEDIA_FOLDER}/{(verdict.sha256 or '')[:2]}/{verdict.sha256}{verdict.suffix}"


def place(path: Path, verdict: Verdict, out: Path) -> Verdict:
    """Copy a checked file under its content's name, unless it is there; what is copied is what was checked.

    Raises:
        DatasetError: the dataset folder cannot be written: full, read-only.
    """
    if not verdict.ok:
        return verdict
    target = out / media_path(verdict)
    if target.is_file():
        return verdict
    try:
        source = path.open("rb")
    except OSError as error:
        return _gone(path, error.strerror or "cannot be opened again")
    digest = hashlib.sha256()
    try:
        with source, atomic_path(target) as part:
            with part.open("wb") as copy:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
                    copy.write(block)
            if digest.hexdigest() != verdict.sha256:
                raise MediaError("unreadable", "it changed between the check and the copy")
    except MediaError as error:
        return _gone(path, error.detail)
    except OSError as error:
        free = shutil.disk_usage(out).free
        raise DatasetError(
            f"{target}: {error.strerror}, {free / 1e6:,.0f} MB free; mend that and run the same command again"
        ) from error
    return verdict


def _gone(path: Path, detail: str) -> Verdict:
    return Verdict(path=str(path), verdict="reject", reason="unreadable", detail=detail)
