"""A dataset as WebDataset tar shards, for training from disks and stores that like long reads.

A sample is one medium: `<sha256>.<flac|jpg|...>` beside `<sha256>.json`, its row of the media table. Samples are sorted
by hash, so each shard is a draw from all species. Owner and time are fixed: the same dataset gives the same bytes.
Beside them, `index.parquet` says where in which shard each medium lies, and `taxa.parquet` is the dataset's own: who
opens the folder as `Shards` can draw media in any order, as from a dataset folder.

webdataset writes. Reading is stricter than webdataset: headers are read one by one, and whatever is not a plain file
with a name that we write (links, folders, long-name and pax headers, other suffixes) is refused. Nothing is extracted.
This is the only module that imports webdataset, which loads torch where it is installed.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, Self

import polars as pl
from webdataset import TarWriter, utils  # pyright: ignore[reportAttributeAccessIssue]

from biovita.data.dataset import MEDIA_SCHEMA, TAXA_SCHEMA, Dataset
from biovita.data.export import MEDIA_TYPES, claim, fill, identity, known_splits, read_medium, sizes_bytes
from biovita.errors import DatasetError, MediaError
from biovita.files import atomic_path, read_manifest, write_manifest
from biovita.log import Progress
from biovita.media.held import Held
from biovita.tables import write_table

# as WDS_SECURE=1: whoever reads through webdataset in this process runs no shell and no pickle
utils.enforce_security = True  # pyright: ignore[reportAttributeAccessIssue]

SHARD_BYTES: Final = 1 << 30
SHARD_NAME: Final = re.compile(r"[a-z_]+-\d{6}\.tar")
MEMBER: Final = re.compile(r"([0-9a-f]{64})\.([a-z0-9]+)")
OWNER: Final = "biovita"
MODE: Final = 0o644
PICKLES: Final = ("pickle", "pkl", "pyd", "pt", "pth", "ckpt", "joblib", "npy", "npz")
ADDRESS: Final = re.compile(rf"({SHARD_NAME.pattern})/(\d{{1,15}})\+(\d{{1,15}})/({MEMBER.pattern})")
NOT_IN_RECORD: Final = ("path", "fingerprint")
INDEX, TAXA = "index.parquet", "taxa.parquet"
INDEX_SCHEMA: Final = {name: dtype for name, dtype in MEDIA_SCHEMA.items() if name != "fingerprint"}
BLOCK: Final = 512  # of a tar file


def write_shards(
    dataset: Dataset, out: Path, *, split: str | None = None, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Write `train-000000.tar` and so on, an index and a manifest; a finished shard is not written again.

    Args:
        dataset: a finished dataset folder.
        out: a new folder, or one that the same call left unfinished or finished.
        split: only this one; None writes all four.
        shard_bytes: of media in a shard, at most; a bigger medium is alone.

    Returns:
        The manifest: `samples` counts them by shard, `sha256` pins the shards.

    Raises:
        DatasetError: the split is unknown or empty, the folder holds something else, or a medium is missing or changed.
    """
    splits = known_splits(split)
    media = dataset.media.filter(pl.col("split").is_in(splits)).sort("sha256")
    if not len(media):
        raise DatasetError(f"{dataset.folder}: no media in {', '.join(splits)}")
    request = {"kind": "shards", "dataset": identity(dataset), "splits": list(splits), "shard_bytes": shard_bytes}
    if (manifest := claim(out, request)) and INDEX in manifest["sha256"]:
        return manifest
    samples: dict[str, int] = {}
    with Progress("shard", len(media), "files") as bar:
        for name in splits:
            rows = media.filter(pl.col("split") == name)
            for number, (start, end) in enumerate(fill(sizes_bytes(dataset, rows["path"].to_list()), shard_bytes)):
                shard = f"{name}-{number:06}.tar"
                if not (out / shard).is_file():
                    _write_shard(dataset, rows[start:end], out / shard)
                samples[shard] = end - start
                bar.advance(end - start)
    write_table(out / INDEX, _index(media, out, samples), INDEX_SCHEMA)
    write_table(out / TAXA, dataset.taxa, TAXA_SCHEMA)
    facts = {**request, "samples": samples, "made_up": dataset.manifest["made_up"]}
    return write_manifest(out, [*samples, INDEX, TAXA], **facts)


