"""Published trait tables to the 34 labels: each value with its source, each disagreement recorded, unknown left null.

    read -> rules (trait_rules.toml) -> names to accepted species -> rows of one species -> sources by rank

1. A table is known by its columns. Its cells are cleaned by kind: a number outside its kind is unreadable, and counted.
2. The rules say true, false or nothing for each label of a row. They are SQL conditions, evaluated by polars.
3. A name means the species of that name (`same`), or the one that the checklist resolves it to (`synonym`). An accepted
   species without a row then takes the one free row of its family with the same epithet (`moved genus`; the gender of
   the ending may differ). Where the table does not have that family at all, its order serves.
4. Of several rows of one species the one under the accepted name speaks; what it leaves open, the others say if they
   agree.
5. Where two sources differ, the one that stands first in trait_rules.toml is right and the difference is kept.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import polars as pl

from biovita.errors import DatasetError
from biovita.log import warn
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.traits import TRAITS

KINDS: Final[dict[str, tuple[float, float]]] = {
    "percent": (0, 100),
    "flag": (0, 1),
    "code": (0, 9),
    "degrees": (-90, 90),
    "count": (0, 1e9),
}  # of a column with numbers, and what they may be
TRAIT_SCHEMA: Final[dict[str, pl.DataType]] = {
    "species": pl.String(),
    **dict.fromkeys(TRAITS, pl.Boolean()),
    "traits_source": pl.String(),
    "traits_conflict": pl.String(),
}
MATCH_SCHEMA: Final[dict[str, pl.DataType]] = {
    "source": pl.String(),
    "source_name": pl.String(),
    "species": pl.String(),
    "name_match": pl.String(),
}
LINEAGE: Final = ("species", "class", "order", "family")
SUFFIXES: Final = (".csv", ".txt", ".tsv")
OTHER_SUFFIXES: Final = (".xlsx", ".xls", ".ods", ".parquet", ".gz", ".zip")  # tables that somebody may have meant

_FOUND: Final[dict[str, pl.DataType]] = dict.fromkeys(("source_name", "species", "name_match"), pl.String())
_BINOMIAL = r"^([A-Z][a-z-]+) ([A-Za-z][a-z-]+)(?: [a-z-]+)?$"
_OPEN = ("sp", "spp", "cf", "aff", "nr")  # in the place of an epithet: not a species
_NULLS: Final = ["", "NA"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a source says about one label; an empty condition never holds."""

    label: str
    true: str
    false: str
    null: str
    note: str

    def expression(self) -> pl.Expr:
        """Return the label as true, false or null."""
        true, false = (pl.sql_expr(condition or "FALSE") for condition in (self.true, self.false))
        return pl.when(true).then(True).when(false).then(False).alias(self.label)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One published table: how it is laid out, what its columns mean, who made it.

    Attributes:
        class_: the class of all its animals; empty where they are of several.
        columns: kind of each column that the rules read; `text` or one of `KINDS`.
    """

    name: str
    title: str
    class_: str
    species: tuple[str, ...]
    family: str
    order: str
    columns: dict[str, str]
    derived: dict[str, str]
    rules: tuple[Rule, ...]
    citation: str
    licence: str
    about: str

    @property
    def needs(self) -> set[str]:
        """Name the columns by which the table is known, as this module spells them."""
        return {*self.species, *self.columns, self.family, self.order} - {""}


@dataclass(frozen=True)
class TraitTable:
    """The traits of all species that the tables know.

    Attributes:
        table: TRAIT_SCHEMA, sorted by species. `traits_source` and `traits_conflict` are JSON objects by label.
        matches: MATCH_SCHEMA: which name of which source became which species, and how.
        coverage: class, label, n_species of the class, and for how many the label is known, true, disputed.
        counts: one row a source: rows read and what became of them.
    """

    table: pl.DataFrame
    matches: pl.DataFrame
    coverage: pl.DataFrame
    counts: pl.DataFrame


@cache
def trait_sources() -> dict[str, Source]:
    """Return the known sources by name, the most trusted first."""
    text = resources.files("biovita.taxonomy").joinpath("trait_rules.toml").read_text(encoding="utf-8")
    return {name: _source(name, entry) for name, entry in tomllib.loads(text).items()}


def read_traits(
    paths: Path | Iterable[Path], checklist: Checklist | None = None, species: pl.DataFrame | None = None
) -> TraitTable:
    """Read published trait tables and combine them to one row a species.

    Args:
        paths: a folder, of which the known tables are read, or tables, which must all be known.
        checklist: the accepted names; without one, every name stands for itself.
        species: accepted species (columns `species`, `class`, `order`, `family`) beyond those that the checklist lists,
            such as the species of a dataset; for these, too, a moved genus is looked for.

    Raises:
        DatasetError: a table is missing, unreadable or not known, or one source is given twice.
    """
    wanted = _wanted(checklist, species)
    said, matches, counts = [], [], []
    for source, path in _known_tables(paths):
        table, count = _read(source, path)
        found = _match(source, table, checklist, wanted) if source.rules else pl.DataFrame(schema=_FOUND)
        values = apply_rules(source, table.join(found, on="source_name"))
        said.append(_one_row_a_species(values).with_columns(pl.lit(source.name).alias("source")))
        matches.append(found.with_columns(pl.lit(source.name).alias("source")).select(*MATCH_SCHEMA))
        counts.append({**count, **_count_matches(source, table, found)})
    return _combine(pl.concat(said), pl.concat(matches), pl.DataFrame(counts))


def apply_rules(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Ask the rules of a source about rows with its columns: `species`, `source_name`, `label`, `value` where known."""
    rows = rows.with_columns(pl.sql_expr(sql).alias(name) for name, sql in source.derived.items())
    values = rows.select("species", "source_name", *(rule.expression() for rule in source.rules))
    long = values.unpivot(index=["species", "source_name"], variable_name="label", value_name="value")
    return long.with_columns(pl.col("value").cast(pl.Boolean)).drop_nulls("value")


