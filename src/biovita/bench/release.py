"""The files that an official benchmark means: its own audio names are repaired, and every defect is counted.

    unseen/metadata.csv  unseen/audio/  unseen/image/  unseen/benchmark/     and the same under test/, the seen split

An index names files from the folder that holds `benchmark/`. Each row ends as `matched`, `renamed`, `missing` or
`broken`, as `biovita.sources.release_lists.repair_index` says; pictures are never renamed. What a file holds is judged
when it is embedded.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from biovita.bench.tasks import Modality
from biovita.files import sha256_file
from biovita.sources.release_lists import read_metadata, repair_index

BENCHMARK = "benchmark"
METADATA = "metadata.csv"
PARTS = {"seen": "test", "unseen": "unseen"}  # where the release keeps each split


@dataclass(frozen=True, kw_only=True)
class Media:
    """The files of one split.

    Attributes:
        root: the folder from which they are named.
        names: of each sound and picture by id; a row without a file keeps its name.
        counts: what became of the rows, by modality; files with the content of another; species without any.
    """

    root: Path
    names: dict[Modality, dict[str, str]]
    counts: dict[str, Any]

    @property
    def is_there(self) -> bool:
        """Whether there is any file at all; stored vectors are scored without."""
        return any(self.counts[kind][state] for kind in self.names for state in ("matched", "renamed"))

    def line(self) -> str:
        """Say the counts in one line, zeros left out."""
        parts = [
            f"{what}: " + ", ".join(f"{n:,} {word}" for word, n in counts.items() if n)
            for what, counts in self.counts.items()
            if any(counts.values())
        ]
        return f"{self.root}: {'; '.join(parts)}"


def find_media(home: Path, indices: dict[Modality, pl.DataFrame]) -> Media:
    """Find the files of one split.

    Args:
        home: the folder of its index files and levels.
        indices: the index files as read.

    Raises:
        DatasetError: the metadata beside the benchmark cannot be read.
    """
    root = _root_of(home)
    given = [name for index in (indices["audio"], indices["image"]) for name in index["file_path"]]
    sizes = _sizes(root, [*given, "audio/"])
    tables: dict[Modality, pl.DataFrame] = {
        "audio": _as_named(indices["audio"], sizes),
        "image": _as_named(indices["image"], sizes),
    }
    if (root / METADATA).is_file():
        metadata = read_metadata(root / METADATA, sizes)
        listed = metadata.with_columns(file_name=pl.coalesce("path", "file_name"))
        tables["audio"] = repair_index(indices["audio"], listed, sizes)
    names: dict[Modality, dict[str, str]] = {}
    counts: dict[str, Any] = {}
    for modality, table in tables.items():
        file = pl.coalesce("file_path", "given_file_path")
        names[modality] = dict(table.select("id", file).iter_rows())
        states = Counter(table["state"])
        counts[modality] = {state: states[state] for state in ("matched", "renamed", "missing", "broken")}
        counts[modality]["renamed and proved by an archive id"] = int(table["is_checked"].sum())
        found = set(table["file_path"].drop_nulls())
        counts[modality]["with the content of another"] = _n_repeated(root, {name: sizes[name] for name in found})
    species = set(indices["text"]["species"])
    counts["species"] = {f"without {name}": len(species.difference(table["species"])) for name, table in tables.items()}
    return Media(root=root, names=names, counts=counts)


def _root_of(home: Path) -> Path:
    above = home.resolve().parent
    in_part = home.resolve().name == BENCHMARK and any((above / name).exists() for name in (METADATA, "audio", "image"))
    return above if in_part else home


def _sizes(root: Path, names: Iterable[str]) -> dict[str, int]:
    """List the files that lie in the folders of some names, with their sizes; links to files count, as on the hub."""
    sizes: dict[str, int] = {}
    for folder in {name.rpartition("/")[0] for name in names}:
        if (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                files = [entry for entry in entries if entry.is_file()]
            sizes |= {f"{folder}/{file.name}" if folder else file.name: file.stat().st_size for file in files}
    return sizes


def _as_named(index: pl.DataFrame, sizes: dict[str, int]) -> pl.DataFrame:
    """Take an index at its word, in the form of `repair_index`."""
    is_there = pl.col("file_path").is_in(list(sizes))
    return index.with_columns(
        given_file_path="file_path",
        file_path=pl.when(is_there).then("file_path"),
        state=pl.when(is_there).then(pl.lit("matched")).otherwise(pl.lit("missing")),
        is_checked=pl.lit(False),
    )


def _n_repeated(root: Path, sizes: dict[str, int]) -> int:
    """Count the files whose content an earlier one has; only files of equal size are read."""
    of_size = Counter(sizes.values())
    suspect = [name for name, size in sizes.items() if of_size[size] > 1]
    return len(suspect) - len({sha256_file(root / name) for name in suspect})
