"""Tables of names: the accepted species of animals with their lineage, and the names that mean one of them.

Read lazily and in columns, since the GBIF backbone has seven million rows: its `Taxon.tsv` and its headerless simple
file, the Catalogue of Life's `NameUsage.tsv`, and any Darwin Core taxon table (iNaturalist). Each is brought to one
table of usages, whose rows point at the name that is accepted in their place.
"""

import gzip
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from biovita.errors import TaxonomyError
from biovita.taxonomy.parse import parse_names
from biovita.taxonomy.rank import LEVELS, RANKS

KINGDOM: Final = "Animalia"
HIGHER: Final = RANKS[:-1]
SUFFIXES: Final = (".tsv", ".txt", ".csv", ".parquet", ".gz")
BELOW_SPECIES: Final = ("subspecies", "variety", "form", "infraspecific name", "infrasubspecific name", "morph")
SIMPLE: Final = (  # columns of GBIF's backbone-simple file, in their order
    *("id", "parent_key", "basionym_key", "is_synonym", "status", "rank", "nom_status", "constituent_key", "origin"),
    *("source_taxon_key", "kingdom_key", "phylum_key", "class_key", "order_key", "family_key", "genus_key"),
    *("species_key", "name_id", "scientific_name", "canonical_name", "genus_or_above", "specific_epithet"),
    *("infra_specific_epithet", "notho_type", "authorship", "year", "bracket_authorship", "bracket_year"),
    *("name_published_in", "issues"),
)
_TERMS = {  # our word for a column, and the Darwin Core, ColDP or older Darwin Core terms for it, lower-case
    "id": ("id", "taxonid"),
    "parent": ("parentnameusageid", "parentid", "highertaxonid"),
    "accepted": ("acceptednameusageid", "acceptedtaxonid"),
    "status": ("taxonomicstatus", "status"),
    "rank": ("taxonrank", "rank"),
    "canonical": ("canonicalname",),
    "scientific": ("scientificname",),
}
_PLAIN = r"^[A-Z][a-z\u00df-\u00f6\u00f8-\u00ff-]+( [a-z\u00df-\u00f6\u00f8-\u00ff-]{2,}){1,2}$"
_SUBGENUS = r" \([A-Z][a-z-]+\) "
_MARKER = r" (subsp|ssp|var|f|morph)\. "


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One name list, in numbers of its own rows.

    Attributes:
        species: `LEVELS` and `taxon_id`; one row an accepted species, no null.
        names: `name`, `row` (of species); a name may stand at several rows, an accepted one only at its own.
        doubted: `name`, `why` it means no species for certain.
        counts: what was met besides.
    """

    species: pl.DataFrame
    names: pl.DataFrame
    doubted: pl.DataFrame
    counts: Counter[str] = field(default_factory=Counter)


def of_species(table: pl.DataFrame) -> Backbone:
    """Make a name list of accepted species (`LEVELS`, perhaps `taxon_id`) without any other names."""
    absent = [pl.lit("").alias(name) for name in (*LEVELS, "taxon_id") if name not in table.columns]
    species = (
        table.with_columns(absent)
        .select(pl.col(name).cast(pl.String).fill_null("") for name in (*LEVELS, "taxon_id"))
        .unique(["species", *HIGHER[:-1]], keep="first", maintain_order=True)
    )
    names = species.select(pl.col("species").alias("name")).with_row_index("row").select("name", "row")
    return Backbone(species=species, names=names, doubted=pl.DataFrame(schema={"name": pl.String, "why": pl.String}))


def is_simple(first_line: str) -> bool:
    """Whether a headerless line is one of GBIF's backbone-simple file."""
    fields = first_line.rstrip("\r\n").split("\t")
    return len(fields) == len(SIMPLE) and fields[0].isdigit() and fields[3] in ("t", "f")


def is_taxon_table(columns: list[str]) -> bool:
    """Whether columns are those of a Darwin Core or ColDP table of names."""
    return {"id", "rank"} <= (terms := _terms(columns)).keys() and bool({"canonical", "scientific"} & terms.keys())


