"""Xeno-canto, API v3: recordings of birds, bats, frogs, grasshoppers and land mammals.

`fetch` saves the pages of one query, `read` reads them (or what an older client saved from API v2). What to know:

- Xeno-canto gives local dates and times without a zone. `recorded_at` is midnight UTC of the local date, as for every
  bare date (`record.instants`); the time as written stands in the remarks, so nobody takes it for UTC.
- Recordings of one species by one recordist on one day at one place are one occasion, often of one animal, so they
  share an `individual`. A recording that lacks any of these stands alone.
- Recordings of species under threat have no file; they are counted and left out.
- "Mystery mystery" and "Sonus naturalis" (soundscapes) are names of Xeno-canto for what has none; they are left as
  given, and name resolution refuses them.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from biovita.errors import ConfigError, DatasetError, FetchError
from biovita.files import read_json, write_bytes
from biovita.sources.licence import normalise_licence
from biovita.sources.pages import Door, as_text, claim, iter_saved, page_path
from biovita.sources.record import Reading, as_records, each
from biovita.taxonomy.taxon import normal_name

HOSTS: Final = ("xeno-canto.org", "www.xeno-canto.org")
API: Final = "https://xeno-canto.org/api/3/recordings"
KEY_VARIABLE: Final = "XENO_CANTO_KEY"
PER_PAGE: Final = 500  # the most that the API gives; 50 is the least
SOURCE: Final = "xc"

GROUPS: Final[dict[str, dict[str, str]]] = {  # what a group says about the lineage of its names
    "birds": {"given_class": "Aves"},
    "grasshoppers": {"given_class": "Insecta", "given_order": "Orthoptera"},
    "bats": {"given_class": "Mammalia", "given_order": "Chiroptera"},
    "frogs": {"given_class": "Amphibia", "given_order": "Anura"},
    "land mammals": {"given_class": "Mammalia"},
    "soundscape": {},
}
QUALITIES: Final = tuple("ABCDE")
PLACE_DECIMALS: Final = 2  # of a degree, about a kilometre: the width of one place
REMARKS: Final = {  # label in the remarks: field of the API; the free text comes last
    "type": "type",
    "sex": "sex",
    "stage": "stage",
    "method": "method",
    "background": "also",
    "animal seen": "animal-seen",
    "playback used": "playback-used",
    "recorded": "local",
    "locality": "loc",
    "country": "cnt",
    "altitude m": "alt",
    "temperature C": "temp",
    "automatic": "auto",
    "device": "dvc",
    "microphone": "mic",
    "specimen": "regnr",
    "file name": "file-name",
    "remarks": "rmk",
}
_FIELDS = (
    *("id", "gen", "sp", "ssp", "grp", "en", "rec", "cnt", "loc", "lat", "lon", "lng", "alt", "type", "sex", "stage"),
    *("method", "url", "file", "file-name", "lic", "q", "date", "time", "also", "rmk", "animal-seen", "playback-used"),
    *("temp", "regnr", "auto", "dvc", "mic"),
)


def read_key(environment: Mapping[str, str] = os.environ) -> str:
    """Take the API key from the environment.

    Raises:
        ConfigError: there is none.
    """
    key = environment.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ConfigError(
            f"{KEY_VARIABLE} is not set: Xeno-canto's API needs a key; register at xeno-canto.org, verify your e-mail, "
            f"copy the key from your account page and run `export {KEY_VARIABLE}=...`"
        )
    return key


def fetch(door: Door, query: str, folder: Path, key: str) -> list[Path]:
    """Save the answers to a query page by page; a page that is there is not asked for again.

    Args:
        door: the polite client.
        query: in Xeno-canto's own language (`gen:Turdus sp:merula q:A`), passed on unchanged.
        folder: for these pages alone.
        key: of the API; it gets into no file and no message.

    Returns:
        The pages, in order.

    Raises:
        DatasetError: the folder holds the answers to another query.
        FetchError: the API refused, or answered something else than recordings.
    """
    folder = Path(folder)
    claim(folder, API, [("query", query), ("per_page", str(PER_PAGE))])
    pages: list[Path] = []
    n_pages = 1
    while len(pages) < n_pages:
        number = len(pages) + 1
        path = page_path(folder, number)
        if not path.is_file():
            write_bytes(path, _ask(door, query, number, key))
        n_pages = int(read_json(path)["numPages"])
        pages.append(path)
    return pages


def _ask(door: Door, query: str, number: int, key: str) -> bytes:
    """Get one page and make sure that it is one; what is said and kept holds the key nowhere."""
    params = {"query": query, "page": str(number), "per_page": str(PER_PAGE), "key": key}
    try:
        body = door.get(API, params=params)
    except FetchError as error:
        error.args = (_without(str(error), key),)
        raise error from None
    text = _without(body.decode(errors="replace"), key)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = text
    if not (isinstance(answer, dict) and isinstance(answer.get("recordings"), list) and _is_count(answer)):
        said = " ".join(str(_said(answer)).split())[:200]
        raise FetchError(f"{API}: '{query}' page {number}: no recordings in the answer: {said}", kind="permanent")
    return text.encode()


def _without(text: str, key: str) -> str:
    return text.replace(key, "***") if key else text


def _is_count(answer: Mapping[str, Any]) -> bool:
    return str(answer.get("numPages", "")).isdecimal()


def _said(answer: Any) -> Any:
    """Find what an error answer says: `error` is a word or an object, `message` a sentence."""
    if not isinstance(answer, dict):
        return answer
    error = answer.get("error")
    parts = [*error.values()] if isinstance(error, dict) else [error]
    return ": ".join(str(part) for part in (*parts, answer.get("message")) if part) or answer


def read(path: Path) -> Reading:
    """Read a saved page, a folder of pages, or one JSON file with all recordings or all pages.

    Raises:
        DatasetError: there is no page, or a file holds something else.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    frames = [_frame(recordings) for recordings in _pages(path, counts)]
    table = pl.concat(frames) if frames else _frame([])
    counts["recordings"] = len(table)
    table = _drop(table, pl.col("id") == "", "recordings without an id", counts)
    table = _drop(table, ~pl.col("id").is_first_distinct(), "recordings that occur again", counts)
    table = _drop(table, pl.col("file") == "", "recordings without a file (restricted species)", counts)
    odd = table.filter((pl.col("grp") != "") & ~pl.col("grp").is_in(list(GROUPS)))
    for group, n in sorted(odd["grp"].value_counts().iter_rows()):
        counts[f"recordings of group '{group}', which is not known here"] = n
    table = table.with_columns(
        name=pl.concat_str("gen", "sp", "ssp", separator=" ").str.strip_chars(),
        day=pl.col("date").str.to_date("%Y-%m-%d", strict=False),
        latitude_deg=_degrees(pl.col("lat"), 90),
        longitude_deg=_degrees(pl.when(pl.col("lon") != "").then("lon").otherwise("lng"), 180),
        local=pl.concat_str("date", "time", pl.lit("local time"), separator=" "),
    ).with_columns(local=pl.when((pl.col("date") != "") | (pl.col("time") != "")).then("local").otherwise(pl.lit("")))
    counts["recordings with an incomplete date"] = table["day"].null_count()
    counts["recordings without a place on the map"] = len(
        table.filter(pl.col("latitude_deg").is_null() | pl.col("longitude_deg").is_null())
    )
    hints = [
        pl.col("grp").replace_strict({g: h.get(rank) for g, h in GROUPS.items()}, default=None, return_dtype=pl.String)
        for rank in ("given_class", "given_order")
    ]
    records = table.select(
        pl.concat_str(pl.lit(f"{SOURCE}:"), "id").alias("media_id"),
        pl.lit("audio").alias("modality"),
        pl.lit(SOURCE).alias("source"),
        _https("file").alias("url"),
        _https("url").alias("page_url"),
        pl.col("name").alias("scientific_name"),
        each(table["lic"], normalise_licence).alias("licence"),
        pl.col("rec").alias("rights_holder"),
        pl.col("day").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("recorded_at"),
        "latitude_deg",
        "longitude_deg",
        pl.when(pl.col("q").is_in(QUALITIES)).then("q").alias("quality"),
        _occasion(table).alias("individual"),
        _remarks().alias("remarks"),
        pl.col("en").alias("given_common_name"),
        hints[0].alias("given_class"),
        hints[1].alias("given_order"),
    )
    counts["records"] = len(records)
    return Reading(records=as_records(records, path), counts=+counts)