def as_rule_column(name: str) -> str:
    """Spell a column of a published table as the rules do."""
    return re.sub(r"\W", "_", name)


def epithet_stem(column: str) -> pl.Expr:
    """Reduce the epithets of binomials to what the gender of the genus leaves alone (niger, nigra, nigrum -> nigr)."""
    epithet = pl.col(column).str.extract(r" (\S+)$")
    return epithet.str.replace(r"er$", "r").str.replace(r"ii$", "i").str.replace(r"(us|um|os|on|is|a|e)$", "")


def _source(name: str, entry: Mapping[str, Any]) -> Source:
    rules = tuple(
        Rule(label=label, **{key: rule.get(key, "") for key in ("true", "false", "null", "note")})
        for label, rule in entry.get("rules", {}).items()
    )
    columns = {column: kind for kind in ("text", *KINDS) for column in entry.get(kind, ())}
    return Source(
        name=name,
        class_=entry.get("class", ""),
        species=tuple(entry["species"]),
        order=entry.get("order", ""),
        columns=columns,
        derived=entry.get("derived", {}),
        rules=rules,
        **{key: entry[key] for key in ("title", "family", "citation", "licence", "about")},
    )


def _known_tables(paths: Path | Iterable[Path]) -> list[tuple[Source, Path]]:
    """Find out what each table is; sorted by rank."""
    folder = None
    if isinstance(paths, Path):
        folder, paths = (paths, sorted(paths.iterdir())) if paths.is_dir() else (None, [paths])
    files = [path for path in map(Path, paths) if folder is None or _is_table(path)]
    found: dict[str, Path] = {}
    for path in files:
        name, why = _recognise(path)
        if name is None:
            if folder:
                warn(f"{path}: {why}; left alone")
                continue
            known = "; ".join(source.title for source in trait_sources().values())
            raise DatasetError(f"{path}: {why}; known are {known}")
        if name in found:
            raise DatasetError(f"{path}: the same source as {found[name]} ({name}); give one of them")
        found[name] = path
    if not found:
        raise DatasetError(f"{folder or 'traits'}: holds no trait table that is known; docs/traits.md lists them")
    return [(source, found[name]) for name, source in trait_sources().items() if name in found]


def _is_table(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES)


