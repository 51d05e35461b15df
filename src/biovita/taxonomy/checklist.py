"""Accepted names with their lineage: a name as a source writes it becomes one species, or is refused with the reason.

Read from any of: a taxa table (seven ranks, perhaps common names and traits), the eBird/Clements taxonomy CSV, the
BirdNET-Go genus JSON (class, order and family of a genus). Where several know a species, the first given wins.
A species that no list names is accepted by its genus where the genus JSON has it, since that list of species is not
complete; but not in a class that another list holds whole (eBird: birds), nor if a listed sister is spelled almost
alike.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import polars as pl

from biovita.errors import TaxonomyError
from biovita.files import read_json
from biovita.tables import read_table, require_columns
from biovita.taxonomy.rank import LEVELS, RANKS
from biovita.taxonomy.taxon import Taxon, normal_name
from biovita.taxonomy.traits import TRAITS

PHYLUM_OF_CLASS = {
    **dict.fromkeys(("Aves", "Mammalia", "Amphibia", "Reptilia", "Actinopterygii"), "Chordata"),
    **dict.fromkeys(("Insecta", "Arachnida", "Malacostraca"), "Arthropoda"),
    **dict.fromkeys(("Gastropoda", "Bivalvia", "Cephalopoda"), "Mollusca"),
}
KINGDOM = "Animalia"  # of every class in the lists that leave the kingdom out
ALMOST_ALIKE = 0.9  # difflib ratio of two epithets from which a new one is taken for a slip

TIMES = "\u00d7"  # the multiplication sign marks a hybrid
_UNSURE = {"sp", "spp", "ssp", "cf", "aff", "nr", "gr", "indet"}
_INFRASPECIFIC = {"subsp", "ssp", "var", "f", "forma"}
_EPITHET = re.compile(r"[a-zà-öø-ÿ-]{2,}")
_GENUS = re.compile(r"[A-Z][a-zà-öø-ÿ-]+")


class Checklist:
    """Species and genera that are known, with their lineage.

    Attributes:
        traits: null, or a table of `species`, the trait columns that were given and `traits_source`.
    """

    def __init__(self) -> None:
        self._species: dict[str, Mapping[str, Any]] = {}
        self._genera: dict[str, Mapping[str, Any]] = {}
        self._of_genus: dict[str, set[str]] = {}
        self._complete: set[str] = set()
        self.traits: pl.DataFrame | None = None

    @classmethod
    def open(cls, paths: Iterable[Path]) -> Self:
        """Read name lists, the most trusted first.

        Raises:
            TaxonomyError: a file is none of the known kinds.
            DatasetError: a table is missing or lacks a column.
        """
        checklist = cls()
        for path in map(Path, paths):
            if path.suffix.lower() == ".json":
                checklist.add_genera(read_json(path), path)
                continue
            table = read_table(path)
            if {"SCI_NAME", "FAMILY", "ORDER"} <= set(table.columns):
                checklist.add_ebird(table)
            else:
                checklist.add_taxa(table, path)
        return checklist

    def __len__(self) -> int:
        return len(self._species)

    def add_taxa(self, table: pl.DataFrame, path: Path) -> None:
        """Add a table with the seven ranks, and take over `common_name` and trait columns where it has them."""
        require_columns(table, RANKS, path)
        given = table.with_columns(
            pl.lit("").alias(name) for name in ("common_name",) if name not in table.columns
        ).with_columns(pl.col(name).cast(pl.String).fill_null("") for name in LEVELS)
        for row in given.select(LEVELS).iter_rows(named=True):
            self._add(normal_name(row["species"]), row)
        labels = [name for name in TRAITS if name in table.columns]
        if labels:
            source = pl.col("traits_source") if "traits_source" in table.columns else pl.lit(path.name)
            traits = given.select("species", *map(_as_bool, labels), source.alias("traits_source"))
            known = traits if self.traits is None else pl.concat([self.traits, traits], how="diagonal")
            self.traits = known.unique("species", keep="first", maintain_order=True)

    def add_ebird(self, table: pl.DataFrame) -> None:
        """Add the species of the eBird/Clements taxonomy; it lists every bird, so other names of birds are refused."""
        species = table.filter(pl.col("CATEGORY") == "species") if "CATEGORY" in table.columns else table
        for row in species.select("SCI_NAME", "ORDER", "FAMILY", "PRIMARY_COM_NAME").iter_rows(named=True):
            name = normal_name(row["SCI_NAME"])
            family = re.sub(r"\s*\(.*", "", row["FAMILY"] or "")  # "Struthionidae (Ostriches)"
            lineage = _lineage("Aves", row["ORDER"], family, name.split()[0])
            self._add(name, {**lineage, "species": name, "common_name": row["PRIMARY_COM_NAME"]})
        self._complete.add("Aves")

    def add_genera(self, value: Any, path: Path) -> None:
        """Add class, order and family of genera, from BirdNET-Go's genus JSON."""
        genera = value.get("genera") if isinstance(value, dict) else None
        if not isinstance(genera, dict):
            raise TaxonomyError(f"{path}: no key 'genera'; a name list in JSON is BirdNET-Go's genus taxonomy")
        for key, entry in genera.items():
            genus = key.capitalize()
            self._genera.setdefault(genus, _lineage(entry["class"], entry["order"], entry["family"], genus))
            # the list also holds synonyms in other genera and stray English names
            own = (normal_name(name) for name in entry.get("species", ()))
            self._of_genus.setdefault(genus, set()).update(name for name in own if name.startswith(f"{genus} "))

    def resolve(self, name: str) -> Taxon:
        """Find the species that a name means; subspecies, authors and odd spacing or case are folded away.

        Raises:
            TaxonomyError: it names no single species, or none that is known; the message says why.
        """
        species = binomial(name)
        if species in self._species:
            return Taxon.from_row(self._species[species])
        genus = species.split()[0]
        if genus not in self._of_genus:
            raise TaxonomyError(f"'{name}': no name list knows the genus {genus}{_meant(genus, self._of_genus)}")
        lineage, listed = self._genera.get(genus), self._of_genus[genus]
        slip = species not in listed and difflib.get_close_matches(species, listed, n=1, cutoff=ALMOST_ALIKE)
        if lineage is None or lineage["class"] in self._complete or slip:
            raise TaxonomyError(f"'{name}': no such species in {genus}{_meant(species, listed)}")
        return Taxon.from_row({**lineage, "species": species, "common_name": ""})

    def table(self) -> pl.DataFrame:
        """Return all that is known, sorted, as one table (for a hash of it)."""
        rows = [*self._species.values(), *({**row, "species": "", "common_name": ""} for row in self._genera.values())]
        known = pl.DataFrame(
            [{level: row[level] or "" for level in LEVELS} for row in rows], dict.fromkeys(LEVELS, pl.String)
        )
        if self.traits is not None:
            known = known.join(self.traits, on="species", how="left")
        return known.sort("species", "genus")

    def _add(self, species: str, row: Mapping[str, Any]) -> None:
        if len(species.split()) < 2:
            raise TaxonomyError(f"'{species}': a name list needs binomials in its column 'species'")
        genus = species.split()[0]
        self._species.setdefault(species, row)
        self._of_genus.setdefault(genus, set()).add(species)