def _index(media: pl.DataFrame, out: Path, samples: dict[str, int]) -> pl.DataFrame:
    """Replace the path of every medium by its address, as the headers of the shards give it."""
    parts = []
    for shard in samples:
        with (out / shard).open("rb") as file:
            places = [(name, f"{shard}/{at}+{size}/{name}") for name, at, size in _members(file, out / shard)]
        parts.append(pl.DataFrame(places, {"name": pl.String, "path": pl.String}, orient="row"))
    found = pl.concat(parts).with_columns(pl.col("name").str.extract(r"^(\w+)").alias("sha256"))
    found = found.filter(~pl.col("name").str.ends_with(".json"))
    return media.drop("path").join(found, on="sha256", validate="1:1").sort("media_id")


def _write_shard(dataset: Dataset, rows: pl.DataFrame, path: Path) -> None:
    record = pl.struct(_plain(name) for name in MEDIA_SCHEMA if name not in NOT_IN_RECORD)
    table = rows.select("sha256", "path", record.struct.json_encode().alias("json"))
    with atomic_path(path) as part, part.open("wb") as file:
        options = {"user": OWNER, "group": OWNER, "mode": MODE, "mtime": 0, "encoder": False}
        with TarWriter(file, **options) as tar:
            for sha256, medium, text in table.iter_rows():
                content = read_medium(dataset, medium, sha256)
                tar.write({"__key__": sha256, medium.rpartition(".")[2]: content, "json": text.encode()})


def _plain(name: str) -> pl.Expr:
    return pl.col(name).dt.to_string("iso:strict").alias(name) if MEDIA_SCHEMA[name].is_temporal() else pl.col(name)


@dataclass(frozen=True)
class Shards:
    """A finished folder of shards whose media are read in any order; it offers what training needs of a `Dataset`."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a folder by its manifest.

        Raises:
            DatasetError: it is unfinished, holds something else, or has no index.
        """
        manifest = read_manifest(folder)
        if manifest.get("kind") != "shards":
            raise DatasetError(f"{folder}: holds no shards; make them with `biovita data shard`")
        if INDEX not in manifest["sha256"]:
            raise DatasetError(
                f"{folder}: has no {INDEX}, as shards of earlier versions; the `biovita data shard` that made it adds "
                "that, if called again, and writes no shard anew"
            )
        return cls(Path(folder), manifest)

    @cached_property
    def media(self) -> pl.DataFrame:
        """One row a medium, sorted by media_id (INDEX_SCHEMA); `path` says SHARD/OFFSET+SIZE/SHA256.SUFFIX."""
        return pl.read_parquet(self.folder / INDEX, glob=False)

    @cached_property
    def taxa(self) -> pl.DataFrame:
        """One row a species, sorted by name (TAXA_SCHEMA)."""
        return pl.read_parquet(self.folder / TAXA, glob=False)

    def path(self, address: str) -> Held:
        """Read a medium that `media.path` names, and prove it by its hash.

        Raises:
            DatasetError: this is no address.
            MediaError: the shard ends before the medium does, or holds other bytes.
        """
        found = ADDRESS.fullmatch(address)
        if not found:
            raise DatasetError(f"{self.folder / INDEX}: '{address}' is no SHARD/OFFSET+SIZE/SHA256.SUFFIX")
        shard, offset, size, name, sha256, _ = found.groups()
        try:
            with (self.folder / shard).open("rb", buffering=0) as file:
                file.seek(int(offset))
                content = file.read(min(int(size), (self.folder / shard).stat().st_size))
        except OSError as error:
            raise MediaError("unreadable", f"{self.folder / shard}: {error.strerror}") from error
        if len(content) < int(size):
            _refuse("truncated", self.folder / shard, f"ends within {name}")
        if hashlib.sha256(content).hexdigest() != sha256:
            _refuse("corrupt", self.folder / shard, f"{name} has other bytes than its name says")
        return Held(str(self.folder / shard / name), content)