def read_taxon_table(path: Path) -> Backbone:
    """Read a Darwin Core taxon table or ColDP NameUsage: animals, species and below, with their synonyms.

    Raises:
        TaxonomyError: there is no animal species in it.
    """
    table = scan(path)
    columns = table.collect_schema().names()
    terms = _terms(columns)
    flat = {name.split(":")[-1].lower(): name for name in columns}
    has_lineage = "kingdom" in flat and "family" in flat
    text = {ours: pl.col(theirs).cast(pl.String) for ours, theirs in terms.items()}
    nothing = pl.lit(None, pl.String)
    accepted = text.get("accepted", nothing)
    status = text.get("status", pl.lit("accepted")).str.to_lowercase().str.replace_all("_", " ").fill_null("accepted")
    if "accepted" not in terms:  # ColDP: the parent of a synonym is its accepted name
        accepted = pl.when(status.str.contains("synonym|misapplied")).then(text.get("parent", nothing))
    usages = table.select(
        text["id"].alias("id"),
        text.get("parent", nothing).alias("parent"),
        pl.when(accepted != text["id"]).then(accepted).alias("accepted"),
        status.alias("status"),
        text["rank"].str.to_lowercase().str.replace_all("_", " ").cast(pl.Categorical).alias("rank"),
        pl.coalesce(text.get("canonical", nothing), text.get("scientific", nothing)).alias("name"),
        *(pl.col(flat[rank]).cast(pl.Categorical).alias(rank) for rank in HIGHER if has_lineage and rank in flat),
    )
    if has_lineage:
        low = usages.filter(pl.col("kingdom").cast(pl.String) == KINGDOM, _is_low()).collect(engine="streaming")
    else:
        everything = usages.collect(engine="streaming")
        lineage = _walk(everything.filter(~_is_low()))
        low = everything.filter(_is_low())
        del everything
        low = low.join(lineage, left_on="parent", right_on="id", how="left", maintain_order="left")
    return _link(low, path)


def read_simple(path: Path) -> Backbone:
    """Read GBIF's backbone-simple file, whose lineage is keys into itself.

    Raises:
        TaxonomyError: there is no animal species in it.
    """
    table = scan(path, schema=dict.fromkeys(SIMPLE, pl.String()))
    rank = pl.col("rank").str.to_lowercase().str.replace_all("_", " ").cast(pl.Categorical).alias("rank")
    synonym = pl.col("is_synonym") == "t"
    usages = table.with_columns(rank).select(
        "id",
        pl.col("parent_key").alias("parent"),
        pl.when(synonym).then(pl.coalesce("species_key", "parent_key")).alias("accepted"),
        pl.col("status").str.to_lowercase().str.replace_all("_", " "),
        "rank",
        pl.coalesce("canonical_name", "scientific_name").alias("name"),
        *(f"{rank}_key" for rank in HIGHER),
    )
    higher = usages.filter(~_is_low(), pl.col("rank").cast(pl.String).is_in(HIGHER)).select("id", "name").collect()
    animals = higher.filter(pl.col("name") == KINGDOM)["id"]
    low = usages.filter(_is_low(), pl.col("kingdom_key").is_in(animals.implode())).collect(engine="streaming")
    for level in HIGHER:
        named = higher.select(pl.col("id").alias(f"{level}_key"), pl.col("name").cast(pl.Categorical).alias(level))
        low = low.join(named, on=f"{level}_key", how="left", maintain_order="left").drop(f"{level}_key")
    return _link(low, path)


