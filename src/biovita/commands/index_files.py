"""What `biovita index add` does with files, datasets and embedding files on their way into an archive.

This module is loaded when the command runs: it needs the model and the database.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from biovita.data.dataset import Dataset
from biovita.embed.extract import How, facts_of, stream
from biovita.embed.parts import readable
from biovita.embed.rules import rule_of
from biovita.embed.store import META_KEYS, EmbeddingTable, Facts, read_embeddings
from biovita.errors import ArchiveError, ConfigError, MediaError
from biovita.files import sha256_file
from biovita.identify.table import absolute
from biovita.log import Progress, say
from biovita.media.check import Verdict, check_files
from biovita.media.headers import HEADER_COLUMNS, Header, name_header, read_header
from biovita.models.encoder import Embedder, Encoder, Item, in_batches
from biovita.models.hub import load
from biovita.search.archive import ABOUT_COLUMNS, About, Archive, Entry, exists
from biovita.sources.licence import normalise_licence
from biovita.tables import read_table

if TYPE_CHECKING:
    from biovita.commands.index_add import Add

BLOCK_FILES = 256  # files that are looked up together
BLOCK_STORED = 4096  # files whose stored vectors are committed together


@dataclass(frozen=True)
class File:
    """A file to add.

    Attributes:
        path: where it lies.
        told: what a table says of it.
        sha256: of its content; empty where it must be read.
        modality: of a file that passed the check before; None for unknown files.
    """

    path: Path
    told: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    modality: str | None = None


class Told:
    """What a table and the flags say of files; and the zone of their clocks.

    Attributes:
        zone: of clocks that do not say theirs.
        n_known: how many files were asked about of which the table says something.
    """

    def __init__(self, config: "Add", rows: dict[str, dict[str, Any]]) -> None:
        self.zone = _zone(config.time_zone)
        self.n_known = 0
        self._rows = rows
        self._all = {"licence": _licence(config.licence), "rights_holder": config.rights_holder or None}

    @classmethod
    def read(cls, config: "Add") -> "Told":
        """Read the table that a command names.

        Raises:
            ConfigError: the table names files in no way, or a value cannot be used.
        """
        rows: dict[str, dict[str, Any]] = {}
        zone = _zone(config.time_zone)
        if config.metadata:
            table = read_table(config.metadata)
            keys = [name for name in ("path", "media_id", "id") if name in table.columns]
            if not keys:
                raise ConfigError(f"{config.metadata}: has neither a column path nor media_id; it must name the files")
            for row in table.iter_rows(named=True):
                about = _row(row, config.metadata, zone)
                if row.get("path"):
                    about["path"] = str(absolute(config.metadata.parent / row["path"]))
                names = [about.get("path"), *(row[key] for key in keys if key != "path")]
                rows |= {str(name): about for name in names if name}
        return cls(config, rows)

    def of_path(self, path: Path) -> dict[str, Any]:
        """Say what is told of a file."""
        return self._over(self._find(str(absolute(path))))

    def of_id(self, name: str) -> dict[str, Any]:
        """Say what is told of a row of an embedding file."""
        return self._over(self._find(name, str(absolute(Path(name)))))

    def row(self, row: dict[str, Any], path: Path) -> dict[str, Any]:
        """Say what a dataset's own table tells."""
        return self._over(_row(row, path, UTC))

    def _find(self, *names: str) -> dict[str, Any]:
        row = next((self._rows[name] for name in names if name in self._rows), {})
        self.n_known += bool(row)
        return row

    def _over(self, told: dict[str, Any]) -> dict[str, Any]:
        known = {name: value for name, value in told.items() if value is not None}
        return {**{name: value for name, value in self._all.items() if value}, **known}


