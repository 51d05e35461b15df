"""iNaturalist: photos and sounds of observations, from the open-data tables, answers of the API, or an export.

One record a photo or sound, `inat:photo:ID` or `inat:sound:ID` in every form. What to know:

- The licence is the medium's; none means all rights reserved, which is `unknown`. The export has only that of the
  observation, so its media are all `unknown`.
- `individual` is `inat:OBSERVATION`. The open-data tables (photos alone) know an observation by its UUID, the API and
  the export by its number. The two meet in answers of the API, whose remarks give the UUID: a photo and a sound of one
  animal share an `individual` if both come from the API, or both from the export, but not if the photo comes from the
  open data and the sound from the API.
- One picture in several observations is one record if they agree on the name. If not, it shows several animals or
  somebody errs: it is left out and counted.
- What is hidden or flagged is left out and counted.
"""

import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from biovita.errors import ConfigError, DatasetError, FetchError
from biovita.sources.darwin_core import is_archive
from biovita.sources.delimited import Layout, iter_tables, read_header
from biovita.sources.folder import rights_holder
from biovita.sources.gbif import count_gaps, degrees, event_start, keep
from biovita.sources.licence import normalise_licence
from biovita.sources.pages import (
    Door,
    as_text,
    claim,
    fetch_page,
    iter_saved,
    page_path,
    parse_query,
    results_of,
)
from biovita.sources.record import Reading, as_records, each, instants
from biovita.tables import read_table, require_columns
from biovita.taxonomy.rank import RANKS

HOSTS: Final = ("api.inaturalist.org", "inaturalist-open-data.s3.amazonaws.com", "static.inaturalist.org")
API: Final = "https://api.inaturalist.org/v1/observations"
PER_PAGE: Final = 200  # the most that the API gives
BUCKET: Final = "https://inaturalist-open-data.s3.amazonaws.com/photos"
OPEN_DATA: Final = {
    "observations": ("observation_uuid", "latitude", "longitude", "taxon_id", "quality_grade", "observed_on"),
    "photos": ("photo_id", "observation_uuid", "observer_id", "extension", "license"),
    "taxa": ("taxon_id", "ancestry", "rank", "name", "active"),
    "observers": ("observer_id", "login", "name"),
}
ICONIC: Final = {  # rank of the groups that an export names
    **dict.fromkeys(("Animalia", "Plantae", "Fungi", "Chromista", "Protozoa"), "kingdom"),
    "Mollusca": "phylum",
    **dict.fromkeys(("Actinopterygii", "Amphibia", "Arachnida", "Aves", "Insecta", "Mammalia", "Reptilia"), "class"),
}
BLOCKS_A_JOIN: Final = 8  # each join looks at all observations that were chosen
HIGHER: Final = RANKS[:-1]
_RAW: Final = (  # what every form is brought to, as text
    *("kind", "medium", "url", "code", "holder", "observation", "page_url", "scientific_name", "given_common_name"),
    *("when", "latitude", "longitude", "quality", "captive", "obscured", "note"),
    *(f"given_{rank}" for rank in HIGHER),
)


