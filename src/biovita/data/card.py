"""The data card: for people (card.md), for machines (croissant.json), and the credit of every file (CREDITS.csv).

All three are functions of the tables, so they can be written again at any time and come out the same.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import polars as pl

from biovita.data.dataset import MEDIA_FOLDER, MEDIA_SCHEMA, TAXA_SCHEMA, Dataset
from biovita.data.split import SPLITS
from biovita.files import sha256_file, write_json, write_text
from biovita.sources.licence import PUBLIC_DOMAIN
from biovita.taxonomy.traits import TRAITS

CREDIT_COLUMNS = ("media_id", "path", "modality", "species", "rights_holder", "licence", "source", "url", "page_url")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run such a cell


def write_card(dataset: Dataset) -> None:
    """Write the three files of the card from a dataset's tables."""
    write_text(dataset.folder / "card.md", card_markdown(dataset))
    write_json(dataset.folder / "croissant.json", croissant(dataset))
    write_text(dataset.folder / "CREDITS.csv", credits_csv(dataset.media))


def credits_csv(media: pl.DataFrame) -> str:
    """Attribute every file: who holds it, under which licence, where it comes from; formulas are defused by a quote."""
    return media.select(defused(pl.col(name)) for name in CREDIT_COLUMNS).write_csv()


def defused(column: pl.Expr) -> pl.Expr:
    """Put a quote before text that a spreadsheet would take for a formula."""
    runs = pl.any_horizontal(column.str.starts_with(start) for start in FORMULA_STARTS)
    return pl.when(runs).then(pl.format("'{}", column)).otherwise(column).name.keep()


def card_markdown(dataset: Dataset) -> str:
    """Compose the card for people: counts, licences, refusals, gaps."""
    media, taxa, counts = dataset.media, dataset.taxa, dataset.manifest["counts"]
    audio, image = (media.filter(pl.col("modality") == name) for name in ("audio", "image"))
    hours = audio["duration_s"].sum() / 3600
    lines = [f"# Data card: {dataset.folder.resolve().name}", ""]
    if dataset.manifest["made_up"]:
        lines += ["**Made up: every species, sound and picture here comes from a generator. This is not biology.**", ""]
    lines += [
        f"{len(media):,} files of {len(taxa):,} species: {len(audio):,} recordings ({hours:,.2f} h) and {len(image):,} "
        f"pictures. {counts['quarantined']:,} of {counts['records']:,} records were refused.",
        "",
        "## Splits",
        *_table(
            ("split", "recordings", "pictures", "species"),
            (
                (
                    name,
                    len(audio.filter(pl.col("split") == name)),
                    len(image.filter(pl.col("split") == name)),
                    media.filter(pl.col("split") == name)["species"].n_unique(),
                )
                for name in SPLITS
            ),
        ),
        f"Drawn with seed {dataset.manifest['seed']}. The {counts['withheld']:,} species of test_unseen are in no "
        "other split. No file and no individual is in two splits.",
        "",
        "## Classes",
        *_table(
            ("class", "species", "recordings", "pictures"),
            media.group_by("class")
            .agg(
                pl.col("species").n_unique(),
                (pl.col("modality") == "audio").sum().alias("audio"),
                (pl.col("modality") == "image").sum().alias("image"),
            )
            .sort("class")
            .iter_rows(),
        ),
        "## Licences",
        *_table(("licence", "files"), _counted(media, "licence")),
        "CREDITS.csv names the holder and the origin of every file.",
        "",
        "## Sources",
        *_table(("source", "files"), _counted(media, "source")),
        "## Recordings",
        *_table(("seconds", "recordings"), _lengths(audio)),
        *_table(("sample rate", "recordings"), _counted(audio, "sample_rate_hz")),
        "## Refused",
        *_table(("reason", "records"), _counted(dataset.quarantine, "reason")),
        "quarantine.parquet holds one row for each, with what was seen.",
        "",
        "## Known gaps",
        *(f"- {gap}" for gap in _gaps(media, taxa)),
        "",
    ]
    return "\n".join(lines)