def _pages(path: Path, counts: Counter[str]) -> Iterator[list[Any]]:
    """Yield the recordings of each page; count the pages that the answer has but the folder lacks."""
    n_files = n_pages = 0
    for file, answer in iter_saved(path):
        yield from _recordings(answer, file)
        n_files += 1
        n_pages = int(answer["numPages"]) if isinstance(answer, dict) and _is_count(answer) else 0
    if path.is_dir():
        counts["pages not fetched yet"] = max(0, n_pages - n_files)


def _recordings(answer: Any, path: Path) -> Iterator[list[Any]]:
    pages = answer if isinstance(answer, list) else [answer]
    if isinstance(answer, list) and all(isinstance(item, dict) and "gen" in item for item in answer):
        pages = [{"recordings": answer}]
    if all(_is_page(page) for page in pages):
        yield from (page["recordings"] for page in pages)
    else:
        said = " ".join(str(_said(answer)).split())[:200]
        raise DatasetError(f"{path}: no recordings of Xeno-canto in it: {said}")


def _is_page(page: Any) -> bool:
    recordings = page.get("recordings") if isinstance(page, dict) else None
    return isinstance(recordings, list) and all(isinstance(recording, dict) for recording in recordings)


def _frame(recordings: list[Any]) -> pl.DataFrame:
    """Bring recordings to one table of text; null, absent and blank are empty."""
    rows = [[_text(recording.get(field)) for field in _FIELDS] for recording in recordings]
    return pl.DataFrame(rows, dict.fromkeys(_FIELDS, pl.String), orient="row")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(text for text in map(_text, value) if text)
    return normal_name(as_text(value))