def read(path: Path, *, taxa: Collection[str] | None = None, quality_grades: Collection[str] | None = None) -> Reading:
    """Read open-data tables, saved answers of the API, or an export of observations.

    Args:
        path: a folder with `observations`, `photos`, `taxa` and `observers` (.csv or .csv.gz); a folder of JSON
            pages or one page; or the CSV file of an export.
        taxa: of the open data, these scientific names alone, with all that is below them.
        quality_grades: of the open data, these grades alone (`research`, `needs_id`, `casual`).

    Raises:
        DatasetError: there is nothing of this kind, or it lacks what a record needs; it names file and key.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    if path.is_dir() and _find(path, "photos"):
        media = _read_open_data(path, taxa, quality_grades, counts)
    elif taxa is not None or quality_grades is not None:
        raise ConfigError(f"{path}: taxa and grades can be chosen of open-data tables alone; choose them in the query")
    elif is_archive(path):
        raise DatasetError(f"{path}: a Darwin Core archive; read it as source 'gbif'")
    elif path.suffix.lower() == ".csv":
        media = _read_export(path)
    else:
        media = _read_pages(path, counts)
    counts["media"] = len(media)
    return Reading(records=as_records(_describe(_settle(media, counts), path, counts), path), counts=+counts)


def _settle(media: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Leave one row a medium, whatever the order of rows, and none if its observations differ about the name."""
    media = keep(media, pl.col("url").is_not_null(), "media without a URL", counts)
    media = keep(media, pl.col("scientific_name").is_not_null(), "media without a name", counts)
    medium = ["kind", "medium"]
    media = media.sort(*medium, "observation", nulls_last=True)
    media = keep(media, pl.struct(*medium, "observation").is_first_distinct(), "media that occur again", counts)
    twice = media.filter(pl.struct(medium).is_duplicated())
    if not len(twice):
        return media
    disputed = twice.group_by(medium).agg(pl.col("scientific_name").n_unique().alias("n")).filter(pl.col("n") > 1)
    agreed = media.join(disputed, on=medium, how="anti", maintain_order="left")
    counts["media under several names"] += len(media) - len(agreed)
    return keep(agreed, pl.struct(medium).is_first_distinct(), "media in several observations", counts)


def _describe(media: pl.DataFrame, path: Path, counts: Counter[str]) -> pl.DataFrame:
    """Turn raw columns into those of a record."""
    counts["media of captive animals"] += len(media.filter(pl.col("captive") == "true"))
    counts["media with obscured coordinates"] += len(media.filter(pl.col("obscured") == "true"))
    remarks = [
        pl.when(pl.col("captive") == "true").then(pl.lit("captive")),
        pl.when(pl.col("obscured") == "true").then(pl.lit("coordinates obscured")),
        pl.col("note"),
    ]
    modality = pl.when(pl.col("kind") == "sound").then(pl.lit("audio")).otherwise(pl.lit("image"))
    # pages name a small size of a photo, and add the time of upload; the original has neither
    original = pl.col("url").str.replace(
        r"/(?:square|thumb|small|medium|large|original)\.(\w+)(?:\?.*)?$", "/original.$1"
    )
    media = media.with_columns(
        pl.format("inat:{}:{}", "kind", "medium").alias("media_id"),
        modality.alias("modality"),
        pl.lit("inat").alias("source"),
        pl.when(pl.col("kind") == "photo").then(original).otherwise("url").alias("url"),
        each(media["code"], normalise_licence).alias("licence"),
        pl.col("holder").alias("rights_holder"),
        instants(event_start(media["when"]), path),
        degrees("latitude", 90).alias("latitude_deg"),
        degrees("longitude", 180).alias("longitude_deg"),
        pl.format("inat:{}", "observation").alias("individual"),
        # what the open data call the same observation; saved pages say it
        pl.format("inat:{}", pl.col("note").str.extract(r"observation uuid: ([\w-]+)")).alias("given_individual"),
        pl.concat_str(remarks, separator="; ", ignore_nulls=True).str.replace_all(r"\s+", " ").alias("remarks"),
    )
    count_gaps(media, counts)
    return media


def _find(folder: Path, name: str) -> Path | None:
    paths = [path for suffix in (".csv", ".csv.gz") if (path := folder / f"{name}{suffix}").is_file()]
    if len(paths) > 1:
        raise DatasetError(f"{folder}: has both {paths[0].name} and {paths[1].name}; leave one")
    return paths[0] if paths else None


