"""`biovita index add`: recordings and pictures of your own into an archive, to search."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from biovita.errors import EXIT_BAD_ITEMS, ConfigError, MediaError
from biovita.log import N_LISTED, SETTINGS, emit, say, warn


@dataclass(frozen=True, kw_only=True)
class Add:
    """Add recordings and pictures to an archive, which is made where there is none.

    Files, folders of them, dataset folders and embedding files, mixed as you like. Recordings become windows of 10 s,
    pictures one vector. Every file is checked first; a bad one is listed and never becomes a vector. What is in the
    archive already is not embedded again, so the same command goes on where a killed one was.
    """

    archive: tyro.conf.Positional[str]
    """The archive's folder, or an address of an object store such as s3://bucket/archive."""
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """What to add."""
    model: str = ""
    """Model folder or hub name; an archive remembers its own."""
    metadata: Path | None = None
    """A table (CSV, TSV, Parquet) with what is known of the files: column path, relative to the table, or media_id for
    embedding files; and any of scientific_name, licence, rights_holder, recorded_at, latitude_deg, longitude_deg and
    device. It is believed before what the files say of themselves."""
    licence: str = ""
    """Licence of all files for which the table has none."""
    rights_holder: str = ""
    """Whom to credit for all files for which the table has nobody."""
    time_zone: str = "UTC"
    """Zone of clocks that do not say theirs, such as Europe/Berlin; times are stored in UTC."""
    workers: int = 0
    """Processes that check files; by default one a core."""


def run_add(config: Add) -> int:
    """Embed what is new, commit block by block, and list what was refused."""
    from biovita.commands.dataset import walk
    from biovita.commands.embed import is_dataset
    from biovita.commands.index_files import File, Intake, Told, add_stored, files_of, opened
    from biovita.embed.parts import readable
    from biovita.identify.table import absolute
    from biovita.search.archive import Archive

    if not config.paths:
        raise ConfigError(
            f"index add {config.archive}: name recordings, pictures, folders, datasets or embedding files"
        )
    for path in config.paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
    told = Told.read(config)
    stored = [path for path in config.paths if path.suffix == ".parquet"]
    table = absolute(config.metadata) if config.metadata else None
    files: list[File] = []
    for path in config.paths:
        if is_dataset(path):
            files += files_of(path, told)
        elif path not in stored:
            files += [File(file, told.of_path(file)) for file in walk(path) if absolute(file) != table]
    if not files and not stored:
        raise ConfigError(f"{config.paths[0]}: holds no files; name recordings, pictures or folders of them")
    counts: Counter[str] = Counter()
    bad: list[tuple[Path, MediaError]] = []
    for path in stored:
        counts.update(add_stored(config, path, told))
    if files:
        encoder, archive, how = opened(config)
        intake = Intake(encoder, archive, how, told)
        intake.add(files)
        counts.update(intake.counts)
        bad = intake.bad
    if config.metadata:
        say(f"{config.metadata}: says something of {told.n_known:,} files")
        if not told.n_known:
            warn(f"{config.metadata}: not one of its rows is of a file named here; its paths start at its own folder")
    for path, error in bad[:N_LISTED]:
        warn(f"{readable(str(path))}: not added: {error.reason} ({error.detail})")
    if len(bad) > N_LISTED:
        warn(f"{len(bad) - N_LISTED:,} more were not added; `biovita data check` says why of each")
    archive = Archive.open(config.archive)
    archive.settle()
    if SETTINGS.json:
        refused = [{"path": readable(str(path)), "reason": error.reason, "detail": error.detail} for path, error in bad]
        emit({"archive": config.archive, "n_rows": len(archive), **counts, "refused": refused})
    said = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n) or "nothing new"
    say(f"{config.archive}: {said}{f', {len(bad):,} refused' if bad else ''}; {len(archive):,} rows in all")
    return EXIT_BAD_ITEMS if bad else 0
