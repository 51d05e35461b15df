"""What lives here and now: a list of species, or a table of sightings with place and date such as a GBIF download."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from biovita.errors import ConfigError, DatasetError
from biovita.log import N_LISTED, warn
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.rank import LEVELS
from biovita.taxonomy.taxon import Taxon, normal_name

NEAR_DEG = 1.0  # of latitude, and of longitude as long as that is: about 111 km each way
NEAR_WEEKS = 2  # of the year's 48, before and after

# our word for a column, and what tables call it (GBIF downloads, Darwin Core, ours) in lower case; the first counts
COLUMNS = {
    "name": ("species", "scientific_name", "scientificname", "name"),
    "latitude": ("latitude_deg", "decimallatitude", "latitude", "lat"),
    "longitude": ("longitude_deg", "decimallongitude", "longitude", "lon"),
    "week": ("week",),
    "date": ("eventdate", "recorded_at", "date"),
}
_DATE = re.compile(r"\d{4}-(\d{2})(?:-(\d{2}))?(?:\D|$)")


def read_expected(
    taxa: Sequence[Taxon],
    path: Path,
    *,
    names: Sequence[Path] = (),
    place: tuple[float, float] | None = None,
    week: str = "",
) -> np.ndarray:
    """Tell which species are on a list.

    Names that are not among the species are counted and named in a warning.

    Args:
        taxa: the species.
        path: a text file with one scientific name a line (BirdNET's lists, too), or a table with a column of names
            (`COLUMNS`) and, if it shall be asked for place or week, latitude and longitude, week or date. A cell that
            is empty means everywhere, or all year.
        names: name lists that know synonyms.
        place: latitude and longitude in degrees: a row counts if it lies within `NEAR_DEG`.
        week: 1 to 48, four a month, or a date: a row counts if it is of `NEAR_WEEKS` before or after, of any year.

    Returns:
        bool, shape (species,).

    Raises:
        ConfigError: there is no such list, it lacks what is asked for, or not one of its names is among the species.
    """
    rows = _read(path)
    if place:
        rows = rows.filter(_is_near(rows, path, place))
    if week:
        rows = rows.filter(_is_about(rows, path, week))
    listed = [name for name in rows["name"].unique(maintain_order=True).drop_nulls() if name]
    meant = same_species(listed, taxa, names)
    unknown = [name for name in listed if name not in meant]
    if listed and not meant:
        raise ConfigError(f"{path}: none of its {len(listed):,} names is among the species: {_some(listed)}")
    if not listed:
        raise ConfigError(f"{path}: lists nothing{' for that place and week' * bool(place or week)}; give another list")
    if unknown:
        warn(f"{path}: {len(unknown):,} of {len(listed):,} names are not among the species: {_some(unknown)}")
    found = set(meant.values())
    return np.array([taxon.species in found for taxon in taxa], bool)


def same_species(names: Sequence[str], taxa: Sequence[Taxon], lists: Sequence[Path]) -> dict[str, str]:
    """Find the species that names mean: as written, without authors or subspecies, or by a synonym.

    Two names are one species where the name lists accept the same name for both.

    Args:
        names: as a list writes them.
        taxa: the species.
        lists: name lists that know synonyms, the most trusted first.

    Returns:
        a name and its species; names of no species are left out.
    """
    own = {taxon.species for taxon in taxa}
    found = {name: name for name in names if name in own}
    checklists = _checklists(taxa, lists)
    while left := [name for name in names if name not in found]:
        checklist = next(checklists, None)
        if checklist is None:
            break
        ours = {theirs: name for name, theirs in _accepted(checklist, sorted(own)).items()}
        found |= {name: ours[theirs] for name, theirs in _accepted(checklist, left).items() if theirs in ours}
    return found


def _checklists(taxa: Sequence[Taxon], lists: Sequence[Path]) -> Iterator[Checklist]:
    """Make a checklist of the species themselves, for authors and spelling, then one of the lists, for synonyms."""
    rows = [taxon.row() for taxon in taxa if " " in taxon.species]
    own = Checklist()
    if rows:
        own.add_taxa(pl.DataFrame(rows, schema=dict.fromkeys(LEVELS, pl.String)), Path("labels"))
    yield own
    if lists:
        yield Checklist.open(lists)


def _accepted(checklist: Checklist, names: Sequence[str]) -> dict[str, str]:
    log = checklist.decide_all(pl.DataFrame({"scientific_name": names}, {"scientific_name": pl.String}))
    return dict(log.select("scientific_name", "species").drop_nulls().iter_rows())


def week_of(text: str) -> int | None:
    """Read a week, 1 to 48, or a date; None where it is neither.

    Every month has four weeks and the last one is longer, as BirdNET counts.
    """
    if text.isdecimal() and 1 <= int(text) <= 48:
        return int(text)
    found = _DATE.match(text)
    if not found or not 1 <= int(found[1]) <= 12:
        return None
    return 4 * (int(found[1]) - 1) + min((int(found[2] or 15) - 1) // 7, 3) + 1


def _read(path: Path) -> pl.DataFrame:
    """Read the columns that we know under our words, as text; equal rows once."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such list of species")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = pl.scan_parquet(path, glob=False)
        else:
            with path.open(encoding="utf-8-sig", errors="replace") as file:
                first = file.readline().strip()
            if suffix not in (".csv", ".tsv") and "name" not in _ours(re.split(r"[\t,]", first)):
                lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
                return pl.DataFrame({"name": [normal_name(line.split("_")[0]) for line in lines]}, {"name": pl.String})
            table = _scan(path, is_tabbed="\t" in first)
        ours = _ours(table.collect_schema().names())
        if "name" not in ours:
            raise DatasetError(f"{path}: no column 'species' or 'scientific_name'; name the column so")
        columns = (pl.col(name).cast(pl.String).str.strip_chars().alias(word) for word, name in ours.items())
        return table.select(columns).unique(maintain_order=True).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{path}: not a readable table ({str(error).splitlines()[0]})") from error