def _recognise(path: Path) -> tuple[str | None, str]:
    """Name the source of a table by its columns; or None, and what is wrong with it, in words."""
    unknown = "no trait table that is known here"
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        return None, f"{unknown}; save it as one of {', '.join(SUFFIXES)}"
    try:
        columns = {as_rule_column(name) for name in _read_text(path, n_rows=0).columns}
    except DatasetError as error:
        if path.is_file():
            return None, str(error).removeprefix(f"{path}: ")
        raise
    for name, source in trait_sources().items():
        if source.needs <= columns:
            return name, ""
    likest = max(trait_sources().values(), key=lambda source: len(source.needs & columns) / len(source.needs))
    if 2 * len(likest.needs & columns) > len(likest.needs):
        lacks = ", ".join(sorted(likest.needs - columns))
        return None, f"{unknown}: like {likest.title}, but without {lacks}"
    return None, unknown


def _read_text(path: Path, n_rows: int | None = None) -> pl.DataFrame:
    """Read a table as text; bytes that are no UTF-8 (some are Latin-1) become replacement characters."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such table")
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        return pl.read_csv(
            path, separator=separator, infer_schema=False, encoding="utf8-lossy", n_rows=n_rows, glob=False
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{path}: not a readable table ({str(error).splitlines()[0]})") from error


def _read(source: Source, path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Read the named rows of a table: `source_name`, `source_family`, `source_order` and the columns of the rules."""
    table = _read_text(path)
    table = table.rename({name: as_rule_column(name) for name in table.columns}).select(sorted(source.needs))
    table = table.with_columns(pl.all().str.strip_chars().replace(_NULLS, None))
    name = pl.concat_str(source.species, separator=" ").str.replace_all(r"\s+", " ")
    epithet = name.str.extract(_BINOMIAL, 2).str.to_lowercase()  # AmphiBIO has `Rhinella Truebae`
    binomial = pl.when(~epithet.is_in(_OPEN)).then(name.str.extract(_BINOMIAL, 1) + " " + epithet)
    nothing = pl.lit(None, pl.String)
    rows = table.with_columns(
        binomial.alias("source_name"),
        (pl.col(source.family) if source.family else nothing).alias("source_family"),
        (pl.col(source.order) if source.order else nothing).alias("source_order"),
    ).drop_nulls("source_name")
    numbers = {column: KINDS[kind] for column, kind in source.columns.items() if kind in KINDS}
    texts = [column for column in source.columns if column not in numbers]
    names = ("source_name", "source_family", "source_order")
    clean = rows.select(*names, *texts, *(_number(column, *limits) for column, limits in numbers.items()))
    n_unreadable = sum(clean[column].null_count() - rows[column].null_count() for column in numbers)
    n_blank = int(table.select(pl.all_horizontal(pl.col(*source.species).is_null()).sum()).item())
    return clean, {
        "source": source.name,
        "n_rows": len(table),
        "n_blank": n_blank,
        "n_bad_name": len(table) - len(rows) - n_blank,
        "n_unreadable": n_unreadable,
    }


def _number(column: str, low: float, high: float) -> pl.Expr:
    """Read a number; what is none, or out of its kind, becomes null."""
    value = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(value.is_between(low, high)).then(value).alias(column)


def _wanted(checklist: Checklist | None, species: pl.DataFrame | None) -> pl.DataFrame | None:
    """List the accepted species with their lineage."""
    if checklist is None:
        return None
    known = checklist.table().filter((pl.col("species") != "") & pl.col("class").is_not_null()).select(*LINEAGE)
    if species is not None:
        known = pl.concat([species.select(pl.col(name).cast(pl.String) for name in LINEAGE), known])
    return known.unique("species", keep="first", maintain_order=True)