def croissant(dataset: Dataset) -> dict[str, Any]:
    """Describe the dataset as Croissant 1.0 (JSON-LD): the tables with their hashes, the media, every column."""
    media = dataset.media
    tables = {"media.parquet": MEDIA_SCHEMA, "taxa.parquet": TAXA_SCHEMA}
    return {
        "@context": CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": dataset.folder.resolve().name,
        "description": f"{len(media):,} sounds and pictures of {len(dataset.taxa):,} species with their lineage, for "
        "contrastive training and retrieval."
        + (" Made up by a generator; not biology." if dataset.manifest["made_up"] else ""),
        "license": [_licence_url(licence) for licence in media["licence"].unique().sort()],
        "distribution": [
            *(
                {
                    "@type": "cr:FileObject",
                    "@id": name,
                    "name": name,
                    "contentUrl": name,
                    "encodingFormat": "application/x-parquet",
                    "sha256": sha256_file(dataset.folder / name),
                }
                for name in tables
            ),
            {
                "@type": "cr:FileSet",
                "@id": "media-files",
                "name": "media-files",
                "encodingFormat": ["audio/*", "image/*"],
                "includes": f"{MEDIA_FOLDER}/*/*",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": name.removesuffix(".parquet"),
                "name": name.removesuffix(".parquet"),
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"{name.removesuffix('.parquet')}/{column}",
                        "name": column,
                        "dataType": _croissant_type(dtype),
                        "source": {"fileObject": {"@id": name}, "extract": {"column": column}},
                    }
                    for column, dtype in schema.items()
                ],
            }
            for name, schema in tables.items()
        ],
    }


def _gaps(media: pl.DataFrame, taxa: pl.DataFrame) -> list[str]:
    n_species = len(taxa)
    has = {name: media.filter(pl.col("modality") == name)["species"].n_unique() for name in ("audio", "image")}
    single = media.group_by("species").len().filter(pl.col("len") == 1)
    known_traits = 1 - sum(taxa[name].null_count() for name in TRAITS) / (len(TRAITS) * n_species)
    missing = {
        column: media[column].null_count() / len(media)
        for column in ("rights_holder", "recorded_at", "latitude_deg", "individual")
    }
    return [
        f"{n_species - has['audio']:,} species have no recording, {n_species - has['image']:,} have no picture, "
        f"{len(single):,} have a single file.",
        f"{(taxa['common_name'] == '').sum():,} species have no common name.",
        f"{known_traits:.0%} of the trait labels are known.",
        *(f"{share:.0%} of the files have no `{column}`." for column, share in missing.items() if share),
        "Copies that were re-encoded, cut or resized are not looked for: only equal bytes count as a duplicate.",
    ]


def _lengths(audio: pl.DataFrame) -> Iterable[tuple[str, int]]:
    edges = (0, 1, 3, 10, 30, 60, 300, 7201)
    for low, high in pairwise(edges):
        n = len(audio.filter(pl.col("duration_s").is_between(low, high, closed="left")))
        if n:
            yield f"{low} to {high}", n


def _counted(table: pl.DataFrame, column: str) -> list[tuple[Any, int]]:
    counts = table[column].value_counts()
    return list(counts.sort(["count", column], descending=[True, False]).iter_rows())


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    def line(cells: Iterable[Any]) -> str:
        shown = (f"{cell:,}" if isinstance(cell, int) else " ".join(str(cell).split()) for cell in cells)
        return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in shown) + " |"

    body = [line(row) for row in rows]
    return [line(head), "|" + " --- |" * len(head), *body, ""] if body else ["none", ""]


def _licence_url(licence: str) -> str:
    if licence == PUBLIC_DOMAIN:
        return "https://creativecommons.org/publicdomain/mark/1.0/"
    return licence if licence.startswith("LicenseRef-") else f"https://spdx.org/licenses/{licence}.html"


def _croissant_type(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "sc:Integer"
    if dtype.is_float():
        return "sc:Float"
    if dtype.is_temporal():
        return "sc:DateTime"
    return "sc:Boolean" if dtype == pl.Boolean else "sc:Text"


CROISSANT_CONTEXT = {  # as the Croissant 1.0 specification gives it
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