def _scan(path: Path, *, is_tabbed: bool) -> pl.LazyFrame:
    """Scan a text table; GBIF's downloads end in .csv and are tab-separated, without quotes."""
    return pl.scan_csv(
        path,
        glob=False,
        separator="\t" if is_tabbed else ",",
        quote_char=None if is_tabbed else '"',
        infer_schema=False,
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
    )


def _ours(columns: Sequence[str]) -> dict[str, str]:
    """Find our words among the names of columns."""
    given = {name.strip().strip('"').lower(): name for name in reversed(columns)}
    return {
        word: next(given[name] for name in known if name in given)
        for word, known in COLUMNS.items()
        if given.keys() & {*known}
    }


def _is_near(rows: pl.DataFrame, path: Path, place: tuple[float, float]) -> pl.Expr:
    """Whether a row lies near a place; a row without coordinates is everywhere."""
    latitude_deg, longitude_deg = place
    if not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180):
        raise ConfigError(f"--place {latitude_deg} {longitude_deg}: give latitude and longitude in degrees")
    if not {"latitude", "longitude"} <= {*rows.columns}:
        raise ConfigError(f"{path}: has no columns of latitude and longitude, which --place asks for")
    latitude = pl.col("latitude").cast(pl.Float64, strict=False)
    longitude = pl.col("longitude").cast(pl.Float64, strict=False)
    across = (longitude - longitude_deg + 180) % 360 - 180
    shrunk = across.abs() * math.cos(math.radians(latitude_deg))
    for name, degrees in (("latitude", latitude), ("longitude", longitude)):
        _warn_odd(
            rows.filter((pl.col(name) != "") & degrees.is_null())[name], path, "everywhere", "degrees such as 47.2"
        )
    is_near = ((latitude - latitude_deg).abs() <= NEAR_DEG) & (shrunk <= NEAR_DEG)
    return is_near.fill_null(True)


def _is_about(rows: pl.DataFrame, path: Path, week: str) -> pl.Series:
    """Whether a row is of about a week; a row without week or date is of all."""
    asked = week_of(week)
    if asked is None:
        raise ConfigError(f"--week {week}: give 1 to 48, or a date such as 2026-05-03")
    column = next((word for word in ("week", "date") if word in rows.columns), None)
    if column is None:
        raise ConfigError(f"{path}: has no column of weeks or dates, which --week asks for")
    weeks = {text: week_of(text) for text in rows[column].unique() if text}
    odd = [text for text, found in weeks.items() if found is None]
    _warn_odd(rows[column].filter(rows[column].is_in(odd)), path, "all year", "2026-05-03")
    apart = (rows[column].replace_strict(weeks, default=None, return_dtype=pl.Int64) - asked).abs()
    return ((apart <= NEAR_WEEKS) | (apart >= 48 - NEAR_WEEKS)).fill_null(True)


def _warn_odd(texts: pl.Series, path: Path, counts_as: str, write: str) -> None:
    """Say that cells which hold something hold nothing that is understood."""
    if len(texts):
        such = f"{len(texts):,} cells such as {texts.min()!r}"
        warn(f"{path}: {such} are not understood and count as {counts_as}; write {write}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - N_LISTED:,} more" if len(names) > N_LISTED else ""
    return ", ".join(names[:N_LISTED]) + more