def _match(
    source: Source, table: pl.DataFrame, checklist: Checklist | None, wanted: pl.DataFrame | None
) -> pl.DataFrame:
    """Find the accepted species of each name: columns source_name, species, name_match."""
    rows = table.select("source_name", "source_family", "source_order").unique("source_name", maintain_order=True)
    if checklist is None or wanted is None:
        itself = pl.col("source_name").alias("species")
        return rows.select("source_name", itself, pl.lit("same").alias("name_match"))
    of_class = wanted.filter(pl.col("class").is_in([source.class_, ""])) if source.class_ else wanted
    accepted = of_class["species"].implode()
    is_accepted = pl.col("source_name").is_in(accepted)
    resolved = _resolve(rows.filter(~is_accepted), checklist, source.class_)
    known = rows.join(resolved, on="source_name", how="left", maintain_order="left").with_columns(
        pl.when(is_accepted).then("source_name").otherwise("resolved").alias("species")
    )
    how = pl.when(pl.col("species") == pl.col("source_name")).then(pl.lit("same")).otherwise(pl.lit("synonym"))
    named = known.drop_nulls("species").select("source_name", "species", how.alias("name_match"))
    # a row is free to be moved if no accepted species is meant by its name
    free = known.filter(pl.col("species").is_null() | ~pl.col("species").is_in(accepted))
    without = of_class.filter(~pl.col("species").is_in(named["species"].implode()))
    homes = wanted.select(_genus_of("species").alias("genus"), "family").unique()
    moved = _moved(without, free, known["source_family"], homes)
    return pl.concat([named.join(moved, on="source_name", how="anti"), moved])


def _resolve(rows: pl.DataFrame, checklist: Checklist, class_: str) -> pl.DataFrame:
    """Resolve names through the checklist; what it refuses, or has in another class, is left out."""
    log = checklist.decide_all(
        rows.select(
            pl.col("source_name").alias("scientific_name"),
            pl.lit(class_ or None, pl.String).alias("given_class"),
            pl.col("source_order").alias("given_order"),
            pl.col("source_family").alias("given_family"),
        )
    )
    taken = log.filter(pl.col("species").is_not_null() & (pl.col("class").is_in(["", class_]) | pl.lit(not class_)))
    return taken.select(pl.col("scientific_name").alias("source_name"), pl.col("species").alias("resolved"))


def _genus_of(column: str) -> pl.Expr:
    return pl.col(column).str.extract(r"^(\S+)")


def _moved(without: pl.DataFrame, free: pl.DataFrame, families: pl.Series, homes: pl.DataFrame) -> pl.DataFrame:
    """Pair species without a row and free rows by epithet, where each side has exactly one.

    They must be of one family, or of one order if the table lacks the family; and a genus that the checklist has in
    other families only has not moved here.
    """
    species = without.with_columns(epithet_stem("species").alias("stem"))
    rows = free.with_columns(epithet_stem("source_name").alias("stem"), _genus_of("source_name").alias("genus"))
    has_family = pl.col("family").is_in(families.drop_nulls().unique().implode())
    pairs = []
    for rank, here in (("family", has_family), ("order", ~has_family)):
        one_species = species.filter(pl.struct("stem", rank).is_unique() & (pl.col(rank) != "") & here)
        one_row = rows.select("source_name", "genus", "stem", pl.col(f"source_{rank}").alias(rank)).filter(
            pl.struct("stem", rank).is_unique()
        )
        pairs.append(one_species.join(one_row, on=["stem", rank]).select("source_name", "genus", "species", "family"))
    paired = pl.concat(pairs)
    at_home = paired.join(homes, on=["genus", "family"], how="semi")
    unknown = paired.join(homes, on="genus", how="anti")
    return (
        pl.concat([at_home, unknown])
        .filter(pl.col("source_name").is_unique())
        .select("source_name", "species", pl.lit("moved genus").alias("name_match"))
    )


def _one_row_a_species(values: pl.DataFrame) -> pl.DataFrame:
    """Combine the rows that a source has of one species: the accepted name speaks first, then the others if they agree.

    Returns:
        species, label, value (null where rows differ), said (in words), name (empty, or under which the source has it).
    """
    known = values.with_columns((pl.col("source_name") == pl.col("species")).alias("own"))
    # own rows are the only ones that count where they say something
    known = known.filter(pl.col("own") == pl.col("own").max().over("species", "label"))
    agreed = pl.col("value").min() == pl.col("value").max()
    return (
        known.group_by("species", "label")
        .agg(
            pl.when(agreed).then(pl.col("value").min()).alias("value"),
            pl.when(~agreed)
            .then(pl.lit("true and false"))
            .when(pl.col("value").min())
            .then(pl.lit("true"))
            .otherwise(pl.lit("false"))
            .alias("said"),
            pl.col("source_name").filter(~pl.col("own")).unique().sort().str.join(" and ").alias("name"),
        )
        .sort("species", "label")
    )