def _drop(table: pl.DataFrame, condition: pl.Expr, word: str, counts: Counter[str]) -> pl.DataFrame:
    kept = table.filter(~condition)
    counts[word] = len(table) - len(kept)
    return kept


def _degrees(text: pl.Expr, limit: int) -> pl.Expr:
    value = text.cast(pl.Float64, strict=False)
    return pl.when(value.abs() <= limit).then(value)


def _https(name: str) -> pl.Expr:
    return pl.col(name).str.replace("^//", "https://")


def _remarks() -> pl.Expr:
    parts = [
        pl.when(pl.col(field) != "").then(pl.concat_str(pl.lit(f"{label}: "), field))
        for label, field in REMARKS.items()
    ]
    return pl.concat_str(parts, separator="; ", ignore_nulls=True)


def _occasion(table: pl.DataFrame) -> pl.Series:
    """Name the occasion of each recording by a hash of species, recordist, day and place; null where one is unknown."""
    point = pl.concat_str(
        # adding nothing turns -0.0 into 0.0
        *((pl.col(name).round(PLACE_DECIMALS) + 0.0).cast(pl.String) for name in ("latitude_deg", "longitude_deg")),
        separator=",",
    )
    place = pl.coalesce(point, pl.when(pl.col("loc") != "").then(pl.col("loc").str.to_lowercase()))
    known = (pl.col("gen") != "") & (pl.col("sp") != "") & (pl.col("rec") != "")
    facts = pl.concat_str("gen", "sp", pl.col("rec").str.to_lowercase(), "day", place, separator="\n")
    keys = table.select(pl.when(known).then(facts).alias("individual"))["individual"]
    return each(keys, lambda key: key and f"{SOURCE}:{hashlib.sha256(key.encode()).hexdigest()[:16]}")
