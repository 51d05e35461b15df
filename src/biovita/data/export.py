"""What every export shares: which media may go, how they fill files, and that what is copied is what was checked."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from biovita.data.dataset import Dataset
from biovita.data.split import SPLITS
from biovita.errors import DatasetError
from biovita.files import MANIFEST, read_json, read_manifest, write_json
from biovita.sources.licence import FAMILIES, licence_family

REQUEST = "request.json"
MEDIA_TYPES: Final = {  # of the suffixes that a dataset folder knows
    "aiff": "audio/aiff",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "flac": "audio/flac",
    "gif": "image/gif",
    "jpg": "image/jpeg",
    "m4a": "audio/mp4",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "png": "image/png",
    "tif": "image/tiff",
    "wav": "audio/wav",
    "webp": "image/webp",
}


def claim(out: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Take a folder that is new, or that the same export left; return its manifest if it is finished.

    Raises:
        DatasetError: the folder holds something else.
    """
    out = Path(out)
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / REQUEST).is_file()):
            raise DatasetError(f"{out}: not empty and no export of ours; choose another folder")
        if (out / REQUEST).is_file() and read_json(out / REQUEST) != dict(request):
            raise DatasetError(f"{out}: holds another export, of other data or settings; choose another folder")
    if (out / MANIFEST).is_file():
        return read_manifest(out)
    write_json(out / REQUEST, request)
    return None


def identity(dataset: Dataset) -> dict[str, str]:
    """Name what an export depends on: the hashes of the dataset's tables."""
    return {name: digest for name, digest in dataset.manifest["sha256"].items() if name.endswith(".parquet")}


def known_splits(split: str | None) -> tuple[str, ...]:
    """Return the splits that are asked for; None asks for all."""
    if split is not None and split not in SPLITS:
        raise DatasetError(f"split '{split}': there is none; choose {', '.join(SPLITS)}")
    return SPLITS if split is None else (split,)


def licensed(media: pl.DataFrame, licences: Collection[str]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Keep the media of some licence families, and count what stays out by its licence.

    Raises:
        DatasetError: a family is unknown, or allows no changed copies.
    """
    for family in licences:
        if family not in (*FAMILIES, "unknown"):
            raise DatasetError(f"licence '{family}': unknown; use {', '.join(FAMILIES)}")
        if "nd" in family.split("-"):
            raise DatasetError(f"licence '{family}': allows no changed copies, so no export may hold it")
    allowed = [name for name in media["licence"].unique() if licence_family(name) in licences]
    keep = pl.col("licence").is_in(allowed)
    out = media.filter(~keep)["licence"].value_counts().sort("licence")
    return media.filter(keep), dict(out.iter_rows())


def sizes_bytes(dataset: Dataset, paths: Sequence[str]) -> list[int]:
    """Look up the size of every file.

    Raises:
        DatasetError: one is missing.
    """
    folder = os.fspath(dataset.folder)
    try:
        return [os.stat(f"{folder}/{path}").st_size for path in paths]  # noqa: PTH116 - millions of them
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}; `biovita data verify` says what is missing") from error


def fill(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Cut a row of things into runs [start, end) of `limit` at most; a bigger one is alone."""
    start = total = 0
    for i, size in enumerate(sizes):
        if total + size > limit and i > start:
            yield start, i
            start, total = i, 0
        total += size
    if len(sizes) > start:
        yield start, len(sizes)


def read_medium(dataset: Dataset, path: str, sha256: str) -> bytes:
    """Read a medium and prove that it is the one which was checked.

    Raises:
        DatasetError: it is missing or has changed.
    """
    try:
        content = dataset.path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"{dataset.path(path)}: {error.strerror}; run `biovita data verify`") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DatasetError(f"{dataset.path(path)}: changed since it was checked; run `biovita data verify`")
    return content
