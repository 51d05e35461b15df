"""Darwin Core archives: a descriptor (`meta.xml`), a core table and extension tables, in a zip file or a folder.

python-dwca-reader understands the descriptor; the tables, which may have millions of rows, are read as it says by
`delimited`. Members of a zip file are read where they are and never unpacked, so a name like `../x` leads nowhere.
Columns have the last part of their term's URI as name (`scientificName`); where two terms share it, the first keeps
it and the other is named by its whole URI.

Source:
    Darwin Core text guide, http://rs.tdwg.org/dwc/terms/guides/text/
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final
from xml.etree.ElementTree import ParseError

import polars as pl
from dwca.descriptors import ArchiveDescriptor, DataFileDescriptor, shorten_term
from dwca.exceptions import InvalidArchive

from biovita.errors import DatasetError
from biovita.sources.delimited import Layout, iter_tables

MULTIMEDIA: Final = "http://rs.gbif.org/terms/1.0/Multimedia"  # Simple Multimedia
AUDUBON: Final = "http://rs.tdwg.org/ac/terms/Multimedia"  # Audubon (Audiovisual) Core
OCCURRENCE: Final = "http://rs.tdwg.org/dwc/terms/Occurrence"
DESCRIPTOR: Final = "meta.xml"
MAX_DESCRIPTOR_BYTES: Final = 4 << 20
MAX_BYTES: Final = 64 << 30  # of all members, unpacked; a GBIF download of all sounds has a few


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What was read of an archive.

    Attributes:
        core: one row a core record; `id` is the column that extensions refer to. An empty field is null.
        core_type: the URI of the row type of the core.
        extensions: tables by the URI of their row type; `coreid` refers to `id` of the core.
        extension_types: of every extension that the descriptor names, also of those that were not asked for.
        counts: rows and characters that could not be used as they are.
    """

    path: Path
    core: pl.DataFrame
    core_type: str
    extensions: dict[str, pl.DataFrame]
    extension_types: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)


def is_archive(path: Path) -> bool:
    """Tell a zip file, or a folder with a descriptor, from other things."""
    path = Path(path)
    return (path / DESCRIPTOR).is_file() if path.is_dir() else path.is_file() and zipfile.is_zipfile(path)


