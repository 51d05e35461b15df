"""GBIF: occurrences with sounds and pictures, from a download (a Darwin Core archive) or the occurrence search API.

One record a medium. What to know:

- The licence of an occurrence is not that of its media; a medium that states none is `unknown`.
- An occurrence of iNaturalist has the `individual` that the iNaturalist source gives it (`inat:OBSERVATION`), so its
  media meet there; any other occurrence is an individual of its own.
- An archive that is no GBIF download (it has no `gbifID`) is read too; its source is `dwca`.
- The search gives at most 100,000 occurrences a query. For more, ask for a download at gbif.org, as Darwin Core
  archive: the download called "simple" has no media.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from biovita.errors import DatasetError, FetchError
from biovita.sources.darwin_core import AUDUBON, MULTIMEDIA, OCCURRENCE, is_archive, read_archive
from biovita.sources.licence import UNKNOWN, normalise_licence
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
from biovita.tables import require_columns
from biovita.taxonomy.rank import RANKS

HOSTS: Final = ("api.gbif.org",)  # media lie on the hosts of the publishers
SEARCH: Final = "https://api.gbif.org/v1/occurrence/search"
LIMIT: Final = 300  # occurrences a page, the most that the API gives
MAX_OFFSET: Final = 100_000  # what the search reaches; https://techdocs.gbif.org/en/openapi/v1/occurrence
MEDIA_TYPES: Final = ("Sound", "StillImage")
INATURALIST: Final = "50c9509d-22c7-4a22-a47d-8c48425ef4a7"  # dataset key of its research-grade observations
OBSERVATIONS: Final = ("HUMAN_OBSERVATION", "MACHINE_OBSERVATION", "OBSERVATION")  # of the animal, not of a specimen

OCCURRENCE_TERMS: Final = (
    *("gbifID", "datasetKey", "occurrenceID", "catalogNumber", "occurrenceStatus", "basisOfRecord", "references"),
    *("scientificName", "vernacularName", *RANKS[:-1], "eventDate", "decimalLatitude", "decimalLongitude"),
    *("recordedBy", "sex", "lifeStage", "behavior", "occurrenceRemarks"),
)
MEDIA_TERMS: Final = {  # our name: the terms that may say it, best first
    "url": ("identifier",),
    "medium_type": ("type",),
    "format": ("format",),
    "medium_page": ("references",),
    "medium_licence": ("license",),
    "holder": ("rightsHolder",),
    "creator": ("creator",),
    "title": ("title",),
    "description": ("description",),
    "variant": (),
}
AUDUBON_TERMS: Final = MEDIA_TERMS | {
    "url": ("accessURI",),
    "medium_page": ("furtherInformationURL",),
    "medium_licence": ("WebStatement", "license", "UsageTerms", "rights"),
    "holder": ("Owner", "rightsHolder"),
    "title": ("title", "caption"),
    "variant": ("variant", "variantLiteral"),
}
KINDS: Final = {"sound": "audio", "audio": "audio", "stillimage": "image", "image": "image", "photograph": "image",
                "movingimage": "video", "video": "video", "interactiveresource": "page", "text": "page"}  # fmt: skip
SUFFIXES: Final = (
    dict.fromkeys(("wav", "mp3", "ogg", "oga", "flac", "m4a", "aac", "aif", "aiff", "wma", "amr"), "audio")
    | dict.fromkeys(("jpg", "jpeg", "png", "gif", "webp", "tif", "tiff", "bmp"), "image")
    | dict.fromkeys(("mp4", "mov", "avi", "webm", "mpg", "mpeg"), "video")
)
REMARKS: Final = {  # label in the remarks: column; the free texts come last
    "basis": "basisOfRecord",
    "dataset": "datasetKey",
    "recorded by": "recordedBy",
    "creator": "creator",
    "sex": "sex",
    "stage": "lifeStage",
    "behaviour": "behavior",
    "title": "title",
    "description": "description",
    "remarks": "occurrenceRemarks",
}
_EVENT = r"^(?<date>\d{4}-\d\d-\d\d)(?:T(?<time>(?:[01]\d|2[0-3]):[0-5]\d)(?<second>:[0-5]\d(?:\.\d{1,9})?)?"
_EVENT += r"(?:(?<utc>Z)|(?<hour>[+-](?:0\d|1[0-4])):?(?<minute>[0-5]\d))?)?$"


def read(path: Path) -> Reading:
    """Read a download, or saved pages or occurrences of the API.

    Args:
        path: an archive (zip file or folder), a folder of JSON files, or one JSON file.

    Raises:
        DatasetError: there is nothing of this kind, or it lacks what a record needs; it names file and key.
    """
    media, counts = read_media(path)
    return Reading(records=as_records(media, path), counts=counts)


def read_media(path: Path, *, dataset: str | None = None) -> tuple[pl.DataFrame, Counter[str]]:
    """Read media with the columns of a record and those of their occurrence.

    Args:
        path: as for `read`.
        dataset: read the occurrences of the dataset with this key alone.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    occurrences, media = _read_archive(path, counts) if is_archive(path) else _read_pages(path, counts)
    counts["occurrences"] = len(occurrences)
    occurrences = keep(occurrences, pl.col("id").is_first_distinct(), "occurrences that occur again", counts)
    if dataset:
        if "datasetKey" not in occurrences.columns:
            raise DatasetError(f"{path}: no 'datasetKey' says of which dataset an occurrence is")
        ours = pl.col("datasetKey").str.to_lowercase() == dataset
        others = occurrences.filter(~ours.fill_null(False))
        counts["occurrences of other datasets"] = len(others)
        occurrences = occurrences.filter(ours)
        media = media.join(others.select(coreid="id"), on="coreid", how="anti")
    bare = occurrences.join(media.select(id="coreid"), on="id", how="anti")
    counts["occurrences without media"] = len(bare)
    counts["media"] = len(media)
    joined = media.join(occurrences, left_on="coreid", right_on="id", how="inner", maintain_order="left")
    counts["media without their occurrence"] = len(media) - len(joined)
    return _describe(_select(joined, counts), path, counts), +counts


