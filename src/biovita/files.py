"""Safe writing: temporary name in the same folder, fsync, rename; the manifest comes last.

A folder is complete when its `manifest.json` exists, because that file is renamed in after all others.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biovita.errors import BiovitaError, DatasetError

MANIFEST = "manifest.json"


def home() -> Path:
    """Return the folder that all runs of a user share: $BIOVITA_HOME, else one in the cache folder of the desktop."""
    named = os.environ.get("BIOVITA_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "biovita"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed, on failure removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as f:
            os.fsync(f.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a user's error that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BiovitaError(f"{path}: no such file") from None
    except ValueError as error:
        raise BiovitaError(f"{path}: not valid JSON ({error})") from None


def sha256_file(path: Path) -> str:
    """Hash a file's content in blocks; hexadecimal."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash a JSON-able value independently of key order; hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_manifest(folder: Path, tables: list[str], **facts: Any) -> dict[str, Any]:
    """Commit a folder: hash the named files and rename `manifest.json` in as the last act.

    Args:
        folder: the finished folder.
        tables: file names inside it whose sha256 the manifest pins.
        facts: anything else to record (schema version, counts, run).
    """
    manifest = {**facts, "sha256": {name: sha256_file(folder / name) for name in tables}}
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """Read a folder's manifest; a folder without one is unfinished or something else, and is refused.

    Args:
        folder: a dataset, benchmark, world or embedding folder.
        verify: also recompute the sha256 of every file that the manifest pins.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        hint = "no such folder" if not folder.is_dir() else f"it has no {MANIFEST}, so it was never finished"
        raise DatasetError(f"{folder}: {hint}; make it again, or name the right folder")
    manifest = read_json(folder / MANIFEST)
    if verify:
        for name, digest in manifest.get("sha256", {}).items():
            if not (folder / name).is_file():
                raise DatasetError(f"{folder / name}: missing, although {MANIFEST} names it")
            if sha256_file(folder / name) != digest:
                raise DatasetError(f"{folder / name}: changed since {MANIFEST} was written")
    return manifest