def read_archive(
    path: Path,
    *,
    extensions: Collection[str] | None = None,
    terms: Collection[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Archive:
    """Read the core table and extension tables of an archive.

    Args:
        path: a zip file, or a folder with `meta.xml`.
        extensions: row types to read; None reads every extension.
        terms: short names of the columns to keep, where they occur; None keeps all. `id` and `coreid` always stay.
        max_bytes: refuse a zip file that would unpack to more.

    Raises:
        DatasetError: no archive, a descriptor that is not understood, a table that is named but not there, a bomb.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    with _open_members(path, max_bytes) as members:
        descriptor = _read_descriptor(members)
        core = _read_table(members, descriptor.core, terms, counts)
        tables: dict[str, list[pl.DataFrame]] = {}
        for extension in descriptor.extensions:
            if extensions is None or extension.type in extensions:
                tables.setdefault(extension.type or "", []).append(_read_table(members, extension, terms, counts))
    return Archive(
        path=path,
        core=core,
        core_type=descriptor.core.type or "",
        extensions={row_type: pl.concat(parts, how="diagonal") for row_type, parts in tables.items()},
        extension_types=tuple(extension.type or "" for extension in descriptor.extensions),
        counts=+counts,
    )


@dataclass(frozen=True)
class _Members:
    """The files of an archive, by their name relative to its descriptor."""

    path: Path
    zipped: zipfile.ZipFile | None = None
    root: str = ""

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._open(name) as stream:
                yield stream
        except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise DatasetError(f"{self.path}: '{name}' cannot be read ({error}); get the archive again") from error

    def _open(self, name: str) -> IO[bytes]:
        if self.zipped:
            if self.root + name not in self.zipped.NameToInfo:
                raise DatasetError(f"{self.path}: it has no '{name}', which it should hold; is the archive whole?")
            return self.zipped.open(self.root + name)
        target = (self.path / name).resolve()
        if not target.is_relative_to(self.path.resolve()):
            raise DatasetError(f"{self.path}: '{name}' in its descriptor leads out of the archive")
        if not target.is_file():
            raise DatasetError(f"{self.path}: it has no '{name}', which it should hold; is the archive whole?")
        return target.open("rb")


@contextmanager
def _open_members(path: Path, max_bytes: int) -> Iterator[_Members]:
    if path.is_dir():
        yield _Members(path)
        return
    if not path.is_file():
        raise DatasetError(f"{path}: no such archive")
    try:
        zipped = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DatasetError(f"{path}: neither a zip file nor a folder ({error})") from error
    with zipped:
        n_bytes = sum(info.file_size for info in zipped.infolist())
        if n_bytes > max_bytes:
            raise DatasetError(f"{path}: would unpack to {n_bytes:,} bytes, more than the {max_bytes:,} allowed")
        # some tools put the archive into a folder, and macOS adds shadows of its own
        names = (PurePosixPath(name) for name in zipped.namelist())
        found = [name for name in names if name.name == DESCRIPTOR and name.parts[0] != "__MACOSX"]
        root = str(min(found, key=lambda name: (len(name.parts), name))).removesuffix(DESCRIPTOR) if found else ""
        yield _Members(path, zipped, root)


def _read_descriptor(members: _Members) -> ArchiveDescriptor:
    with members.open(DESCRIPTOR) as stream:
        content = stream.read(MAX_DESCRIPTOR_BYTES + 1)
    if len(content) > MAX_DESCRIPTOR_BYTES or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DatasetError(f"{members.path}: {DESCRIPTOR} is too large or declares entities; that is no descriptor")
    try:
        return ArchiveDescriptor(content.decode("utf-8-sig"))
    except (ParseError, InvalidArchive, AttributeError, TypeError, ValueError, LookupError) as error:
        raise DatasetError(f"{members.path}: {DESCRIPTOR} is no descriptor of an archive ({error})") from error


def _read_table(
    members: _Members, descriptor: DataFileDescriptor, terms: Collection[str] | None, counts: Counter[str]
) -> pl.DataFrame:
    columns, defaults = _columns(descriptor, terms)
    layout = Layout(
        separator=descriptor.fields_terminated_by,
        quote=descriptor.fields_enclosed_by,
        newline=descriptor.lines_terminated_by,
        encoding=descriptor.file_encoding,
        header_lines=descriptor.lines_to_ignore,
    )
    tables = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String()))]
    for location in descriptor.raw_element.findall("./files/location"):  # a table may be cut into several files
        name = (location.text or "").strip()
        with members.open(name) as stream:
            tables += iter_tables(stream, layout, columns, f"{members.path}: {name}", counts)
    table = pl.concat(tables)
    return table.with_columns(
        pl.col(name).fill_null(default) if name in columns else pl.lit(default, pl.String()).alias(name)
        for name, default in defaults.items()
    )


def _columns(descriptor: DataFileDescriptor, terms: Collection[str] | None) -> tuple[dict[str, int], Mapping[str, str]]:
    """Name the fields, and say which have a default, with or without a field of their own."""
    columns = {"id": descriptor.id_index} if descriptor.represents_corefile else {"coreid": descriptor.coreid_index}
    defaults: dict[str, str] = {}
    seen = set(columns)
    for about in descriptor.fields:
        name = shorten_term(about["term"])
        if name in seen:
            name = about["term"]
        seen.add(name)
        if terms is not None and name not in terms:
            continue
        if about["index"] is not None:
            columns[name] = about["index"]
        if about["default"]:
            defaults[name] = about["default"]
    return columns, defaults
