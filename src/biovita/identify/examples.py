"""Species by example: a user's own labelled files add species, or sharpen known ones, without training.

Sounds, pictures and names lie in parts of the space of their own, so the mean of a species' pictures cannot stand
beside the names of others: every picture would be nearer to it than to any name. What counts is the direction in which
it differs from the mean of all pictures. Put at the mean of all names, at the length that makes the scores of files
that are of other species spread as they do with names, it competes with names on equal terms.

Source:
    Snell et al. 2017, Prototypical Networks (means of examples); Liang et al. 2022, Mind the Gap (the parts).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biovita.embed.extract import How, checked, stream
from biovita.errors import ConfigError, MediaError
from biovita.log import Progress, warn
from biovita.models.encoder import Encoder
from biovita.sources.folder import read_manifest_table
from biovita.sources.tree import species_of_folders, walk_files
from biovita.taxonomy.taxon import normal_name

TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where the files of a modality lie.

    Attributes:
        centre: their mean vector, shape (width,).
        reach: the length of a direction among names, see the head of this module.
    """

    centre: np.ndarray
    reach: float


@dataclass(frozen=True, kw_only=True)
class Example:
    """One file of a user whose species is known.

    Attributes:
        name: as the user calls the species.
        modality: audio or image.
        vector: float32, shape (width,), of unit length.
    """

    name: str
    modality: str
    vector: np.ndarray


def read_examples(encoder: Encoder, path: Path) -> list[Example]:
    """Embed a user's labelled files; bad ones are named in warnings and never become a vector.

    Args:
        encoder: the model.
        path: a tree of folders, each called like its species (its name may be new to everyone), or a table with the
            columns path, scientific_name and modality.

    Raises:
        ConfigError: there are no such files, or none of a species can be used.
    """
    named = _files(path)
    if not named:
        raise ConfigError(f"{path}: holds no labelled files; give a folder for each species, or a table")
    found = []
    labelled = iter(named)
    with Progress("embed examples", len(named)) as bar:
        for block in stream(encoder, checked([file for _, file in named]), How(window="windows")):
            bar.advance(len(block))
            for result, (name, file) in zip(block, labelled, strict=False):
                if isinstance(result, MediaError):
                    warn(f"{file}: no example: {result.reason} ({result.detail})")
                else:
                    found.append(Example(name=name, modality=result.modality, vector=result.vectors[0]))
    for name in sorted({name for name, _ in named} - {one.name for one in found}):
        raise ConfigError(f"{path}: not one of the files of '{name}' can be used as an example")
    return found


def _files(path: Path) -> list[tuple[str, Path]]:
    """List species and files of a tree or a table."""
    if path.is_dir():
        named = []
        for name in walk_files(path)[0]:
            *folders, _ = name.split("/")
            if folders:
                species = species_of_folders(folders) or normal_name(folders[-1].replace("_", " "))
                named.append((species, path / name))
        return named
    rows = read_manifest_table(path)
    for name, file in rows.select("scientific_name", "file").iter_rows():
        if not name or not file:
            raise ConfigError(f"{path}: a row has no {'path inside its folder' if name else 'scientific_name'}")
    return [(normal_name(name), Path(file)) for name, file in rows.select("scientific_name", "file").iter_rows()]


def part_of(vectors: np.ndarray, names: np.ndarray) -> Part:
    """Find where the files of a modality lie.

    Args:
        vectors: of files of many species, shape (n, width).
        names: vectors of the names of species, shape (species, width).
    """
    centre = vectors.mean(0)
    by_name = (vectors @ (names - names.mean(0)).T).std(0).mean()
    by_example = (vectors @ directions(vectors, centre).T).std(0).mean()
    return Part(centre=centre, reach=float(by_name / by_example))


def directions(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return where vectors point from the centre: shape (n, width), unit rows at right angles to the centre.

    So a file's score with a direction says how it differs from others, not how near all of them are to the centre.
    """
    away = vectors - centre
    away = away - np.outer(away @ centre / max(centre @ centre, TINY), centre)
    return away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), TINY)


def by_examples(names: np.ndarray, species: np.ndarray, vectors: np.ndarray, part: Part) -> np.ndarray:
    """Let examples of one modality stand for their species in the place of the names.

    Args:
        names: of all species, shape (species, width), unit rows.
        species: of each example, shape (n,).
        vectors: of the examples, shape (n, width).
        part: of the modality.

    Returns:
        float32, shape (species, width); species without examples keep their names' vectors.
    """
    found = names.copy()
    own = np.unique(species)
    means = np.stack([vectors[species == n].mean(0) for n in own])
    found[own] = names.mean(0) + part.reach * directions(means, part.centre)
    return found
