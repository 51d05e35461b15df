"""A tree of species folders: the last folder that is a binomial names the species of what lies in it.

`Aves/Turdus merula/a.wav` and `turdus_merula/a.wav` are both understood; a properly written name (`Turdus merula`) goes
before one in lower case, which may be no name (`field_notes`). A folder deeper down of a hybrid or of what is not
identified (`Turdus merula/Turdus cf. philomelos`) names what lies in it, too, so that it is refused as such. A tree has
no licence of its own, so the caller gives one. Links are never followed, and every entry is either a record or counted
by what it is.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from biovita.errors import DatasetError
from biovita.media.check_child import SUFFIXES
from biovita.sources.licence import UNKNOWN, normalise_licence
from biovita.sources.record import Reading, as_records

SOURCE: Final = "folder"
MODALITY_OF_SUFFIX: Final = {suffix: modality for modality, names in SUFFIXES.items() for suffix in names}

_PROPER = re.compile(r"[A-Z][a-z\u00df-\u00ff-]+([ _][a-z\u00df-\u00ff-]{2,}){1,2}")
_OPEN = re.compile(  # a hybrid, what is not identified, a name with author and year: the parser of names judges these
    r"[A-Z][a-z\u00df-\u00ff-]+[ _]"
    r"((\S+[ _])?[x\u00d7][ _][A-Za-z].*|(cf|aff)\.?[ _][A-Za-z].*|spp?\.?([ _].*)?|[a-z-]{2,}[ _]\(?[A-Z].*, \d{4}\)?)"
)
_LOWER = re.compile(r"[a-z\u00df-\u00ff-]{2,}([ _][a-z\u00df-\u00ff-]{2,}){1,2}")


def read_tree(folder: Path, *, licence: str | None) -> Reading:
    """Read a tree of species folders; what is no usable file is counted by what it is.

    Args:
        folder: any depth; the head of this module says which folder names the species.
        licence: of every file in it.

    Raises:
        DatasetError: no such folder, or no known licence.
    """
    folder = Path(folder)
    known = known_licence(licence, folder)
    files, counts = walk_files(folder)
    rows = []
    for name in files:
        modality = MODALITY_OF_SUFFIX.get(suffix_of(name))
        species = species_of_folders(name.split("/")[:-1])
        if modality is None:
            counts[f"files of unknown suffix '{suffix_of(name)}'"] += 1
        elif species is None:
            counts["files in no species folder"] += 1
        else:
            rows.append((name, modality, species))
    table = pl.DataFrame(rows, dict.fromkeys(("given_path", "modality", "scientific_name"), pl.String), orient="row")
    return Reading(records=own_records(table, folder, known), counts=+counts + Counter(records=len(rows)))


def species_of_folders(folders: Sequence[str]) -> str | None:
    """Find the last folder that is a binomial (or trinomial), properly written ones first; None where none is.

    One of a hybrid, or of what is not identified, counts as properly written.
    """
    for folder in reversed(folders):
        if _OPEN.fullmatch(folder):
            return folder.replace("_", " ")
        if _PROPER.fullmatch(folder):
            return folder.replace("_", " ").capitalize()
    for folder in reversed(folders):
        if _LOWER.fullmatch(folder):
            return folder.replace("_", " ").capitalize()
    return None


def own_records(table: pl.DataFrame, folder: Path, licence: str) -> pl.DataFrame:
    """Make records of files that lie in the folder."""
    root = str(folder.resolve()).rstrip("/")
    return as_records(
        table.with_columns(
            pl.concat_str(pl.lit(f"{SOURCE}:"), "given_path").alias("media_id"),
            pl.lit(SOURCE).alias("source"),
            pl.lit(licence).alias("licence"),
            pl.concat_str(pl.lit(f"{root}/"), "given_path").alias("file"),
        ).sort("media_id"),
        folder,
    )


def known_licence(licence: str | None, path: Path) -> str:
    known = normalise_licence(licence)
    if known == UNKNOWN:
        raise DatasetError(
            f"{path}: licence '{licence or ''}' says nothing; give that of the files (--files-licence CC-BY-4.0)"
        )
    return known


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name may be anything


def walk_files(folder: Path) -> tuple[list[str], Counter[str]]:
    """List the regular files of a tree by their path in it, sorted; count everything else by what it is.

    Raises:
        DatasetError: no such folder, or it cannot be read.
    """
    files: list[str] = []
    counts: Counter[str] = Counter()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(folder / inside) as entries:
                found = list(entries)
        except OSError as error:
            if not inside:
                raise DatasetError(f"{folder}: {error.strerror}; name a folder that can be read") from error
            counts["folders that cannot be read"] += 1
            continue
        for entry in found:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if not entry.name.isascii() and entry.name != entry.name.encode(errors="replace").decode():
                counts["names that are not UTF-8"] += 1
            elif entry.is_symlink():
                counts["links, which are not followed"] += 1
            elif entry.name.startswith("."):
                counts["hidden files and folders"] += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            elif entry.is_file(follow_symlinks=False):
                files.append(name)
            else:
                counts["entries that are no regular files"] += 1
    return sorted(files), counts
