"""`biovita index status|rebuild|remove`: what is in an archive, and keeping it in order."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from biovita.errors import ArchiveError, ConfigError
from biovita.log import SETTINGS, emit, say


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say what is in an archive, and how well its index finds it."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """Put an archive's small files together, make its index anew, and drop versions older than an hour."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Take rows out of an archive; the files themselves stay where they are."""

    archive: tyro.conf.Positional[str]
    """The archive's folder or address."""
    ids: tyro.conf.Positional[tuple[str, ...]] = ()
    """Ids of rows or of whole files, as a search shows them."""
    where: str = ""
    """Instead of ids, a filter: "species = 'Turdus merula' and month = 5" (docs/archive.md)."""
    missing: bool = False
    """Instead of ids, every file that is no longer where it was."""
    force: bool = False
    """Do it; without, only say how much would go."""


def run_status(config: Status) -> int:
    """Print the counts."""
    from biovita.search.archive import Archive

    status = Archive.open(config.archive).status()
    if SETTINGS.json:
        emit(status)
        return 0
    index = status["index"]
    print(f"{status['archive']}: {status['n_files']:,} files, {status['n_rows']:,} rows, {_size(status['size_bytes'])}")
    print(
        f"  model     {status['model']} (weights {status['weights_sha256'][:12] or 'unknown'}), {status['preprocess']}"
    )
    for what in ("modality", "licence"):
        print(f"  {what:<9} " + ", ".join(f"{n:,} {name}" for name, n in status[f"by_{what}"].items()))
    measured = f", measured recall@10 {index['recall_at_10']:.3f}" if index["kind"] != "exact" else ""
    print(f"  index     {index['kind']}" + (f", {index['n_rows']:,} rows{measured}" if index["n_rows"] else ""))
    print(f"  version   {status['version']}, {status['n_versions']} kept, {status['n_fragments']} parts, "
          f"{status['n_small_fragments']} of them small")  # fmt: skip
    print(f"  labels    {status['n_labels']:,}")
    return 0


def run_rebuild(config: Rebuild) -> int:
    """Compact and index."""
    from biovita.search.archive import Archive

    archive = Archive.open(config.archive)
    archive.rebuild()
    if SETTINGS.json:
        emit({"archive": config.archive, "n_rows": len(archive), "version": archive.version})
    say(f"{config.archive}: rebuilt, {len(archive):,} rows, version {archive.version}")
    return 0


def run_remove(config: Remove) -> int:
    """Remove, or say how much would go."""
    from biovita.search.archive import Archive

    if sum((bool(config.ids), bool(config.where), config.missing)) != 1:
        raise ConfigError(f"index remove {config.archive}: give ids, --where FILTER or --missing, one of the three")
    archive = Archive.open(config.archive)
    ids = list(config.ids)
    if config.missing:
        lost = archive.column("item", "path").unique("item")
        ids = sorted(item for item, path in lost.iter_rows() if not Path(path).exists())
        if not ids:
            say(f"{config.archive}: every file is where it was")
            return 0
    chosen = {"where": config.where or None, "ids": ids}
    if lost := next((one for one in config.ids if not archive.count(ids=[one])), None):
        raise ArchiveError(f"{config.archive}: no row or file '{lost}'; ids are those that a search shows")
    n_rows = archive.count(**chosen)
    if n_rows and not config.force:
        raise ArchiveError(
            f"{config.archive}: {n_rows:,} of {len(archive):,} rows would go; add --force to remove them"
        )
    n_rows = archive.remove(**chosen) if n_rows else 0
    if SETTINGS.json:
        emit({"archive": config.archive, "removed": n_rows, "n_rows": len(archive)})
    say(f"{config.archive}: {n_rows:,} rows removed, {len(archive):,} are left")
    return 0


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