def _iter_table(folder: Path, name: str, counts: Counter[str]) -> Iterator[pl.DataFrame]:
    """Yield one table of the open data in blocks; quotes in it are characters, and some rows are ragged."""
    path = _find(folder, name)
    if path is None:
        raise DatasetError(f"{folder}: no {name}.csv or {name}.csv.gz; the open data has {', '.join(OPEN_DATA)}")
    met: Counter[str] = Counter()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = read_header(stream, str(path))
            require_columns(pl.DataFrame(schema=dict.fromkeys(header, pl.String())), OPEN_DATA[name], path)
            yield from iter_tables(stream, Layout(), {n: header.index(n) for n in OPEN_DATA[name]}, str(path), met)
    except (EOFError, OSError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read to its end ({error}); get it again") from error
    counts.update({f"{word} in {name}": n for word, n in met.items()})


def _read_table(
    folder: Path, name: str, counts: Counter[str], wanted: Callable[[pl.DataFrame], pl.DataFrame]
) -> pl.DataFrame:
    """Read what is wanted of a table, a few blocks at a time, and count its rows."""
    parts = [wanted(pl.DataFrame(schema=dict.fromkeys(OPEN_DATA[name], pl.String())))]
    blocks: list[pl.DataFrame] = []
    for block in itertools.chain(_iter_table(folder, name, counts), [None]):
        if block is not None:
            counts[name] += len(block)
            blocks.append(block)
        if blocks and (block is None or len(blocks) == BLOCKS_A_JOIN):
            parts.append(wanted(pl.concat(blocks)))
            blocks = []
    return pl.concat(parts)


def _number(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Int64, strict=False)


def _read_open_data(
    folder: Path, taxa: Collection[str] | None, grades: Collection[str] | None, counts: Counter[str]
) -> pl.DataFrame:
    names = _read_table(folder, "taxa", counts, lambda block: block.with_columns(_number("taxon_id")))
    names = names.unique("taxon_id", keep="first", maintain_order=True)
    below = None if taxa is None else _below(names, taxa, folder, counts)

    def is_wanted(block: pl.DataFrame) -> pl.DataFrame:
        block = block.with_columns(_number("taxon_id"))
        if grades is not None:
            block = block.filter(pl.col("quality_grade").is_in(list(grades)))
        return block if below is None else block.join(below, on="taxon_id", how="semi")

    chosen = _read_table(folder, "observations", counts, is_wanted)
    if taxa is not None or grades is not None:
        counts["observations not asked for"] = counts["observations"] - len(chosen)
    chosen = keep(chosen, pl.col("observation_uuid").is_first_distinct(), "observations that occur again", counts)
    known = pl.col("taxon_id").is_in(names["taxon_id"].implode())
    chosen = keep(chosen, known, "observations of a taxon that is not in the tables", counts)
    photos = _read_table(folder, "photos", counts, lambda block: block.join(chosen, on="observation_uuid"))
    counts["photos of other observations"] = counts["photos"] - len(photos)
    counts["observations without photos"] = len(chosen.join(photos, on="observation_uuid", how="anti"))
    stored = pl.all_horizontal(pl.col("photo_id", "extension").is_not_null())
    photos = keep(photos, stored, "photos without a file", counts)
    observers = photos.select("observer_id").unique()
    people = _read_table(folder, "observers", counts, lambda block: block.join(observers, on="observer_id", how="semi"))
    # None is what the tables say for nobody
    named = pl.when(pl.col("name") != "None").then("name")
    people = people.select("observer_id", holder=pl.coalesce(named, "login"))
    people = people.unique("observer_id", keep="first", maintain_order=True)
    photos = photos.join(people, on="observer_id", how="left", maintain_order="left")
    photos = photos.join(_lineages(names, photos["taxon_id"]), on="taxon_id", how="left", maintain_order="left")
    counts["media under inactive names"] = len(photos.filter(pl.col("active") == "false"))
    return photos.select(
        *_given(photos),
        pl.lit("photo").alias("kind"),
        pl.col("photo_id").alias("medium"),
        pl.format(BUCKET + "/{}/original.{}", "photo_id", "extension").alias("url"),
        pl.col("license").alias("code"),
        "holder",
        pl.col("observation_uuid").alias("observation"),
        pl.format("https://www.inaturalist.org/observations/{}", "observation_uuid").alias("page_url"),
        pl.col("name").alias("scientific_name"),
        pl.col("observed_on").alias("when"),
        "latitude",
        "longitude",
        pl.col("quality_grade").alias("quality"),
        pl.when(pl.col("active") == "false").then(pl.lit("inactive name")).alias("note"),
        *(pl.lit(None, pl.String()).alias(name) for name in ("given_common_name", "captive", "obscured")),
    )


def _given(table: pl.DataFrame) -> list[pl.Expr]:
    """Take the columns of ranks that a table has, and null for the others."""
    hints = [f"given_{rank}" for rank in HIGHER]
    return [pl.col(name) if name in table.columns else pl.lit(None, pl.String()).alias(name) for name in hints]


def _below(names: pl.DataFrame, taxa: Collection[str], folder: Path, counts: Counter[str]) -> pl.DataFrame:
    """Find the ids of these names and of all taxa below them."""
    wanted = names.filter(pl.col("name").is_in(list(taxa)))
    counts["names asked for that are unknown"] = len(set(taxa) - set(wanted["name"]))
    if not len(wanted):
        raise DatasetError(
            f"{folder}: its taxa have none of the {len(taxa)} name(s) asked for, such as {min(taxa, default='')}"
        )
    ids = wanted.select("taxon_id")
    lower = _ancestors(names).join(ids, left_on="ancestor", right_on="taxon_id", how="semi").select("taxon_id")
    return pl.concat([ids, lower]).unique()


def _ancestors(names: pl.DataFrame) -> pl.DataFrame:
    """List every pair of taxon and ancestor."""
    pairs = names.select("taxon_id", ancestor=pl.col("ancestry").str.split("/")).explode("ancestor")
    return pairs.with_columns(_number("ancestor"))


def _lineages(names: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """Give name, activity and the higher ranks of taxa."""
    taxa = names.join(pl.DataFrame({"taxon_id": ids.unique()}), on="taxon_id", how="semi")
    ranked = names.filter(pl.col("rank").is_in(HIGHER)).select(ancestor="taxon_id", rank="rank", title="name")
    pairs = _ancestors(taxa).join(ranked, on="ancestor")
    own = taxa.join(ranked, left_on="taxon_id", right_on="ancestor", suffix="_own").select("taxon_id", "rank", "title")
    pairs = pl.concat([pairs.select("taxon_id", "rank", "title"), own])
    wide = pairs.with_columns(pl.format("given_{}", "rank").alias("rank")).pivot(
        "rank", index="taxon_id", values="title", aggregate_function="first"
    )
    return taxa.select("taxon_id", "name", "active").join(wide, on="taxon_id", how="left")


def _read_export(path: Path) -> pl.DataFrame:
    table = read_table(path)
    if "occurrenceID" in table.columns and not {"image_url", "sound_url"} & set(table.columns):
        raise DatasetError(
            f"{path}: observations of a Darwin Core archive, without their media; read the whole archive as source "
            "'gbif', or export observations with image_url and sound_url"
        )
    require_columns(table, ["id", "scientific_name", "image_url", "sound_url"], path)
    table = table.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))

    def some(name: str) -> pl.Expr:
        return pl.col(name) if name in table.columns else pl.lit(None, pl.String())

    iconic = some("iconic_taxon_name")
    parts = [
        table.select(
            pl.lit(kind).alias("kind"),
            pl.col(column).str.extract(rf"/{kind}s/(\d+)").alias("medium"),
            pl.col(column).alias("url"),
            pl.lit(None, pl.String()).alias("code"),
            some("user_login").alias("holder"),
            pl.col("id").alias("observation"),
            pl.coalesce(some("url"), pl.format("https://www.inaturalist.org/observations/{}", "id")).alias("page_url"),
            "scientific_name",
            some("common_name").alias("given_common_name"),
            pl.coalesce(some("time_observed_at"), some("observed_on")).alias("when"),
            some("latitude").alias("latitude"),
            some("longitude").alias("longitude"),
            some("quality_grade").alias("quality"),
            some("captive_cultivated").alias("captive"),
            some("coordinates_obscured").alias("obscured"),
            some("description").alias("note"),
            *(
                pl.when(iconic.is_in([name for name, of in ICONIC.items() if of == rank]))
                .then(iconic)
                .alias(f"given_{rank}")
                for rank in HIGHER
            ),
        ).filter(pl.col("url").is_not_null())
        for kind, column in (("photo", "image_url"), ("sound", "sound_url"))
    ]
    media = pl.concat(parts)
    odd = media.filter(pl.col("medium").is_null())["url"]
    if len(odd):
        raise DatasetError(f"{path}: '{odd[0]}' is no URL of a photo or sound of iNaturalist")
    return media