def binomial(name: str) -> str:
    """Reduce a scientific name to genus and epithet.

    Raises:
        TaxonomyError: it is empty, of a higher rank, a hybrid, or leaves the species open.
    """
    text = normal_name(name).replace("_", " ")
    if not text:
        raise TaxonomyError("no scientific name is given")
    if "/" in text:
        raise TaxonomyError(f"'{name}': names more than one species")
    words = text.split()
    if any(word.lower() == "x" or word.startswith(TIMES) for word in words):
        raise TaxonomyError(f"'{name}': a hybrid")
    if len(words) < 2:
        raise TaxonomyError(f"'{name}': one word names a genus or a higher rank, not a species")
    if words[1].rstrip(".").lower() in _UNSURE or (words[1].startswith("(") and len(words) < 3):
        raise TaxonomyError(f"'{name}': not identified to species")
    if words[1].startswith("("):  # a subgenus: Genus (Subgenus) epithet
        del words[1]
    genus, epithet = words[0].capitalize(), words[1].lower()
    unsure = any(w.rstrip(".").lower() in _UNSURE - _INFRASPECIFIC for w in words[2:] if w.endswith("."))
    if unsure or not _GENUS.fullmatch(genus) or not _EPITHET.fullmatch(epithet):
        raise TaxonomyError(f"'{name}': not a binomial name of one species")
    return f"{genus} {epithet}"


def _lineage(class_: str, order: str, family: str, genus: str) -> dict[str, str]:
    names = (KINGDOM, PHYLUM_OF_CLASS.get(class_, ""), class_, order, family, genus)
    return dict(zip(RANKS, names, strict=False))


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; is {near[0]} meant?" if near else ""


def _as_bool(label: str) -> pl.Expr:
    """Read a trait as true, false or null, whether the table is typed or text."""
    text = pl.col(label).cast(pl.String).str.to_lowercase()
    return (
        pl.when(text.is_in(["true", "1", "1.0"])).then(True).when(text.is_in(["false", "0", "0.0"])).then(False)
    ).alias(label)
