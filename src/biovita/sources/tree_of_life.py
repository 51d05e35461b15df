"""TreeOfLife-200M style catalogues: Parquet tables of some 214 million pictures, of which few a species are wanted.

The columns are those of the published catalogue (its Croissant description and dataset card): `uuid`, `source_url`,
the seven ranks, `scientific_name`, `common`, `data_source`, `publisher`, `basis_of_record`, `img_type`, `source_id`,
and of its provenance table `uuid`, `license_name`, `license_link`, `copyright_owner`, `title`. `ALIASES` has the other
spellings that are understood; which of those real catalogues use is not proven. `species` holds the whole binomial or
its second word, both are understood.

A catalogue is read in blocks and never as a whole, first its names and ids, then all of the rows that are kept. Of each
species those `per_species` pictures are kept whose hash of (seed, id) is smallest: a pure function of seed and ids,
whatever the order of rows, files or blocks. Memory is that of what is kept, and of a block.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from biovita.errors import DatasetError
from biovita.sources.licence import UNKNOWN, normalise_licence
from biovita.sources.record import Reading, as_records, each
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.taxon import normal_name

HOSTS: Final = ("inaturalist-open-data.s3.amazonaws.com", "static.inaturalist.org", "content.eol.org")
SOURCE: Final = "tol"
CATALOGUE: Final = "catalog.parquet"  # how the published folder calls them
PROVENANCE: Final = "metadata/provenance.parquet"
ALIASES: Final[dict[str, tuple[str, ...]]] = {  # the published name first
    "uuid": ("uuid", "treeoflife_id", "image_id", "id"),
    "source_url": ("source_url", "image_url", "url", "identifier"),
    **{rank: (rank,) for rank in RANKS},
    "scientific_name": ("scientific_name", "scientificname"),
    "common": ("common", "common_name", "vernacular_name"),
    "data_source": ("data_source", "source_dataset", "source"),
    "source_id": ("source_id", "gbif_id", "gbifid"),
    "publisher": ("publisher",),
    "basis_of_record": ("basis_of_record", "basisofrecord"),
    "img_type": ("img_type", "image_type"),
    "license_name": ("license_name", "license", "licence"),
    "license_link": ("license_link", "license_url"),
    "copyright_owner": ("copyright_owner", "rights_holder", "rightsholder"),
}
LICENCE_COLUMNS: Final = ("license_name", "license_link", "copyright_owner")
NOT_GIVEN: Final = ("not provided", "")  # how the provenance table says that it does not know
BLOCK_ROWS: Final = 500_000
HASHED_BYTES: Final = 64  # of an id; a uuid has 36 characters
SHIFTED: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}|^(?i:true|false)$"  # a neighbour's value in the place of a rank


def read(
    path: Path,
    *,
    species: Collection[str] | None,
    per_species: int = 200,
    seed: int,
    provenance: Path | None = None,
) -> Reading:
    """Read the pictures of some species from a catalogue, at most so many of each.

    Args:
        path: a Parquet file, a folder of them (at any depth), or the published folder with `catalog.parquet` and
            `metadata/provenance.parquet`.
        species: binomials that are wanted; None wants all.
        per_species: how many pictures of a species at most.
        seed: of the choice.
        provenance: the table with licences and holders by uuid, where the catalogue has no licence column.

    Raises:
        DatasetError: no such table or column, an id that occurs twice, or no licences anywhere.
    """
    path = Path(path)
    if (path / CATALOGUE).is_file():
        published = path / PROVENANCE
        provenance = published if provenance is None and published.is_file() else provenance
        path = path / CATALOGUE
    wanted = None if species is None else pl.Series(sorted({normal_name(name) for name in species}), dtype=pl.String)
    counts: Counter[str] = Counter()
    files = _parquet_files(path)
    if provenance is None and not _columns(files[0], ("license_name", "license_link")):
        raise DatasetError(f"{files[0]}: no column license_name; give the provenance table that has it by uuid")
    chosen = _Choice(per_species, seed)
    for number, file in enumerate(files):
        for start, block in _blocks(file, needed=("uuid", "source_url", "species"), read=("genus", *RANKS[:-2])):
            counts["rows"] += len(block)
            chosen.offer(_usable(block, wanted, counts), number, start)
    rows = chosen.rows()
    pictures = pl.concat(_pick(file, rows.filter(pl.col("file") == number)) for number, file in enumerate(files))
    pictures = pictures.sort("binomial", "rank", "uuid")
    pictures = pictures.filter(pl.int_range(pl.len()).over("binomial") < per_species)  # equal ranks: the first ids
    counts[f"rows over {per_species:,} of a species"] = chosen.n_offered - len(pictures)
    if provenance is not None:
        pictures = _with_provenance(pictures, Path(provenance), counts)
    counts["records"] = len(pictures)
    counts["records without a known licence"] = int((_licences(pictures) == UNKNOWN).sum())
    if wanted is not None:
        counts["wanted species without a picture"] = len(set(wanted) - set(pictures["binomial"]))
    return Reading(records=_records(pictures, path), counts=+counts)


def rank_of_ids(ids: pl.Series, seed: int) -> np.ndarray:
    """Hash ids with a seed to 64 bits; the same on every machine and with every version of the libraries.

    Each word of eight bytes is mixed in by the finaliser of SplitMix64. Only the first 64 bytes count.

    Source:
        Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators (the finaliser's constants).
    """
    fixed = np.array(ids.cast(pl.Binary).to_list(), dtype=f"S{HASHED_BYTES}")
    words = fixed.view("<u8").reshape(len(ids), HASHED_BYTES // 8)
    state = np.full(len(ids), _mix(np.array([seed], dtype=np.uint64))[0])
    for column in words.T:
        state = _mix(state ^ column)
    return state


def _mix(value: np.ndarray) -> np.ndarray:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class _Choice:
    """Where the rows are that have the smallest ranks of their species so far, as numbers alone."""

    def __init__(self, per_species: int, seed: int) -> None:
        self.per_species, self.seed = per_species, seed
        self.n_offered = 0
        self._codes: dict[str, int] = {}
        self._blocks: list[pl.DataFrame] = []
        self._n_trimmed = 0

    def offer(self, block: pl.DataFrame, file: int, start: int) -> None:
        """Take the usable rows of a block of a file, which begins at a row of it."""
        self.n_offered += len(block)
        names = block["binomial"].unique()
        codes = pl.Series([self._codes.setdefault(name, len(self._codes)) for name in names], dtype=pl.UInt32)
        ranks = pl.Series(rank_of_ids(block["uuid"], self.seed))
        numbers = block.select(
            code=pl.col("binomial").replace_strict(names, codes, return_dtype=pl.UInt32) if len(names) else pl.lit(0),
            rank=ranks,
            file=pl.lit(file, pl.UInt32),
            row=pl.col("row").cast(pl.Int64) + start,
        )
        self._blocks.append(numbers.cast({"code": pl.UInt32}))
        if sum(map(len, self._blocks)) > 2 * self._n_trimmed + BLOCK_ROWS:
            self._trim()

    def rows(self) -> pl.DataFrame:
        """Return the columns file, row, rank and binomial of the rows that are kept, and of any that tie with them."""
        self._trim()
        names = pl.DataFrame(
            {"binomial": list(self._codes), "code": range(len(self._codes))},
            {"binomial": pl.String, "code": pl.UInt32},
        )
        return self._blocks[0].join(names, on="code").drop("code").sort("file", "row")

    def _trim(self) -> None:
        rows = pl.concat(self._blocks)
        self._blocks = [rows.filter(pl.col("rank").rank("min").over("code") <= self.per_species)]
        self._n_trimmed = len(self._blocks[0])


def _parquet_files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DatasetError(f"{path}: no such catalogue; name a Parquet file or a folder of them")
    return files


def _columns(file: Path, wanted: Collection[str]) -> dict[str, str]:
    """Find the name in a file of each published column that it has."""
    try:
        names = {name.lower(): name for name in reversed(pl.read_parquet_schema(file))}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{file}: not a readable Parquet table ({str(error).splitlines()[0]})") from error
    found = {proper: [names[alias] for alias in ALIASES[proper] if alias in names] for proper in wanted}
    return {proper: given[0] for proper, given in found.items() if given}


def _blocks(file: Path, needed: Collection[str], read: Collection[str] = ()) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the first row's number and the columns of each block, as text under their published names; absent is null.

    Args:
        file: a Parquet file.
        needed: columns that it must have.
        read: others to read.
    """
    columns = _columns(file, ALIASES)
    for name in needed:
        if name not in columns:
            spellings = ", ".join(ALIASES[name])
            raise DatasetError(f"{file}: no column '{name}' (nor another of {spellings}); it is needed")
    scan = pl.scan_parquet(file, glob=False)
    table = scan.select(
        (pl.col(columns[name]) if name in columns else pl.lit(None)).cast(pl.String).alias(name)
        for name in (*needed, *read)
    )
    n_rows = scan.select(pl.len()).collect().item()
    for start in range(0, max(n_rows, 1), BLOCK_ROWS):
        yield start, table.slice(start, BLOCK_ROWS).collect().with_row_index("row")


def _pick(file: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """Read whole rows of a file.

    Args:
        file: a Parquet file.
        rows: `row` with their numbers, ascending, and columns to go with them.
    """
    picked = []
    for start, block in _blocks(file, needed=(), read=ALIASES):
        here = rows.filter(pl.col("row").is_between(start, start + len(block) - 1))
        picked.append(pl.concat([block[here["row"] - start].drop("row"), here.drop("row")], how="horizontal"))
    return pl.concat(picked)


def _usable(block: pl.DataFrame, wanted: pl.Series | None, counts: Counter[str]) -> pl.DataFrame:
    """Keep the rows with a species, an id and a URL, of wanted species; count the others, each once."""
    species, genus = pl.col("species").str.strip_chars(), pl.col("genus").str.strip_chars()
    halves = pl.when((species != "") & (genus != "")).then(pl.concat_str(genus, species, separator=" "))
    two_words = r"^(\S+)\s+(\S+)"  # the first two of "Turdus merula merula"
    whole = species.str.extract(two_words, 1) + pl.lit(" ") + species.str.extract(two_words, 2)
    block = block.with_columns(binomial=pl.coalesce(whole, halves))
    for word, condition in (
        ("rows without a species", pl.col("binomial").is_null()),
        ("rows of other species", pl.lit(False) if wanted is None else ~pl.col("binomial").is_in(wanted.implode())),
        ("rows with a date or a truth value as a rank", pl.any_horizontal(pl.col(RANKS).str.contains(SHIFTED))),
        ("rows without an id", pl.col("uuid").fill_null("") == ""),
        ("rows without a URL", pl.col("source_url").fill_null("") == ""),
    ):
        kept = block.filter(~condition.fill_null(False))
        counts[word] += len(block) - len(kept)
        block = kept
    return block


def _with_provenance(pictures: pl.DataFrame, path: Path, counts: Counter[str]) -> pl.DataFrame:
    """Join licences and holders by uuid."""
    known = [
        block.select("uuid", *LICENCE_COLUMNS).join(pictures, on="uuid", how="semi")
        for file in _parquet_files(path)
        for _, block in _blocks(file, needed=("uuid", "license_name"), read=LICENCE_COLUMNS[1:])
    ]
    table = pl.concat(known).unique("uuid", keep="any")
    counts["records without provenance"] = len(pictures.join(table, on="uuid", how="anti"))
    return pictures.drop(LICENCE_COLUMNS).join(table, on="uuid", how="left", maintain_order="left")


def _licences(pictures: pl.DataFrame) -> pl.Series:
    """Read the link, which names the version, and where it says nothing the name."""
    link, name = (each(pictures[column], normalise_licence) for column in ("license_link", "license_name"))
    return link.set(link == UNKNOWN, None).fill_null(name).alias("licence")


def _records(pictures: pl.DataFrame, path: Path) -> pl.DataFrame:
    is_gbif = pl.col("data_source").str.to_lowercase().str.contains("gbif", literal=True) & (pl.col("source_id") != "")
    remarks = {
        "image type": pl.col("img_type"),
        "basis of record": pl.col("basis_of_record"),
        "publisher": pl.col("publisher"),
        "from": pl.concat_str("data_source", pl.col("source_id").fill_null(""), separator=" ").str.strip_chars(),
    }
    table = pictures.select(
        pl.concat_str(pl.lit(f"{SOURCE}:"), "uuid").alias("media_id"),
        pl.lit("image").alias("modality"),
        pl.lit(SOURCE).alias("source"),
        pl.col("source_url").alias("url"),
        pl.when(is_gbif).then(pl.concat_str(pl.lit("https://www.gbif.org/occurrence/"), "source_id")).alias("page_url"),
        pl.col("binomial").alias("scientific_name"),
        _licences(pictures),
        pl.when(~pl.col("copyright_owner").is_in(NOT_GIVEN)).then("copyright_owner").alias("rights_holder"),
        pl.when(is_gbif).then(pl.concat_str(pl.lit("gbif:"), "source_id")).alias("individual"),
        pl.concat_str(
            [pl.when(text != "").then(pl.concat_str(pl.lit(f"{label}: "), text)) for label, text in remarks.items()],
            separator="; ",
            ignore_nulls=True,
        ).alias("remarks"),
        pl.col("common").alias("given_common_name"),
        *(pl.col(rank).alias(f"given_{rank}") for rank in RANKS[:-1]),
    )
    return as_records(table, path)