def scan(path: Path, *, schema: dict[str, pl.DataType] | None = None) -> pl.LazyFrame:
    """Scan a table as text; tab-separated ones are not quoted, as GBIF and the Catalogue of Life write them.

    Args:
        path: .parquet, .csv, .tsv or .txt, text perhaps gzipped.
        schema: of a file without a header.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".parquet"]:
        return pl.scan_parquet(path, glob=False)
    comma = ".csv" in suffixes
    return pl.scan_csv(
        path,
        separator="," if comma else "\t",
        quote_char='"' if comma else None,
        has_header=schema is None,
        schema=schema,
        infer_schema=False,
        null_values=["", "\\N"],
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
        glob=False,
    )


def columns_of(path: Path) -> list[str]:
    """Name the columns of a table; one that cannot be read has none."""
    try:
        return scan(path).collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        return []


def first_line(path: Path) -> str:
    """Read the first line of a text file, also of a gzipped one; no more than 64 kB of it.

    Raises:
        TaxonomyError: it is not gzipped, although it is called so, or cut off.
    """
    if path.suffix.lower() != ".gz":
        with path.open("rb") as file:
            return file.readline(65_536).decode("utf-8-sig", errors="replace")
    try:
        with gzip.open(path) as file:
            return file.readline(65_536).decode("utf-8-sig", errors="replace")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TaxonomyError(f"{path}: cannot be unpacked ({error}); get it again") from error


def _terms(columns: list[str]) -> dict[str, str]:
    """Find the columns that we read, by our word for them."""
    plain = {name.split(":")[-1].split("/")[-1].lower(): name for name in reversed(columns)}
    return {ours: next(plain[t] for t in terms if t in plain) for ours, terms in _TERMS.items() if plain.keys() & terms}


def _is_low() -> pl.Expr:
    """Whether a usage is of a species or below; a synonym may leave its rank out."""
    known = pl.col("rank").cast(pl.String).is_in(["species", *BELOW_SPECIES])
    return known.fill_null(pl.col("accepted").is_not_null())


def _walk(higher: pl.DataFrame) -> pl.DataFrame:
    """Give every taxon above species its lineage, from the roots down; what hangs in a circle is never reached."""
    higher = higher.select("id", "parent", pl.col("rank").cast(pl.String), "name")
    rootless = pl.col("parent").is_null() | ~pl.col("parent").is_in(higher["id"].implode())
    level = higher.filter(rootless).select(
        "id", *(pl.when(pl.col("rank") == rank).then("name").alias(rank) for rank in HIGHER)
    )
    done = [level]
    while len(level):
        below = higher.filter(~rootless).join(level, left_on="parent", right_on="id")
        level = below.select(
            "id", *(pl.when(pl.col("rank") == rank).then("name").otherwise(rank).alias(rank) for rank in HIGHER)
        )
        done.append(level)
    return pl.concat(done).with_columns(pl.col(rank).cast(pl.Categorical) for rank in HIGHER)


def _link(low: pl.DataFrame, path: Path) -> Backbone:
    """Follow every name to the accepted species that it stands for.

    Args:
        low: `id`, `parent`, `accepted` (null for accepted names), `status`, `rank`, `name` and the lineage of animals'
            species and what is below them.
        path: what it was read from, for errors.
    """
    low = low.filter(pl.col("id").is_not_null()).unique("id", keep="first", maintain_order=True)
    lineage = [pl.col(rank) if rank in low.columns else pl.lit(None, pl.Categorical).alias(rank) for rank in HIGHER]
    low = low.with_columns(*lineage, _plain(low["name"])).with_row_index("here")
    is_species = (
        pl.col("accepted").is_null()
        & (pl.col("rank").cast(pl.String) == "species")
        & ~pl.col("status").str.contains("doubtful|synonym|misapplied|bare name|invalid")
        & (pl.col("name").str.count_matches(" ", literal=True) == 1)
    )
    low = low.with_columns(is_species.fill_null(False).alias("is_species"))
    points_at = pl.when("is_species").then("id").otherwise(pl.coalesce("accepted", "parent"))
    step = (
        low.select(points_at.alias("to"))
        .join(low.select(pl.col("id").alias("to"), "here"), on="to", how="left", maintain_order="left")["here"]
        .cast(pl.Int64)
        .fill_null(-1)
        .to_numpy()
    )
    end = follow(step)
    arrives = (end >= 0) & low["is_species"].to_numpy()[end]
    kingdom = low["kingdom"].cast(pl.String)
    is_foreign = (kingdom.is_not_null() & (kingdom != KINGDOM)).to_numpy()
    low = low.with_columns(pl.Series("end", np.where(arrives, end, -1)))
    low = low.filter(~np.where(arrives, is_foreign[end], is_foreign))
    if not low["is_species"].any():
        raise TaxonomyError(f"{path}: holds no accepted species of {KINGDOM}")
    n_unread = low["name"].null_count()
    higher = (pl.col(rank).cast(pl.String).fill_null("") for rank in HIGHER[:-1])
    species = low.filter("is_species").select(
        *higher,
        pl.col("name").str.split(" ").list.first().alias("genus"),
        pl.col("name").alias("species"),
        pl.lit("").alias("common_name"),
        pl.col("id").alias("taxon_id"),
        "here",
    )
    kept = species.unique(["species", *HIGHER[:-1]], keep="first", maintain_order=True).with_row_index("row")
    row_of = species.join(kept, on=["species", *HIGHER[:-1]], maintain_order="left").select("here", "row")
    placed = low.select("name", "end", "status", "is_species").join(
        row_of, left_on="end", right_on=pl.col("here").cast(pl.Int64), how="left", maintain_order="left"
    )
    placed = placed.filter(pl.col("name").is_not_null()).join(
        kept.select("row", pl.col("species").alias("stands_for")), on="row", how="left", maintain_order="left"
    )
    accepted = placed.filter("is_species").select("name", "row").unique(maintain_order=True)
    binomial = pl.col("name").str.split(" ").list.head(2).list.join(" ")
    others = placed.filter(~pl.col("is_species")).filter(
        ~pl.col("name").is_in(accepted["name"].implode()),
        binomial.ne_missing(pl.col("stands_for")),  # a subspecies under its own species says nothing new
        ~pl.col("status").str.contains("misapplied"),
    )
    unsure = pl.col("row").is_null() | pl.col("status").str.contains("doubtful|pro ?parte|ambiguous|bare name")
    synonyms = others.filter(~unsure).select("name", "row").unique(maintain_order=True)
    why = (
        pl.when(pl.col("status").str.contains("doubtful|bare name"))
        .then(pl.format("doubtful in {}", pl.lit(path.name)))
        .when(pl.col("row").is_not_null())
        .then(pl.format("a synonym of {} only in part ({})", "stands_for", pl.lit(path.name)))
        .otherwise(pl.format("{} leads to no accepted species from it", pl.lit(path.name)))
    )
    doubted = others.filter(unsure, ~pl.col("name").is_in(synonyms["name"].implode())).select("name", why.alias("why"))
    counts = Counter({"names that are no plain binomials": n_unread, "duplicates": len(species) - len(kept)})
    return Backbone(
        species=kept.select(*LEVELS, "taxon_id"),
        names=pl.concat([accepted, synonyms]),
        doubted=doubted.unique("name", keep="first", maintain_order=True),
        counts=+counts,
    )


def follow(step: np.ndarray) -> np.ndarray:
    """Follow pointers to their end: a row that points at itself; -1 leads nowhere, a circle to any row of it.

    Each round doubles the way that is behind, so chains of any length that fits in memory end.
    """
    for _ in range(step.size.bit_length()):
        further = np.where(step >= 0, step[step], -1)
        if np.array_equal(further, step):
            break
        step = further
    return step


def _plain(names: pl.Series) -> pl.Series:
    """Bring names to two or three bare words; those with authors are parsed, what is left becomes null."""
    text = (
        names.str.normalize("NFC")
        .str.strip_chars()
        .str.replace_all(r"\s+", " ")
        .str.replace(_SUBGENUS, " ")
        .str.replace_all(_MARKER, " ")
    )
    odd = text.is_not_null() & ~text.str.contains(_PLAIN)
    if odd.any():
        distinct = text.filter(odd).unique(maintain_order=True)
        read = [" ".join(filter(None, (name.species, name.below))) or None for name in parse_names(distinct)]
        text = text.replace(distinct, pl.Series(read, dtype=pl.String))
    return text.alias("name")
