"""Accepted names with their lineage: a name as a source writes it becomes one species, or is refused with the reason.

Read from any of: a taxa table (seven ranks, perhaps common names and traits), the eBird/Clements taxonomy CSV, a
backbone (`taxonomy.backbone`), BirdNET-Go's genus JSON, tables of common names. Where several lists know a name, the
first given wins, and a later list's species with another name for the same animal is that animal. No name is ever
corrected: a wrong label poisons what learns from it, a refused file is only lost (docs/decisions/0009-names.md).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import polars as pl

from biovita.errors import TaxonomyError
from biovita.files import read_json
from biovita.tables import read_table, require_columns
from biovita.taxonomy import backbone, vernacular
from biovita.taxonomy.backbone import KINGDOM, Backbone
from biovita.taxonomy.decide import (
    BINOMIAL,
    COMPARED,
    Decision,
    Genus,
    Known,
    Lineage,
    agreement,
    decide,
    names_to_look_up,
)
from biovita.taxonomy.parse import NO_AUTHOR, PLAIN, ParsedName, parse_names, shown
from biovita.taxonomy.rank import LEVELS, RANKS
from biovita.taxonomy.spelling import stem, stems, words_alike
from biovita.taxonomy.taxon import Taxon, normal_name
from biovita.taxonomy.traits import TRAITS

PHYLUM_OF_CLASS = {
    **dict.fromkeys(("Aves", "Mammalia", "Amphibia", "Reptilia", "Actinopterygii"), "Chordata"),
    **dict.fromkeys(("Insecta", "Arachnida", "Malacostraca"), "Arthropoda"),
    **dict.fromkeys(("Gastropoda", "Bivalvia", "Cephalopoda"), "Mollusca"),
}
KINDS: Final = (
    "a table with the seven ranks, the eBird taxonomy CSV, BirdNET-Go's genus JSON, GBIF's Taxon.tsv or simple file, "
    "a Catalogue of Life NameUsage.tsv, a Darwin Core taxon table, a Darwin Core table of common names, or BirdNET "
    "labels"
)
HINTS: Final = {f"given_{level}": level for level in LEVELS if level != "species"}  # what a source may say besides
LOG_COLUMNS: Final = ("parsed_name", "below_species", "how", *LEVELS, "list", "differs", "reason")
TRUTHS: Final = {"true": ("true", "1", "1.0", "yes", "y", "t"), "false": ("false", "0", "0.0", "no", "n", "f")}
UNSAID: Final = ("", "na", "nan", "none", "null")
_WORDS: Final = r"^\p{Lu}[^ ]*( [^ \p{Lu}(][^ ]*)+$"  # a capital word, and others that are no authors
HASHED_ROWS: Final = 100_000  # rows at a time, to bound memory


class Checklist:
    """Species and genera that are known, with their lineage, and the names that mean them.

    Attributes:
        traits: null, or a table of `species`, the trait columns that were given, `traits_source` and, where a list has
            it, `traits_conflict`.
        common_names: null, or a table of `species`, `language` and `name`: the preferred name in each language.
        lists: what was read: one row a file with `list`, `species`, `names` and `unused`.
    """

    def __init__(self) -> None:
        self._species = pl.DataFrame(schema=dict.fromkeys((*LEVELS, "list"), pl.String))
        # a name, and the row of the species that it means; several rows for homonyms
        self._names = pl.DataFrame(schema={"name": pl.String, "row": pl.UInt32})
        self._doubted = pl.DataFrame(schema={"name": pl.String, "why": pl.String})  # it means no species for certain
        self._genera: dict[str, Genus] = {}
        self._older: dict[str, set[str]] = {}  # a name in another genus, and what the genus JSON has it under
        self._complete: dict[str, str] = {}  # a class, and the list that holds all of it
        self._english = pl.DataFrame(schema={"species": pl.String, "english": pl.String})
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
            TaxonomyError: a file is none of the known kinds, or cut off.
            DatasetError: a table is missing or lacks a column.
        """
        checklist = cls()
        common = []
        for path in map(Path, paths):
            with _to_its_end(path):
                if not checklist._read(path):
                    common.append(path)
        for path in sorted(common, key=lambda path: vernacular.language_of(path) != "en"):
            with _to_its_end(path):
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
        if vernacular.is_labels(path):
            return False
        columns = backbone.columns_of(path)
        if vernacular.is_vernacular(columns):
            return False
        if {"SCI_NAME", "FAMILY", "ORDER"} <= set(columns):
            self.add_ebird(read_table(path), path)
        elif "species" not in columns and backbone.is_taxon_table(columns):
            self.add_backbone(backbone.read_taxon_table(path), path)
        elif set(RANKS) & {name.strip().lower() for name in columns}:
            self.add_taxa(read_table(path), path)
        else:
            if path.suffix.lower() != ".gz":
                read_table(path)  # perhaps says what is wrong
            begins = f"; it begins with {shown(line.strip())}" if line else ""
            raise TaxonomyError(f"{path}: none of the kinds of name list that we know: {KINDS}{begins}")
        return True

    def add_taxa(self, table: pl.DataFrame, path: Path) -> None:
        """Add a table with the seven ranks, and take over `common_name` and trait columns where it has them."""
        plain = {name: name.strip().lower() for name in table.columns}
        table = table.rename({name: to for name, to in plain.items() if to not in table.columns})
        require_columns(table, RANKS, path)
        given = table.with_columns(_normal(table[name]) for name in LEVELS if name in table.columns)
        given = given.filter(pl.any_horizontal(pl.col(RANKS) != ""))  # no blank rows
        given = given.with_columns(_without_authors(given["species"]))
        for name in given["species"].filter(~given["species"].str.contains(" ", literal=True)):
            raise TaxonomyError(f"{path}: '{name}': a name list needs binomials in its column 'species'")
        self.add_backbone(backbone.of_species(given), path)
        labels = [name for name in TRAITS if name in table.columns]
        if labels:
            if "traits_source" not in table.columns:
                given = given.with_columns(pl.lit(path.name).alias("traits_source"))
            origin = [
                pl.col(name).cast(pl.String) for name in ("traits_source", "traits_conflict") if name in given.columns
            ]
            accepted = self._accepted(given["species"])
            for name in labels:
                _check_truths(given[name], path)
            traits = given.select(accepted, *map(_as_bool, labels), *origin).drop_nulls("species")
            known = traits if self.traits is None else pl.concat([self.traits, traits], how="diagonal")
            self.traits = known.unique("species", keep="first", maintain_order=True)

    def add_ebird(self, table: pl.DataFrame, path: Path) -> None:
        """Add the species of the eBird/Clements taxonomy; it lists every bird, so other names of birds are refused."""
        require_columns(table, ("SCI_NAME", "PRIMARY_COM_NAME", "FAMILY", "ORDER"), path)
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
            if not isinstance(entry, dict) or not {"class", "order", "family"} <= entry.keys():
                raise TaxonomyError(f"{path}: genus '{key}' lacks its class, order or family")
            lineage = _lineage(entry["class"], entry["order"], entry["family"], genus)
            names = [normal_name(name) for name in entry.get("species") or ()]
            own = {name for name in names if name.startswith(f"{genus} ")}
            self._genera.setdefault(genus, Genus(lineage=lineage, listed=set(), source=path.name)).listed.update(own)
            by_stem = {stem(name): name for name in sorted(own)}
            for name in names:
                if name not in own and BINOMIAL.fullmatch(name):  # stray English names are there, too
                    self._older.setdefault(name, set()).add(by_stem.get(stem(name), f"a species of {genus}"))
        self._record(path, len(genera), sum(len(genus.listed) for genus in self._genera.values()), 0)

    def add_backbone(self, given: Backbone, path: Path) -> None:
        """Add species and their other names, as far as earlier lists do not know the same animals already."""
        row, apart, class_, list_ = pl.col("row"), pl.col("apart"), pl.col("class"), pl.lit(path.name)
        is_new = row.is_null() & apart.is_null() & ~class_.is_in(list(self._complete))
        species = self._match(given).with_columns(is_new.alias("is_new"))
        new_row = (len(self._species) - 1 + pl.col("is_new").cum_sum()).cast(pl.UInt32)
        why = (
            pl.when(apart.is_not_null())
            .then(pl.format("{} has it for what earlier lists tell apart: {}", list_, apart))
            .otherwise(pl.format("unknown to {}, which lists all {}", class_.replace(self._complete), class_))
        )
        species = species.with_columns(pl.when("is_new").then(new_row).otherwise(row).alias("row"), why.alias("why"))
        names = given.names.select("name", pl.col("row").cast(pl.UInt32).alias("there")).join(
            species.select("there", "row", "species", "is_new", "apart", "why"), on="there", maintain_order="left"
        )
        # a name that an earlier list has means what it means there, and a new species of this name, too; any other
        # means what this list says, unless that is several species of earlier lists
        is_listed = pl.col("name").is_in(self._names["name"].implode())
        is_own = pl.col("is_new") & (pl.col("name") == pl.col("species"))
        is_clear = apart.is_null().cum_max().over("name")
        placed = names.filter(row.is_not_null()).with_columns(is_listed.alias("is_listed"), is_clear.alias("is_clear"))
        meant = placed.filter(pl.when("is_listed").then(is_own).otherwise("is_clear"))
        unclear = placed.filter(~pl.col("is_listed"), ~pl.col("is_clear"))
        doubted = pl.concat(
            table.select("name", "why")
            for table in (self._doubted, names.filter(row.is_null()), unclear, given.doubted)
        )
        self._names = pl.concat([self._names, meant.select("name", "row").unique(maintain_order=True)])
        self._species = pl.concat([self._species, species.filter("is_new").select(*LEVELS, list_.alias("list"))])
        self._doubted = doubted.unique("name", keep="first", maintain_order=True)
        self._ids.setdefault(path.parent, given.species.select("taxon_id", "species"))
        self._record(path, len(given.species), len(given.names), len(given.doubted) + given.counts.total())

    def _match(self, given: Backbone) -> pl.DataFrame:
        """Match species of a further list with those that are here, by any of their names and by their lineage.

        Returns:
            The species with `there`, their row there, `row`, that of the same species here, and `apart`, the species
            here that they lump, in words; both null where there is none.
        """
        theirs = given.species.with_row_index("there")
        shared = given.names.rename({"row": "there"}).cast({"there": pl.UInt32}).join(self._names, on="name")
        lineage = theirs.select("there", *(pl.col(level).alias(f"given_{level}") for level in (*COMPARED, "species")))
        same = _agree(self._lineages(shared.join(lineage, on="there"))).filter(pl.col("depth").is_not_null())
        of_each = same.select("there", "row", "species").unique()
        by_own_name = same.filter(pl.col("name") == pl.col("given_species")).select("there", "row", "species")
        places = [table.filter(pl.col("there").is_unique()) for table in (by_own_name, of_each)]
        place = pl.concat(places).unique("there", keep="first", maintain_order=True).select("there", "row")
        several = of_each.filter(pl.len().over("there") > 1).sort("species").group_by("there")
        apart = several.agg(pl.col("species").str.join(", ").alias("apart"))
        for more in (place, apart):
            theirs = theirs.join(more, on="there", how="left", maintain_order="left")
        return theirs

    def add_common_names(self, path: Path) -> None:
        """Add names in other languages; for each species and language the first one given is preferred.

        Label lists put the English name where they have none: it is left out where an English list has been read. An
        English label list also vouches for the names in it that changed their genus, see `decide`.

        Raises:
            TaxonomyError: it names taxa by numbers, and the table of these taxa is not among the lists.
        """
        given = vernacular.read_common_names(path)
        if "taxon_id" in given.columns:
            if path.parent not in self._ids:
                raise TaxonomyError(f"{path}: numbers its taxa; give the taxon table of the same folder, too")
            ids = self._ids[path.parent]
            ids = ids.select("taxon_id", self._accepted(ids["species"]))
            named = given.join(ids, on="taxon_id", how="left", maintain_order="left")
        else:
            hint = pl.when(pl.col("language") == "en").then("name").alias("given_common_name")
            names = given.select("scientific_name", hint)
            log = self.decide_all(names)
            moved = log.filter(pl.col("how") == "moved genus").unique("parsed_name", keep="first", maintain_order=True)
            vouched = moved.join(self._names, left_on="species", right_on="name", maintain_order="left")
            self._names = pl.concat([self._names, vouched.select(pl.col("parsed_name").alias("name"), "row")])
            found = log.select("scientific_name", "given_common_name", "species")
            named = given.with_columns(hint).join(
                found, on=["scientific_name", "given_common_name"], how="left", nulls_equal=True, maintain_order="left"
            )
        used = named.filter(pl.col("species").is_not_null()).select("species", "language", "name")
        if vernacular.is_labels(path):
            used = self._translated(used)
        known = used if self.common_names is None else pl.concat([self.common_names, used])
        self.common_names = known.unique(["species", "language"], keep="first", maintain_order=True)
        english = self.common_names.filter(pl.col("language") == "en")
        self._english = english.select("species", pl.col("name").alias("english"))
        self._record(path, used["species"].n_unique(), len(used), len(named) - len(used))

    def _translated(self, names: pl.DataFrame) -> pl.DataFrame:
        """Leave out names in another language that are the English name; BirdNET puts it where it has no other."""
        own = self._species.select("species", pl.col("common_name").alias("name"))
        english = pl.concat([own, self._english.rename({"english": "name"})])
        is_english = pl.col("language") == "en"
        others = names.filter(~is_english).join(english, on=["species", "name"], how="anti", maintain_order="left")
        return pl.concat([names.filter(is_english), others])

    def decide(self, name: str, lineage: Mapping[str, str | None] | None = None) -> Decision:
        """Find the species that a name means; subspecies, authors and odd spacing or case are folded away.

        Nothing is guessed from spelling alone. A name that no list has is taken only if the genus JSON knows its
        genus, or if its common name and its epithet are those of one listed species, so that the genus has changed.

        Args:
            name: as a source writes it.
            lineage: what the source says besides: names at ranks, and `common_name`. It tells homonyms apart. A kingdom
                or phylum that differs from the list's refuses the name, and so do class, order and family if all of
                them that are known on both sides differ; lists often disagree on one.
        """
        parsed = parse_names([name])
        return decide(parsed[0], _hints(lineage or {}), self._known(parsed))

    def resolve(self, name: str, lineage: Mapping[str, str | None] | None = None) -> Taxon:
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
        columns = ["scientific_name", *hints]
        distinct = names.select(pl.col(columns).cast(pl.String)).unique().sort(columns).with_row_index("at")
        said = distinct.select("at", "scientific_name", *(_normal_hint(distinct[column]) for column in hints))
        listed = self._decide_listed(said)
        said = said.join(listed, on="at", how="anti", maintain_order="left")
        parsed = parse_names(said["scientific_name"].fill_null(""))
        known = self._known(parsed)
        rows = []
        for name, (at, _, *hinted) in zip(parsed, said.iter_rows(), strict=True):
            made = decide(name, {HINTS[c]: text for c, text in zip(hints, hinted, strict=True) if text}, known)
            lineage = [made.lineage[level] for level in LEVELS] if made.lineage else [None] * len(LEVELS)
            rows.append((at, made.parsed, made.below, made.how, *lineage, made.source, made.differs, made.reason))
        others = pl.DataFrame(rows, {"at": pl.UInt32, **dict.fromkeys(LOG_COLUMNS, pl.String)}, orient="row")
        empty_to_null = (
            pl.when(pl.col(name) != "").then(name).alias(name)
            for name in ("parsed_name", "below_species", "list", "differs", "reason")
        )
        log = pl.concat([listed, others]).with_columns(empty_to_null)
        return distinct.join(log, on="at", how="left", maintain_order="left").drop("at")

    def _decide_listed(self, said: pl.DataFrame) -> pl.DataFrame:
        """Decide the names that are one species' name in a list, perhaps with authors, as `decide` would, in bulk.

        Returns:
            `at` and `LOG_COLUMNS`, without what needs a closer look.
        """
        text = pl.col("scientific_name")
        plain = said.with_columns(text.str.extract(PLAIN).alias("name")).filter(
            pl.col("name").is_not_null(), ~text.str.contains(NO_AUTHOR)
        )
        meant = _among(self._names, "name", plain["name"]).filter(pl.col("name").is_unique())
        found = plain.join(self._lineages(meant), on="name", maintain_order="left")
        how = pl.when(pl.col("name") == pl.col("species")).then(pl.lit("accepted")).otherwise(pl.lit("synonym"))
        return (
            _agree(found)
            .filter(pl.col("depth").is_not_null())
            .with_columns(
                how.alias("how"),
                pl.col("name").alias("parsed_name"),
                pl.lit("").alias("below_species"),
                pl.lit("").alias("reason"),
            )
            .select("at", *LOG_COLUMNS)
        )

    def table(self) -> pl.DataFrame:
        """Return the listed species with their lineage and traits, in the order of the lists."""
        species = self._species.select(LEVELS)
        return species if self.traits is None else species.join(self.traits, on="species", how="left")

    def fingerprint(self) -> str:
        """Hash all that decisions, traits and common names depend on."""
        genera = {genus: [dict(entry.lineage), sorted(entry.listed)] for genus, entry in self._genera.items()}
        older = {name: sorted(names) for name, names in self._older.items()}
        digest = hashlib.sha256(json.dumps([genera, older, self._complete], sort_keys=True).encode())
        for table in (self._species, self._names, self._doubted, self.traits, self.common_names):
            for rows in () if table is None else table.iter_slices(HASHED_ROWS):
                digest.update(rows.write_csv().encode())
            digest.update(b"\0")
        return digest.hexdigest()

    def _lineages(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Put the species (`LEVELS`, `list`) beside their row numbers, with an English name where a list has one."""
        species = self._species[rows["row"]].join(self._english, on="species", how="left", maintain_order="left")
        own = pl.when(pl.col("common_name") != "").then("common_name")
        species = species.with_columns(pl.coalesce(own, "english", pl.lit("")).alias("common_name"))
        return pl.concat([rows, species.drop("english")], how="horizontal")

    def _known(self, parsed: Sequence[ParsedName]) -> Known:
        """Gather what `decide` needs to know of these names."""
        wanted = {name for one in parsed for name in names_to_look_up(one, self._older)}
        meanings = _by("name", self._lineages(_among(self._names, "name", wanted)))
        known = Known(
            meanings=meanings,
            doubted=dict(_among(self._doubted, "name", wanted).iter_rows()),
            older=self._older,
            complete=self._complete,
            english=dict(_among(self._english, "species", wanted).iter_rows()),
            genera=self._genera,
        )
        unknown = [one.species.split(" ") for one in parsed if one.species and one.species not in meanings]
        if not unknown:
            return known
        genera = {genus for genus, _ in unknown}
        alike = words_alike(genera, self._genus_names)
        respelled = {f"{other} {epithet}" for genus, epithet in unknown for other in alike.get(genus, ())}
        in_genus: dict[str, set[str]] = {}
        for genus, name in _among(self._binomials, "genus", genera).iter_rows():
            in_genus.setdefault(genus, set()).add(name)
        of_stem = _among(self._stems, "stem", {stem(" ".join(words)) for words in unknown})
        return replace(
            known,
            genus_names=self._genus_names,
            in_genus=in_genus,
            genera_alike=alike,
            in_alike=set(_among(self._names, "name", respelled)["name"]),
            of_stem=_by("stem", self._lineages(of_stem)),
        )

    def _accepted(self, names: pl.Series) -> pl.Series:
        """Find the one species that each listed name means; null where none does, or several do."""
        meant = self._lineages(_among(self._names, "name", names).filter(pl.col("name").is_unique())).select(
            "name", "species"
        )
        return names.alias("name").to_frame().join(meant, on="name", how="left", maintain_order="left")["species"]

    def _record(self, path: Path, n_species: int, n_names: int, n_unused: int) -> None:
        row = pl.DataFrame([(path.name, n_species, n_names, n_unused)], self.lists.schema, orient="row")
        self.lists = pl.concat([self.lists, row])
        for name in ("_binomials", "_genus_names", "_stems"):  # made again when asked for
            self.__dict__.pop(name, None)

    @cached_property
    def _genus_names(self) -> set[str]:
        return set(self._names["name"].str.extract("^([^ ]+)").unique()) | self._genera.keys()

    @cached_property
    def _binomials(self) -> pl.DataFrame:
        """The names of two words, by their genus."""
        genus = pl.col("name").str.extract("^([^ ]+) [^ ]+$").alias("genus")
        return self._names.select(genus, "name").drop_nulls()

    @cached_property
    def _stems(self) -> pl.DataFrame:
        """The stem of every species, and its row."""
        return stems(self._species["species"]).alias("stem").to_frame().with_row_index("row")


@contextmanager
def _to_its_end(path: Path) -> Iterator[None]:
    """Refuse a table that cannot be unpacked or parsed to its end, as after a download that was cut."""
    try:
        yield
    except (pl.exceptions.ComputeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise TaxonomyError(f"{path}: cannot be read to its end ({error}); get it again") from error


def _agree(table: pl.DataFrame) -> pl.DataFrame:
    """Add `depth` and `differs`, the `agreement` of the lineages in columns `given_*` with those beside them."""
    given = [f"given_{rank}" for rank in COMPARED if f"given_{rank}" in table.columns]
    pairs = table.select(*given, *COMPARED).unique()
    agreed = [
        agreement({column.removeprefix("given_"): row[column] for column in given}, row)
        for row in pairs.iter_rows(named=True)
    ]
    columns = pl.DataFrame(agreed, {"depth": pl.Int64, "differs": pl.String}, orient="row")
    return table.join(
        pl.concat([pairs, columns], how="horizontal"), on=[*given, *COMPARED], how="left", maintain_order="left"
    )


def _by(column: str, species: pl.DataFrame) -> dict[str, list[Lineage]]:
    """Group species by a column."""
    found: dict[str, list[Lineage]] = {}
    for key, lineage in zip(species[column], species.select(*LEVELS, "list").iter_rows(named=True), strict=True):
        found.setdefault(key, []).append(lineage)
    return found


def _among(table: pl.DataFrame, column: str, wanted: Iterable[str]) -> pl.DataFrame:
    """Keep the rows of a table whose text in a column is wanted, in their order."""
    texts = pl.DataFrame({column: list(wanted)}, {column: pl.String})
    return table.join(texts, on=column, how="semi", maintain_order="left")


def _said(level: str, text: str | None) -> str:
    """Bring what a source says to its normal form: of ranks with a capital."""
    name = normal_name(text)
    return name if level == "common_name" else name.capitalize()


def _hints(lineage: Mapping[str, str | None]) -> dict[str, str]:
    said = {level: _said(level, text) for level, text in lineage.items()}
    return {level: text for level, text in said.items() if text}


def _normal_hint(column: pl.Series) -> pl.Series:
    """Bring a column of `HINTS` to its normal form; what is not said is empty."""
    values = column.drop_nulls().unique()
    said = pl.Series([_said(HINTS[column.name], text) for text in values], dtype=pl.String)
    return column.replace_strict(values, said, default="", return_dtype=pl.String)


def _normal(column: pl.Series) -> pl.Series:
    """Bring the names of a list to their normal form."""
    return column.cast(pl.String).fill_null("").map_elements(normal_name, return_dtype=pl.String)


def _lineage(class_: str, order: str, family: str, genus: str) -> dict[str, str]:
    names = (KINGDOM, PHYLUM_OF_CLASS.get(class_, ""), class_, order, family, genus)
    return dict(zip(RANKS, names, strict=False))


def _without_authors(species: pl.Series) -> pl.Series:
    """Reduce names with authors, in lower case or with an underscore to their plain words; leave what is no name."""
    odd = species.filter(~species.str.contains(_WORDS)).unique(maintain_order=True)
    plain = [" ".join(filter(None, (name.species, name.below))) or name.given for name in parse_names(odd)]
    return species.replace(odd, pl.Series(plain, dtype=pl.String))


def _check_truths(column: pl.Series, path: Path) -> None:
    known = (*TRUTHS["true"], *TRUTHS["false"], *UNSAID)
    words = column.cast(pl.String).drop_nulls().unique()
    for word in sorted(words.filter(~words.str.strip_chars().str.to_lowercase().is_in(known))):
        raise TaxonomyError(
            f"{path}: column '{column.name}': '{word}' is neither true nor false; leave it blank if unknown"
        )


def _as_bool(label: str) -> pl.Expr:
    """Read a trait as true, false or null, whether the table is typed or text."""
    text = pl.col(label).cast(pl.String).str.strip_chars().str.to_lowercase()
    return (pl.when(text.is_in(TRUTHS["true"])).then(True).when(text.is_in(TRUTHS["false"])).then(False)).alias(label)