def read_shards(folder: Path, *, split: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every sample of a folder of shards, shard by shard.

    Args:
        folder: what `write_shards` made.
        split: only this one.

    Yields:
        The key (the medium's sha256), and `json` (the medium's row) beside the medium's bytes under its suffix.

    Raises:
        DatasetError: the folder is unfinished or holds something else.
        MediaError: a shard is not as we write it (`unsafe_archive`, `unsafe_pickle`, `truncated`, `corrupt`).
    """
    folder, splits = Path(folder), known_splits(split)
    manifest = read_manifest(folder)
    if manifest.get("kind") != "shards":
        raise DatasetError(f"{folder}: holds no shards; make them with `biovita data shard`")
    for name, n_samples in sorted(manifest["samples"].items()):
        if not SHARD_NAME.fullmatch(name):
            raise DatasetError(f"{folder}: '{name}' is no name of a shard")
        if name.rpartition("-")[0] in splits:
            n_read = 0
            for sample in read_shard(folder / name):
                yield sample
                n_read += 1
            if n_read != n_samples:
                raise MediaError("truncated", f"{folder / name}: {n_read} samples of {n_samples}")


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the samples of one shard, each proved by the hash that is its key.

    Raises:
        MediaError: as `read_shards`.
    """
    path = Path(path)
    if path.is_symlink() or not path.is_file():
        raise MediaError("not_regular_file", f"{path}: a shard is a plain file")
    key, sample = "", {}
    with path.open("rb") as file:
        for name, _, size in _members(file, path):
            content = file.read(size)
            member_key, suffix = _key_and_suffix(name, path)
            if member_key != key:
                if key:
                    yield key, _whole(key, sample, path)
                if member_key < key:
                    _refuse("unsafe_archive", path, f"'{name}' stands after a later key")
                key, sample = member_key, {}
            if suffix in sample:
                _refuse("unsafe_archive", path, f"'{name}' stands twice")
            sample[suffix] = content
    if key:
        yield key, _whole(key, sample, path)


def _members(file: BinaryIO, path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each member, while the file stands at its first byte.

    Only plain files are let through, and only zeros may follow the end.
    """
    size_bytes = path.stat().st_size
    while any(header := file.read(BLOCK)):
        if len(header) < BLOCK:
            _refuse("truncated", path, "ends within a header")
        try:
            member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            _refuse("unsafe_archive", path, f"no tar header at byte {file.tell() - BLOCK} ({error})")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            _refuse("unsafe_archive", path, f"'{member.name}' is no plain file")
        padded = -(-member.size // BLOCK) * BLOCK
        if member.size < 0 or padded > size_bytes - file.tell():
            _refuse("truncated", path, f"'{member.name}' is said to have {member.size} bytes")
        offset = file.tell()
        yield member.name, offset, member.size
        file.seek(offset + padded)
    if len(header) < BLOCK or not (rest := file.read()):  # an archive ends with two blocks of zeros
        _refuse("truncated", path, "the end is missing")
    if any(rest):
        _refuse("unsafe_archive", path, "something follows the end")


def _key_and_suffix(name: str, path: Path) -> tuple[str, str]:
    if name.rpartition(".")[2].lower() in PICKLES:
        _refuse("unsafe_pickle", path, f"'{name}' may hold code")
    found = MEMBER.fullmatch(name)
    if not found or found[2] not in (*MEDIA_TYPES, "json"):
        _refuse("unsafe_archive", path, f"'{name}' is no name of a sample's file")
    return found[1], found[2]


def _whole(key: str, sample: dict[str, bytes], path: Path) -> dict[str, Any]:
    media = [suffix for suffix in sample if suffix != "json"]
    if len(media) != 1 or len(sample) != 2:
        _refuse("unsafe_archive", path, f"{key} has {', '.join(sorted(sample))}; one medium and its json belong there")
    if hashlib.sha256(sample[media[0]]).hexdigest() != key:
        _refuse("corrupt", path, f"{key}.{media[0]} has other bytes than its name says")
    try:
        record = json.loads(sample["json"])
    except (ValueError, RecursionError) as error:
        _refuse("corrupt", path, f"{key}.json: {error}")
    if not isinstance(record, dict) or record.get("sha256") != key:
        _refuse("corrupt", path, f"{key}.json is about something else")
    return {media[0]: sample[media[0]], "json": record}


def _refuse(reason: str, path: Path, detail: str) -> NoReturn:
    raise MediaError(reason, f"{path}: {detail}")