def _read_pages(path: Path, counts: Counter[str]) -> pl.DataFrame:
    if not path.is_dir() and path.suffix.lower() != ".json":
        raise DatasetError(f"{path}: no open-data tables, saved JSON pages or CSV export of iNaturalist")
    rows: list[dict[str, Any]] = []
    ranked: dict[int, tuple[str, str]] = {}  # taxa of the higher ranks: rank and name
    for file, page in iter_saved(path):
        counts["pages"] += 1
        for observation in results_of(page, file)["results"]:
            counts["observations"] += 1
            for taxon in _taxa_in(observation):
                if taxon.get("rank") in HIGHER and isinstance(taxon.get("id"), int):
                    ranked[taxon["id"]] = (taxon["rank"], as_text(taxon.get("name")) or "")
            rows += _media_of(observation, file, counts)
    for row in rows:  # the lineage of one is often told by another; if by none, there is the group
        row |= {f"given_{ranked[id_][0]}": ranked[id_][1] for id_ in row["lineage"] if id_ in ranked}
        row.setdefault(f"given_{ICONIC.get(row['group'])}", row["group"])
    return pl.DataFrame(
        [[row.get(name) for name in _RAW] for row in rows], dict.fromkeys(_RAW, pl.String), orient="row"
    )


def _taxa_in(observation: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the taxa that an observation and its identifications speak of, with their ancestors."""
    for about in (observation, *_dicts(observation.get("identifications"))):
        for taxon in _dicts([about.get("taxon")]):
            yield taxon
            yield from _dicts(taxon.get("ancestors"))


def _dicts(value: Any) -> list[dict[str, Any]]:
    """Take the objects of a list; anything else has none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _media_of(observation: Mapping[str, Any], file: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    number = as_text(observation.get("id"))
    if number is None:
        raise DatasetError(f"{file}: an observation without 'id'")
    where = f"{file}: observation {number}"
    if "taxon" not in observation:
        raise DatasetError(f"{where} has no 'taxon'; of API v2, ask for its fields")
    media = [
        (kind, medium) for kind, key in (("photo", "photos"), ("sound", "sounds"))
        for medium in _objects(observation, key, where)
    ]  # fmt: skip
    if not media:
        counts["observations without media"] += 1
    elif observation["taxon"] is None:
        counts["observations without a taxon"] += 1
    elif observation.get("spam") is True or _is_flagged(observation):
        counts["observations that are flagged"] += 1
    else:
        shared = _facts_of(observation, number)
        for kind, medium in media:
            if any(key not in medium for key in ("id", "license_code")):
                raise DatasetError(
                    f"{where} has a {kind} without 'id' or 'license_code'; of API v2, ask for its fields"
                )
            if medium.get("hidden") is True or _is_flagged(medium):
                counts["media that are hidden or flagged"] += 1
                continue
            holder = rights_holder(as_text(medium.get("attribution"))) or shared["holder"]
            url = medium.get("url" if kind == "photo" else "file_url")
            yield shared | {"kind": kind, "medium": as_text(medium["id"]), "url": as_text(url) or None,
                            "code": as_text(medium["license_code"]), "holder": holder}  # fmt: skip


def _objects(observation: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    if key not in observation and {"photos", "sounds"} & set(observation):
        return []  # API v2 gives what was asked for
    value = observation.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DatasetError(f"{where} has no list '{key}'; of API v2, ask for its fields")
    return value


def _is_flagged(thing: Mapping[str, Any]) -> bool:
    flags = thing.get("flags")
    return isinstance(flags, list) and any(
        not (isinstance(flag, dict) and flag.get("resolved") is True) for flag in flags
    )


def _facts_of(observation: Mapping[str, Any], number: str) -> dict[str, Any]:
    """Take what the media of an observation share."""
    taxon = observation["taxon"] if isinstance(observation["taxon"], dict) else {}
    user = observation.get("user") if isinstance(observation.get("user"), dict) else {}
    place = observation.get("location")
    place = place.split(",") if isinstance(place, str) else place
    latitude, longitude = place if isinstance(place, list) and len(place) == 2 else (None, None)
    lineage = taxon.get("ancestor_ids")
    uuid = as_text(observation.get("uuid"))
    notes = [f"observation uuid: {uuid}" if uuid else None, as_text(observation.get("description"))]
    return {
        "observation": number,
        "page_url": as_text(observation.get("uri")) or f"https://www.inaturalist.org/observations/{number}",
        "holder": as_text((user or {}).get("name")) or as_text((user or {}).get("login")),
        "scientific_name": as_text(taxon.get("name")) or None,
        "given_common_name": as_text(taxon.get("preferred_common_name")),
        "when": as_text(observation.get("time_observed_at")) or as_text(observation.get("observed_on")),
        "latitude": as_text(latitude),
        "longitude": as_text(longitude),
        "quality": as_text(observation.get("quality_grade")),
        "captive": as_text(observation.get("captive")),
        "obscured": as_text(observation.get("obscured")),
        "note": "; ".join(note for note in notes if note) or None,
        "group": as_text(taxon.get("iconic_taxon_name")),
        "lineage": [id_ for id_ in lineage if isinstance(id_, int)] if isinstance(lineage, list) else [],
    }


def fetch(door: Door, query: str, folder: Path) -> list[Path]:
    """Save the observations that match a query page by page; a page that is there is not asked for again.

    Pages follow the observation number, since page numbers end at 10,000 observations.

    Args:
        door: the polite client.
        query: as in a URL (`taxon_id=3&sounds=true`); it must ask for `sounds=true` or `photos=true`.
        folder: for these pages alone.

    Returns:
        The pages, in order.

    Raises:
        ConfigError: the query is not written as in a URL, or asks for neither sounds nor photos.
        DatasetError: the folder holds another query's answers.
        FetchError: the API refused, or answered something else than a page.
    """
    folder = Path(folder)
    pairs = parse_query(query, ("id_above", "order", "order_by", "page", "per_page"))
    if not {("sounds", "true"), ("photos", "true")} & set(pairs):
        raise ConfigError(f"query '{query}': say sounds=true or photos=true in it")
    claim(folder, API, pairs)
    pages: list[Path] = []
    last = 0
    while True:
        path = page_path(folder, len(pages) + 1)
        asked = [*pairs, ("order_by", "id"), ("order", "asc"), ("per_page", str(PER_PAGE)), ("id_above", str(last))]
        results = fetch_page(door, API, asked, path)["results"]
        pages.append(path)
        ids = [result.get("id") for result in results]
        if not all(isinstance(id_, int) and id_ > last for id_ in ids):
            raise FetchError(f"{path}: its observations are not above {last}, as asked; delete it", kind="permanent")
        if len(ids) < PER_PAGE:
            return pages
        last = max(ids)