def _combine(said: pl.DataFrame, matches: pl.DataFrame, counts: pl.DataFrame) -> TraitTable:
    """Let the sources speak by rank."""
    rank = {name: i for i, name in enumerate(trait_sources())}
    said = said.with_columns(pl.col("source").replace_strict(rank, return_dtype=pl.Int32).alias("rank"))
    said = said.sort("species", "label", "rank")
    best = (
        said.drop_nulls("value")
        .unique(["species", "label"], keep="first", maintain_order=True)
        .select("species", "label", pl.col("value").alias("best"))
    )
    judged = said.join(best, on=["species", "label"], how="left", maintain_order="left")
    under = pl.when(pl.col("name") != "").then(pl.format("{} (as {})", "source", "name")).otherwise("source")
    agreeing = judged.filter(pl.col("value") == pl.col("best")).with_columns(under.alias("text"))
    differing = judged.filter((pl.col("value") != pl.col("best")) | pl.col("value").is_null()).select(
        "species", "label"
    )
    disputed = judged.join(differing.unique(), on=["species", "label"], how="semi").with_columns(
        pl.format("{}: {}", "source", "said").alias("text")
    )
    species = matches.select("species").unique().sort("species")
    wide = best.pivot(on="label", index="species", values="best")
    all_labels = pl.DataFrame(schema={"species": pl.String(), **dict.fromkeys(TRAITS, pl.Boolean())})
    table = (
        species.join(pl.concat([all_labels, wide], how="diagonal"), on="species", how="left")
        .join(_as_json(agreeing, "traits_source"), on="species", how="left")
        .join(_as_json(disputed, "traits_conflict"), on="species", how="left")
        .sort("species")
        .select(pl.col(name).cast(dtype) for name, dtype in TRAIT_SCHEMA.items())
    )
    return TraitTable(table, matches.sort("source", "source_name"), _coverage(table, matches, differing), counts)


def _as_json(texts: pl.DataFrame, name: str) -> pl.DataFrame:
    """Write `text` as one JSON object a species, keys sorted; several texts of a label are joined by commas."""
    return (
        texts.group_by("species", "label", maintain_order=True)
        .agg(pl.col("text").str.join(", "))
        .sort("species", "label")
        .group_by("species", maintain_order=True)
        .agg(pl.format('"{}": "{}"', "label", "text").str.join(", ").alias(name))
        .with_columns(("{" + pl.col(name) + "}").alias(name))
    )


def _coverage(table: pl.DataFrame, matches: pl.DataFrame, differing: pl.DataFrame) -> pl.DataFrame:
    """Count, for each class and label, the species of which it is known."""
    classes = {name: source.class_ for name, source in trait_sources().items()}
    class_of = (
        matches.select("species", pl.col("source").replace_strict(classes).alias("class"))
        .filter(pl.col("class") != "")
        .unique("species", keep="first", maintain_order=True)
    )
    long = table.join(class_of, on="species").unpivot(
        on=TRAITS, index=["species", "class"], variable_name="label", value_name="value"
    )
    disputed = differing.unique().with_columns(pl.lit(True).alias("disputed"))
    order = {label: i for i, label in enumerate(TRAITS)}
    return (
        long.join(disputed, on=["species", "label"], how="left")
        .group_by("class", "label")
        .agg(
            pl.len().alias("n_species"),
            pl.col("value").count().alias("n_known"),
            pl.col("value").sum().alias("n_true"),
            pl.col("disputed").count().alias("n_disputed"),
        )
        .sort("class", pl.col("label").replace_strict(order))
    )


def _count_matches(source: Source, table: pl.DataFrame, found: pl.DataFrame) -> dict[str, int]:
    """Count the names of a source by how they were matched; the unresolved belong to no accepted species."""
    how = dict(found["name_match"].value_counts().iter_rows())
    return {
        "n_same": how.get("same", 0),
        "n_synonym": how.get("synonym", 0),
        "n_moved": how.get("moved genus", 0),
        "n_unresolved": table["source_name"].n_unique() - len(found) if source.rules else 0,
    }
