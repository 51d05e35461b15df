"""Accepted names with their lineage: a name as a source writes it becomes one species, or is refused with the reason.

Read from any of: a taxa table (seven ranks, perhaps common names and traits), the eBird/Clements taxonomy CSV, a
backbone (`taxonomy.backbone`), BirdNET-Go's genus JSON, tables of common names. Where several lists know a name, the
first given wins, and a later list's species with another name for the same animal is that animal. No name is ever
corrected: a wrong label poisons what learns from it, a refused file is only lost (docs/decisions/0009-names.md).
"""

import bisect
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

import polars as pl

from biovita.errors import TaxonomyError
from biovita.files import read_json
from biovita.tables import read_table, require_columns
from biovita.taxonomy import backbone, vernacular
from biovita.taxonomy.backbone import KINGDOM, Backbone
from biovita.taxonomy.parse import ParsedName, parse_names, shown
from biovita.taxonomy.rank import LEVELS, RANKS
from biovita.taxonomy.taxon import Taxon, normal_name
from biovita.taxonomy.traits import TRAITS

How = Literal["accepted", "synonym", "subspecies", "genus known", "moved genus", "refused"]

PHYLUM_OF_CLASS = {
    **dict.fromkeys(("Aves", "Mammalia", "Amphibia", "Reptilia", "Actinopterygii"), "Chordata"),
    **dict.fromkeys(("Insecta", "Arachnida", "Malacostraca"), "Arthropoda"),
    **dict.fromkeys(("Gastropoda", "Bivalvia", "Cephalopoda"), "Mollusca"),
}
SAME_NAME = {  # of kingdoms and classes that lists name by more than one system
    "Metazoa": "Animalia",
    **dict.fromkeys(("Squamata", "Testudines", "Crocodylia", "Sphenodontia"), "Reptilia"),
    **dict.fromkeys(("Teleostei", "Holostei", "Chondrostei", "Cladistii"), "Actinopterygii"),
    **dict.fromkeys(("Elasmobranchii", "Holocephali"), "Chondrichthyes"),
}
KINDS: Final = (
    "a table with the seven ranks, the eBird taxonomy CSV, BirdNET-Go's genus JSON, GBIF's Taxon.tsv or simple file, "
    "a Catalogue of Life NameUsage.tsv, a Darwin Core taxon table, a Darwin Core table of common names, or BirdNET "
    "labels"
)
ALIKE = 0.8  # difflib ratio of two names of a genus from which one may be meant by the other
ALMOST_ALIKE = 0.9  # difflib ratio of two names of a genus from which a new one is taken for a slip
HINTS: Final = {f"given_{level}": level for level in LEVELS if level != "species"}  # what a source may say besides
LOG_COLUMNS: Final = ("parsed_name", "below_species", "how", *LEVELS, "list", "differs", "reason")
_BINOMIAL = re.compile(r"[A-Z][a-z-]+ [a-z-]+")
_LATIN_END = re.compile(r"(rum|ra|er|us|um|is|os|on|es|ii|i|a|e)$")
_LETTERS = "abcdefghijklmnopqrstuvwxyz-"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What came of one name.

    Attributes:
        given: as the source writes it.
        parsed: the binomial in it; empty where there is none.
        below: the epithet below species, which is folded away.
        how: by which rule the species was found, or `refused`.
        lineage: a row of `LEVELS`; None where the name is refused.
        source: the list that decided.
        differs: ranks at which the source and the list disagree, although they mean the same animal.
        reason: why it is refused; empty where it is not.
    """

    given: str
    parsed: str = ""
    below: str = ""
    how: How = "refused"
    lineage: Mapping[str, str] | None = None
    source: str = ""
    differs: str = ""
    reason: str = ""

    @property
    def species(self) -> str | None:
        """The accepted species; None where the name is refused."""
        return self.lineage["species"] if self.lineage else None

    @property
    def taxon(self) -> Taxon | None:
        """The accepted species with its lineage; None where the name is refused."""
        return Taxon.from_row(self.lineage) if self.lineage else None


@dataclass(frozen=True, kw_only=True)
class Genus:
    """A genus of the genus JSON: its lineage (`LEVELS` without species), the names in it, and the list that has it."""

    lineage: Mapping[str, str]
    listed: set[str]
    source: str


class Checklist:
    """Species and genera that are known, with their lineage, and the names that mean them.

    Attributes:
        traits: null, or a table of `species`, the trait columns that were given and `traits_source`.
        common_names: null, or a table of `species`, `language` and `name`: the preferred name in each language.
        lists: what was read: one row a file with `list`, `species`, `names` and `unused`.
    """

    def __init__(self) -> None:
        self._species = pl.DataFrame(schema=dict.fromkeys((*LEVELS, "list"), pl.String))
        self._rows: dict[str, tuple[int, ...]] = {}  # a name, and the species that it means, one but for homonyms
        self._doubted: dict[str, str] = {}  # a name, and why it means no species for certain
        self._genera: dict[str, Genus] = {}
        self._older: dict[str, set[str]] = {}  # a name in another genus, and what the genus JSON has it under
        self._complete: dict[str, str] = {}  # a class, and the list that holds all of it
        self._english: dict[str, str] = {}
        self._at_hand: dict[int, dict[str, str]] = {}  # rows of the species that are decided on now
        self._ids: dict[Path, pl.DataFrame] = {}  # a folder, and `taxon_id` and `species` of the table in it
        self.traits: pl.DataFrame | None = None
        self.common_names: pl.DataFrame | None = None
        self.lists = pl.DataFrame(
            schema={"list": pl.String, "species": pl.Int64, "names": pl.Int64, "unused": pl.Int64}
        )

    @classmethod
    def open(cls, paths: Iterable[Path]) -> Self:
        """Read name lists, the most trusted first; tables of common names are read after all others, English first.

        Raises:
            TaxonomyError: a file is none of the known kinds.
            DatasetError: a table is missing or lacks a column.
        """
        checklist = cls()
        common = [path for path in map(Path, paths) if not checklist._read(path)]
        for path in sorted(common, key=lambda path: vernacular.language_of(path) != "en"):
            checklist.add_common_names(path)
        checklist._ids.clear()
        return checklist

    def __len__(self) -> int:
        return len(self._species)

    def _read(self, path: Path) -> bool:
        """Read one file by what is in it; false for a table of common names, which must wait."""
        if path.suffix.lower() == ".json":
            self.add_genera(read_json(path), path)
            return True
        if not path.is_file() or path.suffix.lower() not in backbone.SUFFIXES:
            read_table(path)  # says what is wrong
        line = "" if path.suffix.lower() == ".parquet" else backbone.first_line(path)
        if backbone.is_simple(line):
            self.add_backbone(backbone.read_simple(path), path)
            return True
        if path.suffix.lower() == ".txt" and vernacular.is_labels(line):
            return False
        columns = backbone.columns_of(path)
        if vernacular.is_vernacular(columns):
            return False
        if {"SCI_NAME", "FAMILY", "ORDER"} <= set(columns):
            self.add_ebird(read_table(path), path)
        elif "species" not in columns and backbone.is_taxon_table(columns):
            self.add_backbone(backbone.read_taxon_table(path), path)
        elif set(RANKS) & set(columns):
            self.add_taxa(read_table(path), path)
        else:
            raise TaxonomyError(f"{path}: none of the kinds of name list that we know: {KINDS}")
        return True

    def add_taxa(self, table: pl.DataFrame, path: Path) -> None:
        """Add a table with the seven ranks, and take over `common_name` and trait columns where it has them."""
        require_columns(table, RANKS, path)
        given = table.with_columns(_normal(table[name]) for name in LEVELS if name in table.columns)
        for name in given["species"].filter(~given["species"].str.contains(" ", literal=True)):
            raise TaxonomyError(f"{path}: '{name}': a name list needs binomials in its column 'species'")
        self.add_backbone(backbone.of_species(given), path)
        labels = [name for name in TRAITS if name in table.columns]
        if labels:
            source = pl.col("traits_source") if "traits_source" in table.columns else pl.lit(path.name)
            accepted = [self._accepted(name) for name in given["species"]]
            traits = given.select(
                pl.Series("species", accepted, pl.String), *map(_as_bool, labels), source.alias("traits_source")
            ).drop_nulls("species")
            known = traits if self.traits is None else pl.concat([self.traits, traits], how="diagonal")
            self.traits = known.unique("species", keep="first", maintain_order=True)

    def add_ebird(self, table: pl.DataFrame, path: Path) -> None:
        """Add the species of the eBird/Clements taxonomy; it lists every bird, so other names of birds are refused."""
        species = table.filter(pl.col("CATEGORY") == "species") if "CATEGORY" in table.columns else table
        name = _normal(species["SCI_NAME"])
        birds = species.select(
            pl.lit(KINGDOM).alias("kingdom"),
            pl.lit(PHYLUM_OF_CLASS["Aves"]).alias("phylum"),
            pl.lit("Aves").alias("class"),
            _normal(species["ORDER"]).alias("order"),
            _normal(species["FAMILY"].str.replace(r"\s*\(.*", "")).alias("family"),  # "Struthionidae (Ostriches)"
            name.str.split(" ").list.first().alias("genus"),
            name.alias("species"),
            _normal(species["PRIMARY_COM_NAME"]).alias("common_name"),
        )
        self.add_backbone(backbone.of_species(birds), path)
        self._complete.setdefault("Aves", path.name)

    def add_genera(self, value: Any, path: Path) -> None:
        """Add class, order and family of genera, from BirdNET-Go's genus JSON.

        A genus there also lists names in other genera: older names of its species, to be told by their epithets.
        """
        genera = value.get("genera") if isinstance(value, dict) else None
        if not isinstance(genera, dict):
            raise TaxonomyError(f"{path}: no key 'genera'; a name list in JSON is BirdNET-Go's genus taxonomy")
        for key, entry in genera.items():
            genus = key.capitalize()
            lineage = _lineage(entry["class"], entry["order"], entry["family"], genus)
            names = [normal_name(name) for name in entry.get("species", ())]
            own = {name for name in names if name.startswith(f"{genus} ")}
            self._genera.setdefault(genus, Genus(lineage=lineage, listed=set(), source=path.name)).listed.update(own)
            by_stem = {_stem(name): name for name in sorted(own)}
            for name in names:
                if name not in own and _BINOMIAL.fullmatch(name):  # stray English names are there, too
                    self._older.setdefault(name, set()).add(by_stem.get(_stem(name), f"a species of {genus}"))
        self._record(path, len(genera), sum(len(genus.listed) for genus in self._genera.values()), 0)

    def add_backbone(self, given: Backbone, path: Path) -> None:
        """Add species and their other names, as far as earlier lists do not know the same animals already."""
        known, place = self._known_already(given)
        why: dict[int, str] = {}
        fresh: list[int] = []
        for row, class_ in enumerate(given.species["class"]):
            if row in place:
                continue
            if row in known:
                why[row] = f"{path.name} has it for what earlier lists tell apart: {self._all(known[row])}"
            elif class_ in self._complete:
                why[row] = f"unknown to {self._complete[class_]}, which lists all {class_}"
            else:
                place[row] = len(self._species) + len(fresh)
                fresh.append(row)
        is_fresh = set(fresh)
        species = given.species["species"].to_list()
        new = given.species[fresh].select(*LEVELS, pl.lit(path.name).alias("list"))
        self._species = pl.concat([self._species, new])
        twice = set(given.names.filter(pl.col("name").is_duplicated())["name"])
        ours: set[str] = set()  # of these, the names that no earlier list knows
        for name, row in given.names.iter_rows():
            if row not in place:
                self._doubted.setdefault(name, why[row])
            elif name not in self._rows:
                if len(known.get(row, ())) > 1:
                    apart = self._all(known[row])
                    self._doubted.setdefault(name, f"{path.name} has it for what earlier lists tell apart: {apart}")
                    continue
                self._rows[name] = (place[row],)
                if name in twice:
                    ours.add(name)
            elif place[row] not in self._rows[name] and (name in ours or (row in is_fresh and name == species[row])):
                self._rows[name] += (place[row],)
        for name, reason in given.doubted.iter_rows():
            self._doubted.setdefault(name, reason)
        self._ids.setdefault(path.parent, given.species.select("taxon_id", "species"))
        self._record(path, len(given.species), len(given.names), len(given.doubted) + given.counts.total())

    def add_common_names(self, path: Path) -> None:
        """Add names in other languages; for each species and language the first one given is preferred.

        An English label list also vouches for the names in it that changed their genus, see `decide`.

        Raises:
            TaxonomyError: it names taxa by numbers, and the table of these taxa is not among the lists.
        """
        given = vernacular.read_common_names(path)
        if "taxon_id" in given.columns:
            if path.parent not in self._ids:
                raise TaxonomyError(f"{path}: numbers its taxa; give the taxon table of the same folder, too")
            ids = self._ids[path.parent].with_columns(
                pl.col("species").map_elements(self._accepted, return_dtype=pl.String, skip_nulls=True)
            )
            named = given.join(ids, on="taxon_id", how="left", maintain_order="left")
        else:
            hint = pl.when(pl.col("language") == "en").then("name").alias("given_common_name")
            names = given.select("scientific_name", hint)
            log = self.decide_all(names)
            for name, species in (
                log.filter(pl.col("how") == "moved genus").select("parsed_name", "species").iter_rows()
            ):
                self._rows.setdefault(name, self._rows[species])
            found = log.select("scientific_name", "given_common_name", "species")
            named = given.with_columns(hint).join(
                found, on=["scientific_name", "given_common_name"], how="left", nulls_equal=True, maintain_order="left"
            )
        used = named.filter(pl.col("species").is_not_null()).select("species", "language", "name")
        known = used if self.common_names is None else pl.concat([self.common_names, used])
        self.common_names = known.unique(["species", "language"], keep="first", maintain_order=True)
        english = self.common_names.filter(pl.col("language") == "en")
        self._english = dict(english.select("species", "name").iter_rows())
        self._record(path, used["species"].n_unique(), len(used), len(named) - len(used))

    def decide(self, name: str, lineage: Mapping[str, str] | None = None) -> Decision:
        """Find the species that a name means; subspecies, authors and odd spacing or case are folded away.

        Nothing is guessed from spelling alone. A name that no list has is taken only if the genus JSON knows its
        genus, or if its common name and its epithet are those of one listed species, so that the genus has changed.

        Args:
            name: as a source writes it.
            lineage: what the source says besides: names at ranks, and `common_name`. It tells homonyms apart. A kingdom
                or phylum that differs from the list's refuses the name, and so do class, order and family if all of
                them that are known on both sides differ; lists often disagree on one.
        """
        (parsed,) = parse_names([name])
        return self._decide(parsed, _hints(lineage or {}))

    def resolve(self, name: str, lineage: Mapping[str, str] | None = None) -> Taxon:
        """Find the species that a name means, see `decide`.

        Raises:
            TaxonomyError: it names no single species, or none that is known; the message says why.
        """
        decision = self.decide(name, lineage)
        if decision.taxon is None:
            raise TaxonomyError(decision.reason)
        return decision.taxon

    def decide_all(self, names: pl.DataFrame) -> pl.DataFrame:
        """Decide every distinct row of names: the decision log, in the order of the names.

        Args:
            names: `scientific_name` and any of the columns `HINTS`; null where a source says nothing.

        Returns:
            The given columns and `LOG_COLUMNS`; `reason` is null where a species was found, the ranks where it was not.
        """
        hints = [column for column in HINTS if column in names.columns]
        distinct = names.select("scientific_name", *hints).unique().sort("scientific_name", *hints)
        texts = distinct["scientific_name"].fill_null("").to_list()
        said = [{HINTS[column]: row[i] for i, column in enumerate(hints)} for row in distinct.select(hints).iter_rows()]
        read = parse_names(texts)
        wanted = sorted({row for name in read for row in self._rows.get(name.species, ())})
        self._at_hand = dict(zip(wanted, self._species[wanted].iter_rows(named=True), strict=True))
        rows = []
        for parsed, lineage in zip(read, said or [{}] * len(texts), strict=True):
            made = self._decide(parsed, _hints(lineage))
            names_of_ranks = [made.lineage[level] for level in LEVELS] if made.lineage else [None] * len(LEVELS)
            rows.append((made.parsed, made.below, made.how, *names_of_ranks, made.source, made.differs, made.reason))
        self._at_hand = {}
        log = pl.DataFrame(rows, dict.fromkeys(LOG_COLUMNS, pl.String), orient="row")
        empty_to_null = (
            pl.when(pl.col(name) != "").then(name).alias(name)
            for name in ("parsed_name", "below_species", "list", "differs", "reason")
        )
        return pl.concat([distinct, log.with_columns(empty_to_null)], how="horizontal")

    def table(self) -> pl.DataFrame:
        """Return all that is known, sorted, as one table (for a hash of it)."""
        genera = pl.DataFrame(
            [{**genus.lineage, "species": "", "common_name": ""} for genus in self._genera.values()],
            dict.fromkeys(LEVELS, pl.String),
        )
        known = pl.concat([self._species.select(LEVELS), genera])
        if self.traits is not None:
            known = known.join(self.traits, on="species", how="left")
        own = self._species["species"].to_list()
        meant = {name: " | ".join(sorted(own[row] for row in rows)) for name, rows in self._rows.items()}
        others = [(name, species) for name, species in {**self._doubted, **meant}.items() if name != species]
        other_names = pl.DataFrame(others, {"other_name": pl.String, "species": pl.String}, orient="row")
        return pl.concat([known, other_names], how="diagonal").sort("species", "genus", "other_name")

    def _decide(self, parsed: ParsedName, given: Mapping[str, str]) -> Decision:
        listed = normal_name(parsed.given) if parsed.reason else ""
        if listed in self._rows and _BINOMIAL.fullmatch(listed):  # Oedipina complex, a salamander, is no aggregate
            parsed = ParsedName(given=parsed.given, species=listed)
        elif parsed.reason:
            return Decision(given=parsed.given, reason=parsed.reason)
        whole = f"{parsed.species} {parsed.below}"
        name = whole if parsed.below and (whole in self._rows or whole in self._doubted) else parsed.species
        genus, epithet = parsed.species.split(" ")
        sister = f"{genus} {parsed.below}"
        if name not in self._rows and name in self._doubted:
            return _refuse(parsed, self._doubted[name])
        if name == parsed.species and parsed.below not in ("", epithet) and self._accepted(sister) == sister:
            return _refuse(parsed, f"its subspecies is a species of its own here; is {sister} meant?")
        if name in self._rows:
            return self._choose(parsed, name, given)
        if parsed.recased:
            return _refuse(parsed, f"no name list has {name}; the second word may be its author")
        if (moved := self._moved(name, given)) is not None:
            return self._found(parsed, "moved genus", self._lineage_of(moved), given)
        if name in self._older:
            return self._by_older_name(parsed, given)
        if genus not in self._genus_names:
            return _refuse(parsed, f"no name list knows the genus {genus}{self._meant(name, genus)}")
        entry = self._genera.get(genus)
        own = entry is not None and name in entry.listed
        if (
            entry is None
            or entry.lineage["class"] in self._complete
            or (not own and self._near(name, genus)[1] >= ALMOST_ALIKE)
        ):
            return _refuse(parsed, f"no such species in {genus}{self._meant(name, genus)}")
        lineage = {**entry.lineage, "species": name, "common_name": self._english.get(name, ""), "list": entry.source}
        return self._found(parsed, "accepted" if own else "genus known", lineage, given)

    def _choose(self, parsed: ParsedName, name: str, given: Mapping[str, str]) -> Decision:
        """Tell the species of one name apart by what the source says of its lineage."""
        lineages = [self._lineage_of(row) for row in self._rows[name]]
        depths = [_agreement(given, lineage) for lineage in lineages]
        deepest = max((depth for depth in depths if depth is not None), default=None)
        best = [lineage for lineage, depth in zip(lineages, depths, strict=True) if depth == deepest]
        if len(best) > 1 and deepest is not None:
            several = "; ".join(sorted(_described(lineage) for lineage in best))
            return _refuse(parsed, f"one name of several animals: {several}; only their higher ranks tell them apart")
        lineage = best[0]
        if lineage["species"] != name:
            return self._found(parsed, "subspecies" if parsed.below == name else "synonym", lineage, given)
        return self._found(parsed, "subspecies" if parsed.below else "accepted", lineage, given)

    def _by_older_name(self, parsed: ParsedName, given: Mapping[str, str]) -> Decision:
        accepted = self._older[parsed.species]
        species = next(iter(accepted))
        entry = self._genera.get(species.split(" ")[0])
        if len(accepted) > 1 or entry is None or entry.lineage["class"] in self._complete:
            return _refuse(parsed, f"an older name; is {' or '.join(sorted(accepted))} meant?")
        if species in self._rows:
            return self._found(parsed, "synonym", self._lineage_of(self._rows[species][0]), given)
        english = self._english.get(species, "")
        lineage = {**entry.lineage, "species": species, "common_name": english, "list": entry.source}
        return self._found(parsed, "synonym", lineage, given)

    def _found(self, parsed: ParsedName, how: How, lineage: Mapping[str, str], given: Mapping[str, str]) -> Decision:
        """Take a species, unless the source speaks of another animal."""
        differs = ", ".join(
            f"{rank} {given[rank]} is {lineage[rank]} here"
            for rank in RANKS[:5]
            if given.get(rank) and lineage[rank] and not _is_same(given[rank], lineage[rank])
        )
        if _agreement(given, lineage) is None:
            return _refuse(parsed, f"the source means another animal by it: {differs}")
        return Decision(
            given=parsed.given,
            parsed=parsed.species,
            below=parsed.below,
            how=how,
            lineage=lineage,
            source=lineage["list"],
            differs=differs,
        )

    def _moved(self, name: str, given: Mapping[str, str]) -> int | None:
        """Find the one species with this epithet and with the common name that the source gives."""
        rows = self._by_common_name.get(_spoken(given.get("common_name", "")), ())
        found = [row for row in rows if _stem(self._species.item(row, "species")) == _stem(name)]
        return found[0] if len(found) == 1 else None

    def _known_already(self, given: Backbone) -> tuple[dict[int, set[int]], dict[int, int]]:
        """Match species of a further list with those that are here, by any of their names and by their lineage.

        Returns:
            For species there: the rows here that share a name, and the one row here that is the same species.
        """
        if not self._rows:
            return {}, {}
        shared = given.names.filter(pl.col("name").is_in(pl.Series(list(self._rows), dtype=pl.String).implode()))
        lineages = given.species
        known: dict[int, set[int]] = {}
        place: dict[int, int] = {}
        for name, row in shared.iter_rows():
            theirs = lineages.row(row, named=True)
            same = [here for here in self._rows[name] if _agreement(theirs, self._lineage_of(here)) is not None]
            known.setdefault(row, set()).update(same)
            if name == theirs["species"] and len(same) == 1:
                place[row] = same[0]
        known = {row: rows for row, rows in known.items() if rows}
        return known, {row: next(iter(rows)) for row, rows in known.items() if len(rows) == 1} | place

    def _accepted(self, name: str) -> str | None:
        """Return the one species that a listed name means."""
        rows = self._rows.get(name, ())
        return self._species.item(rows[0], "species") if len(rows) == 1 else None

    def _lineage_of(self, row: int) -> dict[str, str]:
        lineage = self._at_hand.get(row) or self._species.row(row, named=True)
        if not lineage["common_name"]:
            lineage["common_name"] = self._english.get(lineage["species"], "")
        return lineage

    def _all(self, rows: Iterable[int]) -> str:
        return ", ".join(sorted(self._species.item(row, "species") for row in rows))

    def _record(self, path: Path, n_species: int, n_names: int, n_unused: int) -> None:
        row = pl.DataFrame([(path.name, n_species, n_names, n_unused)], self.lists.schema, orient="row")
        self.lists = pl.concat([self.lists, row])
        for name in ("_sorted_names", "_genus_names", "_by_common_name", "_by_stem"):  # made again when asked for
            self.__dict__.pop(name, None)

    @cached_property
    def _sorted_names(self) -> list[str]:
        return sorted(self._rows)

    @cached_property
    def _genus_names(self) -> set[str]:
        return {name.split(" ", 1)[0] for name in self._rows} | self._genera.keys()

    @cached_property
    def _by_common_name(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, (species, name) in enumerate(self._species.select("species", "common_name").iter_rows()):
            if spoken := _spoken(name or self._english.get(species, "")):
                rows.setdefault(spoken, []).append(row)
        return rows

    @cached_property
    def _by_stem(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = {}
        for species in self._species["species"]:
            names.setdefault(_stem(species), set()).add(species)
        return names

    def _of_genus(self, genus: str) -> set[str]:
        """Return all listed names in a genus."""
        start = bisect.bisect_left(self._sorted_names, f"{genus} ")
        stop = bisect.bisect_left(self._sorted_names, f"{genus}!")  # the character after the space
        names = {name for name in self._sorted_names[start:stop] if name.count(" ") == 1}
        entry = self._genera.get(genus)
        return names if entry is None or entry.lineage["class"] in self._complete else names | entry.listed

    def _meant(self, name: str, genus: str) -> str:
        """Ask whether a listed name is meant: in this genus, in one spelled alike, or with this epithet elsewhere."""
        near, ratio = self._near(name, genus)
        if ratio < ALMOST_ALIKE:
            epithet = name.split(" ")[1]
            elsewhere = self._by_stem.get(_stem(name), set())
            genera = sorted(_edits(genus) & self._genus_names)
            corrected = [f"{edit} {epithet}" for edit in genera if f"{edit} {epithet}" in self._rows]
            if len(elsewhere) == 1:
                near = next(iter(elsewhere))
            elif corrected or genus not in self._genus_names:
                near = next(iter(corrected or genera), near)
        return f"; is {near} meant?" if near else ""

    def _near(self, name: str, genus: str) -> tuple[str, float]:
        """Find the name in a genus that is spelled most like another, and how alike they are (difflib's ratio)."""
        near = difflib.get_close_matches(name, sorted(self._of_genus(genus)), n=1, cutoff=ALIKE)
        return (near[0], difflib.SequenceMatcher(None, near[0], name).ratio()) if near else ("", 0.0)


def _refuse(parsed: ParsedName, reason: str) -> Decision:
    return Decision(
        given=parsed.given, parsed=parsed.species, below=parsed.below, reason=f"{shown(parsed.given)}: {reason}"
    )


def _hints(lineage: Mapping[str, str | None]) -> dict[str, str]:
    """Keep what a source says of ranks, with a capital, and of the common name."""
    said = {level: normal_name(name) for level, name in lineage.items() if name}
    return {level: name if level == "common_name" else name.capitalize() for level, name in said.items() if name}


def _is_same(a: str, b: str) -> bool:
    return SAME_NAME.get(a, a) == SAME_NAME.get(b, b)


def _agreement(given: Mapping[str, str], known: Mapping[str, str]) -> int | None:
    """Count to the deepest rank, from kingdom (1) to family (5), at which two lineages agree; 0 if none is known.

    Returns:
        None where they cannot be of one animal: kingdom or phylum differ, or all of class, order and family that are
        known on both sides.
    """
    same = {rank: _is_same(given[rank], known[rank]) for rank in RANKS[:5] if given.get(rank) and known.get(rank)}
    lower = [same[rank] for rank in ("class", "order", "family") if rank in same]
    if not all(same.get(rank, True) for rank in ("kingdom", "phylum")) or (lower and not any(lower)):
        return None
    return max((RANKS.index(rank) + 1 for rank, agrees in same.items() if agrees), default=0)


def _described(lineage: Mapping[str, str]) -> str:
    ranks = ", ".join(filter(None, (lineage["class"], lineage["order"], lineage["family"])))
    return f"{lineage['species']} ({ranks})"


def _stem(name: str) -> str:
    """Reduce a binomial to the stem of its epithet, which a change of genus and gender leaves alone."""
    epithet = name.split(" ")[1]
    stem = _LATIN_END.sub("", epithet)
    return stem if len(stem) > 2 else epithet


def _spoken(name: str) -> str:
    return " ".join(re.findall(r"\w+", name.replace("'", "").replace("\u2019", "").casefold()))


@functools.lru_cache(maxsize=4096)
def _edits(word: str) -> set[str]:
    """Write a word with one letter after the first left out, put in, replaced or swapped with the next."""
    cuts = [(word[:i], word[i:]) for i in range(1, len(word) + 1)]
    edits = {a + b[1:] for a, b in cuts if b} | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    for letter in _LETTERS:
        edits.update([a + letter + b for a, b in cuts])
        edits.update([a + letter + b[1:] for a, b in cuts if b])
    return edits - {word}


def _normal(column: pl.Series) -> pl.Series:
    """Bring the names of a list to their normal form."""
    return column.cast(pl.String).fill_null("").map_elements(normal_name, return_dtype=pl.String)


def _lineage(class_: str, order: str, family: str, genus: str) -> dict[str, str]:
    names = (KINGDOM, PHYLUM_OF_CLASS.get(class_, ""), class_, order, family, genus)
    return dict(zip(RANKS, names, strict=False))


def _as_bool(label: str) -> pl.Expr:
    """Read a trait as true, false or null, whether the table is typed or text."""
    text = pl.col(label).cast(pl.String).str.to_lowercase()
    return (
        pl.when(text.is_in(["true", "1", "1.0"])).then(True).when(text.is_in(["false", "0", "0.0"])).then(False)
    ).alias(label)
