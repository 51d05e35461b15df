"""The species to choose from: a table, a part of it, and what the user's own files say of them."""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from biovita.embed.extract import text_vectors
from biovita.errors import ConfigError
from biovita.files import sha256_json
from biovita.identify.calibrate import Calibration
from biovita.identify.examples import Example, Part, by_examples, part_of, read_examples
from biovita.identify.expected import read_expected, same_species
from biovita.log import say
from biovita.models.encoder import Encoder
from biovita.tables import read_table
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.decide import BINOMIAL
from biovita.taxonomy.prompts import training_prompts
from biovita.taxonomy.rank import LEVELS, RANKS
from biovita.taxonomy.taxon import Taxon, normal_name

LABELS = "labels.csv"  # of a model folder: the species that it was made for
FEWEST_SPECIES = 5  # of a modality whose examples may stand for all of it


@dataclass(frozen=True)
class Labels:
    """The species to choose from.

    Attributes:
        taxa: one a species.
        vectors: of their names: float32, shape (species, width), unit rows.
        expected: bool, shape (species,): on the list of what lives here and now; None without such a list.
        examples: by modality, the vectors that stand for the species where the user has given examples.
    """

    taxa: list[Taxon]
    vectors: np.ndarray
    expected: np.ndarray | None = None
    examples: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.taxa)

    def of(self, modality: str) -> np.ndarray:
        """Return the vectors that a photo or a recording is compared with."""
        return self.examples.get(modality, self.vectors)

    def sha256(self) -> str:
        """Hash the species and what stands for them."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        expected = None if self.expected is None else self.expected.tolist()
        digest = hashlib.sha256(sha256_json([[taxon.row() for taxon in self.taxa], expected]).encode())
        for modality in sorted(self.examples):
            digest.update(modality.encode() + self.examples[modality].tobytes())
        return digest.hexdigest()

    def only(self, keep: np.ndarray) -> "Labels":
        """Keep some of the species; `keep` is bool or integer, as for an array."""
        return Labels(
            [self.taxa[n] for n in np.arange(len(self))[keep]],
            self.vectors[keep],
            None if self.expected is None else self.expected[keep],
            {modality: vectors[keep] for modality, vectors in self.examples.items()},
        )


def read_labels(
    encoder: Encoder,
    *,
    table: Path | None = None,
    taxa: str = "",
    examples: Path | None = None,
    calibration: Calibration | None = None,
    species_list: Path | None = None,
    names: Sequence[Path] = (),
    place: tuple[float, float] | None = None,
    week: str = "",
    only_expected: bool = False,
) -> Labels:
    """Read the species to choose from.

    Args:
        encoder: the model.
        table: of species, see `read_taxa`; None: those of the model's folder.
        taxa: keep the species of these taxa only, see `within`; empty: all.
        examples: folder or table of labelled files that add species or sharpen known ones, see `add_examples`.
        calibration: of the model, which knows where the files of each modality lie; examples need it.
        species_list: names of what lives there, see `expected.read_expected`.
        names: name lists that know synonyms, as for `biovita data build --taxa`.
        place: latitude and longitude in degrees; of the list, only what was seen near counts.
        week: 1 to 48 or a date; of the list, only what was seen about then counts.
        only_expected: leave out what is not on the list, instead of marking what is.

    Raises:
        ConfigError: a table, a name, a place or a week cannot be used.
        DatasetError: a table lacks a column.
    """
    found = read_taxa(table, encoder.folder)
    found = within(found, taxa) if taxa else found
    given = read_examples(encoder, examples) if examples else []
    labels = named_labels(encoder, found)
    if given:
        meant = same_species(list(dict.fromkeys(one.name for one in given)), found, names)
        added = {one.name: new_taxon(one.name, found) for one in given if one.name not in meant}
        labels = with_more(labels, named_labels(encoder, [*added.values()])) if added else labels
        say(f"{examples}: {len(given):,} examples of {len(meant) + len(added):,} species, {len(added):,} of them new")
        given = [replace(one, name=meant.get(one.name, one.name)) for one in given]
        labels = add_examples(labels, given, calibration.parts if calibration else {})
    if species_list:
        expected = read_expected(labels.taxa, species_list, names=names, place=place, week=week)
        labels = replace(labels, expected=expected)
        return labels.only(expected) if only_expected else labels
    for flag, value in (("--place", place), ("--week", week), ("--only-expected", only_expected)):
        if value:
            raise ConfigError(f"{flag}: says what counts of a list; name the list with --species-list FILE")
    return labels


def add_examples(labels: Labels, examples: Sequence[Example], parts: Mapping[str, Part]) -> Labels:
    """Let examples stand for their species, in their modality.

    Args:
        labels: known by their names.
        examples: named as in the labels; vectors of one model with them.
        parts: where the files of each modality lie; where one is missing, the examples tell it.

    Raises:
        ConfigError: they are of too few species to tell it.
    """
    place = {taxon.species: n for n, taxon in enumerate(labels.taxa)}
    found = {}
    for modality in sorted({one.modality for one in examples}):
        some = [one for one in examples if one.modality == modality]
        vectors = np.stack([one.vector for one in some])
        species = np.array([place[one.name] for one in some])
        n_species = len(np.unique(species))
        if modality not in parts and n_species < FEWEST_SPECIES:
            raise ConfigError(
                f"--examples: {modality} of {n_species} species says too little by itself; give {FEWEST_SPECIES} "
                f"species, or first run `biovita model calibrate` on a dataset with {modality} of so many"
            )
        part = parts.get(modality) or part_of(vectors, labels.vectors)
        found[modality] = by_examples(labels.vectors, species, vectors, part)
    return replace(labels, examples=found)


def new_taxon(name: str, taxa: Sequence[Taxon]) -> Taxon:
    """Make a species that no list has; one of a known genus takes over what is above it."""
    genus = name.split()[0] if BINOMIAL.fullmatch(name) else ""
    kin = next((taxon for taxon in taxa if genus and taxon.genus == genus), None)
    return replace(kin, species=name, common_name="") if kin else Taxon(genus=genus, species=name)


def with_more(labels: Labels, more: Labels) -> Labels:
    """Put two lists together; each keeps its own place among the kept vectors of names."""
    return Labels([*labels.taxa, *more.taxa], np.concatenate([labels.vectors, more.vectors]))


def named_labels(encoder: Encoder, taxa: Sequence[Taxon]) -> Labels:
    """Let species be known by their names alone.

    Raises:
        ConfigError: there are none.
    """
    if not taxa:
        raise ConfigError(f"{encoder.name}: no species to choose from; give --labels TABLE")
    return Labels(list(taxa), name_vectors(encoder, taxa))


def name_vectors(encoder: Encoder, taxa: Sequence[Taxon]) -> np.ndarray:
    """Embed species: the mean of the five training texts of each, brought back to unit length.

    So scientific and common name count alike. A list is kept by model and content under $BIOVITA_HOME.

    Returns:
        float32, shape (species, width), unit rows.
    """
    texts = [training_prompts(taxon) for taxon in taxa]
    vectors = text_vectors(encoder, [text for forms in texts for text in forms])
    mean = vectors.reshape(len(texts), len(texts[0]), -1).mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def read_taxa(table: Path | None, folder: Path | None) -> list[Taxon]:
    """Read the species to choose from.

    Args:
        table: CSV, TSV or Parquet with the columns kingdom to species and common_name, or a name list with species
            that `taxonomy.checklist` knows, such as eBird's; None: the model's own.
        folder: of the model.

    Raises:
        ConfigError: there is no such table, or it is empty.
        DatasetError: it lacks a column.
        TaxonomyError: it is no list of names.
    """
    path = table or (folder / LABELS if folder else None)
    if path is None or not path.is_file():
        raise ConfigError(f"{path or 'labels'}: no such table of species; give one with --labels TABLE")
    rows = read_table(path)
    if not set(LEVELS) <= set(rows.columns):
        rows = Checklist.open([path]).table()
    taxa = list(dict.fromkeys(Taxon.from_row(row) for row in rows.iter_rows(named=True)))
    if not taxa:
        raise ConfigError(f"{path}: no species to choose from; give another table with --labels TABLE")
    return taxa


def within(taxa: Sequence[Taxon], names: str) -> list[Taxon]:
    """Keep the species of some taxa.

    Args:
        taxa: the species.
        names: scientific names at any rank, several by comma: `Aves`, `Passeriformes, Felidae`.

    Raises:
        ConfigError: a name is nowhere among the species; the message has those that are spelled nearly so.
    """
    wanted = [normal_name(name).casefold() for name in names.split(",") if name.strip()]
    known = {taxon.at(rank).casefold(): taxon.at(rank) for taxon in taxa for rank in RANKS if taxon.at(rank)}
    for name in wanted:
        if name not in known:
            near = [known[other] for other in difflib.get_close_matches(name, known, n=3)]
            hint = f"is {' or '.join(near)} meant?" if near else "`biovita identify --labels TABLE` gives other species"
            raise ConfigError(f"--taxa: no species of '{name}' among the {len(taxa):,} to choose from; {hint}")
    if not wanted:
        raise ConfigError(f"--taxa '{names}': names no taxon; give scientific names of any rank, such as Aves")
    return [taxon for taxon in taxa if any(taxon.at(rank).casefold() in wanted for rank in RANKS)]