def _read_archive(path: Path, counts: Counter[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    terms = {
        *OCCURRENCE_TERMS,
        *(term for names in (MEDIA_TERMS, AUDUBON_TERMS) for some in names.values() for term in some),
    }
    archive = read_archive(path, extensions=(MULTIMEDIA, AUDUBON), terms=terms)
    if archive.core_type != OCCURRENCE:
        raise DatasetError(f"{path}: its core is '{archive.core_type}'; media come with occurrences")
    counts.update(archive.counts)
    if MULTIMEDIA in archive.extensions:
        table, names = archive.extensions[MULTIMEDIA], MEDIA_TERMS
    elif AUDUBON in archive.extensions:
        table, names = archive.extensions[AUDUBON], AUDUBON_TERMS
    else:
        raise DatasetError(
            f"{path}: it has no multimedia table, so it cannot say which media there are; "
            "ask for the Darwin Core archive of occurrences that have media"
        )
    require_columns(archive.core, ["scientificName"], path)
    require_columns(table, names["url"], path)
    return archive.core, table.select("coreid", *(_some(table, terms, name) for name, terms in names.items()))


def _some(table: pl.DataFrame, names: Sequence[str], alias: str) -> pl.Expr:
    return pl.coalesce(*(name for name in names if name in table.columns), pl.lit(None, pl.String())).alias(alias)


def _read_pages(path: Path, counts: Counter[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    if not path.is_dir() and path.suffix.lower() != ".json":
        raise DatasetError(f"{path}: neither a Darwin Core archive (zip file, or folder with meta.xml) nor saved JSON")
    occurrences: list[list[str | None]] = []
    media: list[list[str | None]] = []
    for file, page in iter_saved(path):
        counts["pages"] += 1
        for occurrence in _occurrences(page, file):
            key = as_text(occurrence["key"])
            occurrences.append([key, *(as_text(occurrence.get(name)) for name in OCCURRENCE_TERMS)])
            for medium in occurrence["media"]:
                fields = ([medium.get(term) for term in terms] for terms in MEDIA_TERMS.values())
                media.append([key, *(as_text(values[0]) if values else None for values in fields)])
    return (
        pl.DataFrame(occurrences, dict.fromkeys(("id", *OCCURRENCE_TERMS), pl.String), orient="row").with_columns(
            gbifID="id"
        ),
        pl.DataFrame(media, dict.fromkeys(("coreid", *MEDIA_TERMS), pl.String), orient="row"),
    )


def _occurrences(page: Any, file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the occurrences of a page of results, or the one occurrence that the file is."""
    single = isinstance(page, dict) and "results" not in page and "key" in page
    for i, occurrence in enumerate([page] if single else results_of(page, file)["results"]):
        where = f"{file}: " + ("" if single else f"results[{i}]: ")
        if as_text(occurrence.get("key")) is None:
            raise DatasetError(f"{where}no 'key'; is it an occurrence of GBIF?")
        media = occurrence.get("media")
        if not isinstance(media, list) or not all(isinstance(medium, dict) for medium in media):
            raise DatasetError(f"{where}no list 'media' in occurrence {occurrence['key']}; did the API change?")
        yield occurrence


def keep(table: pl.DataFrame, condition: pl.Expr, word: str, counts: Counter[str]) -> pl.DataFrame:
    """Keep the rows that meet a condition, and count those that do not."""
    kept = table.filter(condition.fill_null(False))
    counts[word] += len(table) - len(kept)
    return kept


def _select(media: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Leave out what is no sound or picture of an animal that was there; say what a medium is."""
    absent = [pl.lit(None, pl.String()).alias(name) for name in OCCURRENCE_TERMS if name not in media.columns]
    media = media.with_columns(absent).with_columns(pl.col("url").str.strip_chars())
    media = keep(media, pl.col("occurrenceStatus").fill_null("").str.to_uppercase() != "ABSENT",
                  "media of an absence", counts)  # fmt: skip
    media = keep(media, pl.col("url").fill_null("") != "", "media without a URL", counts)
    small = pl.col("variant").fill_null("").str.to_lowercase().str.contains("thumbnail|trailer|preview|lower quality")
    media = keep(media, ~small, "media of lower quality", counts)
    kind, suffix = pl.col("format").str.to_lowercase(), pl.col("url").str.to_lowercase()
    told = pl.col("medium_type").str.to_lowercase().str.replace("^.*/", "").str.replace_all("[ _-]", "")
    media = media.with_columns(
        modality=pl.coalesce(
            kind.str.extract("^(audio|image|video)/"),
            pl.when(kind.str.starts_with("text/")).then(pl.lit("page")),
            kind.replace_strict(SUFFIXES, default=None, return_dtype=pl.String),
            told.replace_strict(KINDS, default=None, return_dtype=pl.String),
            suffix.str.extract(r"\.([a-z0-9]+)(?:[?#].*)?$").replace_strict(
                SUFFIXES, default=None, return_dtype=pl.String
            ),
        )
    )
    media = keep(media, pl.col("modality").is_not_null(), "media of a kind that is not said", counts)
    media = keep(media, pl.col("modality").is_in(["audio", "image"]), "media that are video or a page", counts)
    # sorted, so that which of two rows stays does not depend on their order
    media = media.sort("coreid", "url", "medium_licence", "holder", "creator", nulls_last=True)
    return keep(media, pl.struct("coreid", "url").is_first_distinct(), "media that occur again", counts)


def _describe(media: pl.DataFrame, path: Path, counts: Counter[str]) -> pl.DataFrame:
    """Add the columns of a record."""
    hashes = [hashlib.blake2b(url.encode(), digest_size=6).hexdigest() for url in media["url"]]
    source = pl.when(pl.col("gbifID").is_null()).then(pl.lit("dwca")).otherwise(pl.lit("gbif"))
    observation = pl.coalesce(
        pl.col("occurrenceID").str.extract(r"inaturalist\.org/observations/(\d+)$"),
        pl.when(pl.col("datasetKey") == INATURALIST).then(pl.col("catalogNumber").str.extract(r"^(\d+)$")),
    )
    pages = [pl.when(pl.col(name).str.contains("^https?://")).then(name) for name in ("medium_page", "references")]
    start = event_start(media["eventDate"])
    media = media.with_columns(
        pl.Series("hash", hashes, pl.String()),
        source.alias("source"),
        each(media["medium_licence"], normalise_licence).alias("licence"),
        instants(start, path),
        degrees("decimalLatitude", 90).alias("latitude_deg"),
        degrees("decimalLongitude", 180).alias("longitude_deg"),
        pl.coalesce(*pages, pl.concat_str(pl.lit("https://www.gbif.org/occurrence/"), "gbifID")).alias("page_url"),
        pl.coalesce("holder", "creator").alias("rights_holder"),
        pl.col("scientificName").alias("scientific_name"),
        pl.col("vernacularName").alias("given_common_name"),
        *(pl.col(rank).alias(f"given_{rank}") for rank in RANKS[:-1]),
        pl.concat_str(_remarks(), separator="; ", ignore_nulls=True).str.replace_all(r"\s+", " ").alias("remarks"),
    ).with_columns(
        pl.format("{}:{}:{}", "source", "coreid", "hash").alias("media_id"),
        pl.coalesce(pl.format("inat:{}", observation), pl.format("{}:{}", "source", "coreid")).alias("individual"),
    )
    count_gaps(media, counts)
    others = media.filter(~pl.col("basisOfRecord").str.to_uppercase().is_in(OBSERVATIONS))
    for basis, n in others["basisOfRecord"].value_counts().iter_rows():
        counts[f"media of {basis}"] += n
    return media


def degrees(name: str, limit: int) -> pl.Expr:
    """Read a column of text as degrees; what is none, or beyond the limit, is null."""
    given = pl.col(name).cast(pl.Float64, strict=False)
    return pl.when(given.is_between(-limit, limit)).then(given)


def _remarks() -> list[pl.Expr]:
    return [pl.format(f"{label}: {{}}", pl.when(pl.col(name) != "").then(name)) for label, name in REMARKS.items()]


def count_gaps(media: pl.DataFrame, counts: Counter[str]) -> None:
    """Count the media that lack what a record should say."""
    gaps = {
        "media without a known licence": pl.col("licence") == UNKNOWN,
        "media without a holder": pl.col("rights_holder").is_null(),
        "media without a name": pl.col("scientific_name").is_null(),
        "media without a day": pl.col("recorded_at").is_null(),
        "media without a place on the map": pl.col("latitude_deg").is_null() | pl.col("longitude_deg").is_null(),
    }
    for word, gap in gaps.items():
        counts[word] += len(media.filter(gap))


def event_start(column: pl.Series) -> pl.Series:
    """Find when an event began, as text that `record.instants` reads; null where it does not say the day.

    An interval gives its start. A year or a month alone has no day, and none is invented.
    """
    text = column.str.strip_chars().str.replace("/.*$", "").str.replace(" ?UTC$", "Z").str.replace(" ", "T")
    parts = text.str.extract_groups(_EVENT).struct
    date, time, second, utc, hour, minute = (
        parts.field(name) for name in ("date", "time", "second", "utc", "hour", "minute")
    )
    clock = pl.concat_str(
        pl.lit("T"),
        time,
        pl.coalesce(second, pl.lit(":00")),
        pl.coalesce(utc, pl.format("{}:{}", hour, minute), pl.lit("")),
    )
    started = pl.when(date.str.to_date("%Y-%m-%d", strict=False).is_not_null()).then(
        pl.concat_str(date, pl.coalesce(clock, pl.lit("")))
    )
    return pl.select(started.alias("recorded_at")).to_series()


def fetch(door: Door, query: str, folder: Path) -> list[Path]:
    """Save the answers to an occurrence search page by page; a page that is there is not asked for again.

    Args:
        door: the polite client.
        query: as in a URL (`taxonKey=212&country=DE`); without `mediaType`, occurrences with sounds or pictures.
        folder: for these pages alone.

    Returns:
        The pages, in order.

    Raises:
        ConfigError: the query is not written as in a URL.
        DatasetError: more occurrences match than the search can give, or the folder holds another query's answers.
        FetchError: the API refused, or answered something else than a page.
    """
    folder = Path(folder)
    pairs = parse_query(query, ("limit", "offset"))
    if "mediaType" not in dict(pairs):
        pairs += [("mediaType", name) for name in MEDIA_TYPES]
    claim(folder, SEARCH, pairs)
    pages: list[Path] = []
    while True:
        path = page_path(folder, len(pages) + 1)
        asked = [*pairs, ("limit", str(LIMIT)), ("offset", str(len(pages) * LIMIT))]
        page = fetch_page(door, SEARCH, asked, path)
        if page.get("count", 0) > MAX_OFFSET:
            raise DatasetError(
                f"query '{query}': {page['count']:,} occurrences match, and the search gives {MAX_OFFSET:,}; "
                "narrow it, or ask for a download (Darwin Core archive) at gbif.org and read that"
            )
        pages.append(path)
        if page.get("endOfRecords") is True:
            return pages
        if not page["results"]:
            raise FetchError(f"{path}: an empty page that is not the last; delete it and try again", kind="temporary")
