"""Every kind of source by its word, so that commands and run files can name one as KIND:PATH."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from biovita.errors import ConfigError
from biovita.sources import (
    animal_sound_archive,
    biovita_release,
    folder,
    gbif,
    inaturalist,
    tree_of_life,
    xeno_canto,
)
from biovita.sources.http import Door
from biovita.sources.licence import normalise_licence
from biovita.sources.record import Reading, as_records, each
from biovita.tables import read_table

CATALOGUE: Final = "tree-of-life"  # read last, for the species that the others have
KINDS: Final = (
    *("files", "records", "xeno-canto", "inaturalist", "gbif", "animal-sound-archive", "biovita-release"),
    CATALOGUE,
)
HOSTS: Final = tuple(
    sorted(
        {
            host
            for source in (xeno_canto, inaturalist, gbif, animal_sound_archive, biovita_release, tree_of_life)
            for host in source.HOSTS
        }
    )
)


def parse_source(text: str) -> tuple[str, Path]:
    """Split KIND:PATH.

    Raises:
        ConfigError: there is no such kind.
    """
    kind, _, path = text.partition(":")
    if kind not in KINDS or not path:
        raise ConfigError(f"source '{text}': write KIND:PATH, with a kind of {', '.join(KINDS)}")
    return kind, Path(path)


def read_source(
    kind: str,
    path: Path,
    *,
    licence: str | None = None,
    species: Collection[str] | None = None,
    per_species: int = 200,
    seed: int = 0,
) -> Reading:
    """Read a saved dump, table or folder of one kind; asks no network.

    Args:
        kind: one of KINDS.
        path: where it lies.
        licence: of files that have no table (`files`).
        species: accepted names of the species to look for (`inaturalist` open data, `tree-of-life`); None takes all.
        per_species: most pictures of a species (`tree-of-life`).
        seed: of which pictures these are.

    Raises:
        ConfigError: there is no such kind, or it cannot be read for some species alone.
        DatasetError: what lies there is not of that kind.
    """
    if species is not None and kind not in ("inaturalist", CATALOGUE):
        raise ConfigError(f"--species-of: '{kind}' is read for all its species; leave it out")
    match kind:
        case "files":
            return folder.read(path, licence=licence)
        case "records":
            records = as_records(read_table(path), path)
            return Reading(records=records.with_columns(each(records["licence"], normalise_licence)))
        case "xeno-canto":
            return xeno_canto.read(path)
        case "inaturalist":
            return inaturalist.read(path, taxa=species)
        case "gbif":
            return gbif.read(path)
        case "animal-sound-archive":
            return animal_sound_archive.read(path)
        case "biovita-release":
            return biovita_release.read(path)
        case "tree-of-life":
            return tree_of_life.read(path, species=species, per_species=per_species, seed=seed)
    raise ConfigError(f"source '{kind}': no such kind; use {', '.join(KINDS)}")


def fetch_source(kind: str, door: Door, query: str, folder: Path) -> list[Path]:
    """Save a source's answers to a query, page by page, for `read_source`; a page that is there is not asked again.

    Raises:
        ConfigError: the kind has no API that we ask, or needs a key that is not set.
        FetchError: the source did not answer; the same call goes on.
    """
    match kind:
        case "xeno-canto":
            return xeno_canto.fetch(door, query, folder, xeno_canto.read_key())
        case "inaturalist":
            return inaturalist.fetch(door, query, folder)
        case "gbif":
            return gbif.fetch(door, query, folder)
        case "animal-sound-archive":
            return animal_sound_archive.fetch(door, query, folder)
    raise ConfigError(f"--query: '{kind}' is read from a saved dump or table; it has no API that we ask")