def _row(row: dict[str, Any], path: Path, zone: tzinfo) -> dict[str, Any]:
    """Turn a row of somebody's table into what an archive keeps; `zone` is that of clocks which do not say theirs."""
    said: dict[str, Any] = {name: row.get(name) or None for name in ("rights_holder", "device", "sha256")}
    said["species"] = row.get("species") or row.get("scientific_name") or None
    said["licence"] = _licence(row.get("licence"))
    for name in ("latitude_deg", "longitude_deg", "duration_s"):
        value = row.get(name)
        try:
            said[name] = float(value) if value not in (None, "") else None
        except ValueError:
            raise ConfigError(f"{path}: {name} {value!r}; write a number") from None
    at = row.get("recorded_at") or None
    if at is not None:
        text = at if isinstance(at, str) else at.isoformat()
        try:
            at = datetime.fromisoformat(at) if isinstance(at, str) else at
        except ValueError:
            raise ConfigError(f"{path}: recorded_at {at!r}; write a time such as 2024-05-31T04:30:00Z") from None
        rule = "table: zone stated" if at.tzinfo else f"table: no zone, taken as {zone}"
        at = (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
        said |= {"recorded_at": at, "time_text": text, "time_rule": rule}
    return said


def _licence(text: str | None) -> str | None:
    return normalise_licence(text) if text else None


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise ConfigError(f"--time-zone {name}: no such zone; write one such as Europe/Berlin or UTC") from None


def files_of(folder: Path, told: Told) -> list[File]:
    """List the files of a dataset; they passed the check when it was built."""
    dataset = Dataset.open(folder)
    rows = dataset.media.iter_rows(named=True)
    table = folder / "media.parquet"
    return [File(dataset.path(row["path"]), told.row(row, table), row["sha256"], row["modality"]) for row in rows]


class Intake:
    """Files on their way into an archive, in constant memory.

    Args:
        encoder: the model.
        archive: where they go.
        how: as the vectors of the archive are made.
        told: what tables say of the files.

    Attributes:
        counts: files added, replaced, moved, updated, and the same as before.
        bad: what was refused.
    """

    def __init__(self, encoder: Embedder, archive: Archive, how: How, told: Told) -> None:
        self.counts: Counter[str] = Counter()
        self.bad: list[tuple[Path, MediaError]] = []
        self._encoder, self._archive, self._how, self._told = encoder, archive, how, told
        self._waiting: deque[tuple[File, About]] = deque()  # what the encoder was given and has not returned
        self._seen: set[str] = set()

    def add(self, files: list[File]) -> None:
        """Embed what the archive does not know, and commit it block by block."""
        with Progress("index", len(files), "files") as bar:
            for block in stream(self._encoder, self._items(files, bar), self._how):
                entries = []
                for result in block:
                    file, about = self._waiting.popleft()
                    if isinstance(result, MediaError):
                        self.bad.append((file.path, result))
                    else:
                        found = {"vectors": result.vectors, "spans": result.spans, "about": about}
                        entries.append(_entry(file, result.modality, **found))
                self.counts.update(self._archive.add(entries))
                bar.advance(0, bad=len(block) - len(entries))

    def _items(self, files: list[File], bar: Progress) -> Iterator[Item]:
        """Yield what must be embedded; of what the archive knows, place and table are brought up to date on the way."""
        for block in in_batches(files, BLOCK_FILES):
            hashed = [replace(file, sha256=file.sha256 or content_of(file.path)) for file in block]
            known = self._archive.known([file.sha256 for file in hashed if file.sha256])
            there = [(file, known[file.sha256]) for file in hashed if file.sha256 in known]
            entries = (_entry(file, kind, about=about_of(file.told, Header())) for file, kind in there)
            self.counts.update(self._archive.add(entries))
            fresh = []
            for file in hashed:
                if not file.sha256 or file.sha256 not in known.keys() | self._seen:
                    self._seen.add(file.sha256)
                    fresh.append(file)
            self.counts["same"] += len(block) - len(there) - len(fresh)
            bar.advance(len(block) - len(fresh))
            verdicts = check_files(
                [file.path for file in fresh if not file.modality], workers=self._how.workers or os.cpu_count() or 1
            )
            for file in fresh:
                bar.advance()
                yield self._item(file, None if file.modality else next(verdicts))

    def _item(self, file: File, verdict: Verdict | None) -> Item:
        kind = verdict.modality if verdict else file.modality
        if (verdict and not verdict.ok) or kind not in ("audio", "image"):
            self._waiting.append((file, About()))
            reason, detail = (verdict.reason, verdict.detail) if verdict else ("not_media", str(kind))
            return MediaError(reason or "not_media", detail)
        about = about_of(file.told, read_header(file.path, kind, zone=self._told.zone))
        if verdict and about.duration_s is None:
            about = replace(about, duration_s=verdict.duration_s)
        self._waiting.append((file, about))
        return kind, file.path


def _entry(file: File, modality: str, **found: Any) -> Entry:
    return Entry(path=readable(str(absolute(file.path))), sha256=file.sha256, modality=modality, **found)


def content_of(path: Path) -> str:
    """Hash a file; empty for a pipe, a device, or what cannot be read: the check says why."""
    try:
        return sha256_file(path) if path.is_file() else ""
    except OSError:
        return ""


def about_of(told: dict[str, Any], header: Header) -> About:
    """Put together what a table tells of a file and what it says of itself; the table is believed first."""
    said = {name: value for name, value in told.items() if name in ABOUT_COLUMNS}
    header = Header(**{name: said.get(name) for name in HEADER_COLUMNS}).or_else(header)
    return About(**{**said, **{name: getattr(header, name) for name in HEADER_COLUMNS}})


def opened(config: "Add") -> tuple[Embedder, Archive, How]:
    """Load the model that is named or that the archive remembers, and open or make the archive.

    Raises:
        ConfigError: the archive is new, and no model is named.
        EmbeddingError: the archive's vectors are another model's.
    """
    archive = Archive.open(config.archive) if exists(config.archive) else None
    if not config.model and archive is None:
        raise ConfigError(f"{config.archive}: is a new archive; say which model makes its vectors with --model MODEL")
    encoder = load(config.model or (archive.model if archive else ""))
    if archive is None:
        how = How(window="windows", pool=None if isinstance(encoder, Encoder) else "mean")
        methods = {"audio": encoder.embed_audio, "image": encoder.embed_image}
        width = next(method([]).shape[1] for kind, method in methods.items() if kind in encoder.modalities)
        archive = Archive.create(config.archive, facts_of(encoder, how), width=width, model=home_of(config.model))
    else:
        how = rule_of(encoder, archive.facts)
    return encoder, archive, replace(how, workers=config.workers or None)


def add_stored(config: "Add", path: Path, told: Told) -> dict[str, int]:
    """Add the vectors of an embedding file; names are no media and are left out.

    Raises:
        ArchiveError: the vectors are of another model than the archive's.
    """
    table = read_embeddings(path)
    if exists(config.archive):
        archive = Archive.open(config.archive)
        check_facts(archive, table)
    else:
        facts = Facts(**{key: table.meta[key] for key in META_KEYS})
        archive = Archive.create(config.archive, facts, width=table.embedding.shape[1], model=home_of(config.model))
    rows: dict[str, list[int]] = {}
    for n, (name, kind) in enumerate(zip(table.ids, table.modality, strict=True)):
        if kind != "text":
            rows.setdefault(name, []).append(n)
    if n_names := table.modality.count("text"):
        say(f"{path}: {n_names:,} rows are names, which an archive does not hold; left out")
    counts: Counter[str] = Counter()
    with Progress(f"index {path.name}", len(rows), "files") as bar:
        for names in in_batches(rows, BLOCK_STORED):
            counts.update(archive.add(_stored_entry(name, table, rows[name], told) for name in names))
            bar.advance(len(names))
    return counts


def _stored_entry(name: str, table: EmbeddingTable, rows: list[int], told: Told) -> Entry:
    """Make an entry of what an embedding file holds of one file, which need not be on this machine."""
    known, vectors = told.of_id(name), table.embedding[rows]
    path = Path(known.get("path") or name)
    content = known.get("sha256") or content_of(path)
    if not content:
        content = sha256(name.encode(errors="surrogateescape") + vectors.tobytes()).hexdigest()
    spans = [
        (start, end) for n in rows if (start := table.start_s[n]) is not None and (end := table.end_s[n]) is not None
    ]
    return Entry(
        path=readable(str(absolute(path))) if path.exists() else name,
        sha256=content,
        modality=table.modality[rows[0]],
        vectors=vectors,
        spans=spans or None,
        about=about_of(known, name_header(path.name)),
    )


def check_facts(archive: Archive, table: EmbeddingTable) -> None:
    """Refuse vectors of another model.

    Raises:
        ArchiveError: weights or preprocessing differ; both are named.
    """
    for key in ("weights_sha256", "preprocess"):
        if archive.facts[key] != table.meta[key]:
            raise ArchiveError(
                f"{table.path} and {archive.uri} do not belong together: {key} is {table.meta[key]!r} in the file and "
                f"{archive.facts[key]!r} in the archive; embed the file with the archive's model"
            )


def home_of(model: str) -> str:
    """Say where a model can be found again, from any folder."""
    return str(Path(model).absolute()) if model and Path(model).is_dir() else model
