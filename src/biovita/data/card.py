"""The data card: for people (card.md), for machines (croissant.json), and the credit of every file (CREDITS.csv).

All three are functions of the tables, so they can be written again at any time and come out the same. They read only
the columns that they count, and the credits are streamed, so that millions of rows take seconds. `card.png`, which
card.md shows, is drawn by biovita.report.card_plots.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import polars as pl

from biovita.data.dataset import MEDIA_FOLDER, MEDIA_SCHEMA, QUARANTINE_SCHEMA, TAXA_SCHEMA, Dataset
from biovita.data.split import SPLITS
from biovita.files import atomic_path, sha256_file, write_json, write_text
from biovita.sources.licence import CC0, PUBLIC_DOMAIN, licence_family
from biovita.taxonomy.traits import TRAIT_GROUPS, TRAITS

CREDIT_COLUMNS = ("media_id", "path", "modality", "species", "rights_holder", "licence", "source", "url", "page_url")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run such a cell
COUNTED: Final = (
    *("modality", "source", "licence", "rights_holder", "recorded_at", "latitude_deg", "individual", "split", "class"),
    *("species", "duration_s", "sample_rate_hz", "width_px", "height_px"),
)
TALLIED: Final = ("split", "source", "licence", "class", "species", "modality")
N_LISTED: Final = 12  # lines of a table whose values are open; the rest is summed
LENGTHS_S: Final = (0, 1, 3, 10, 30, 60, 300, 7201)
SIDES_PX: Final = (0, 64, 224, 512, 1024, 2048, 4096, 30_001)


def write_card(dataset: Dataset) -> None:
    """Write the three files of the card from a dataset's tables, which lie in its folder."""
    media = pl.read_parquet(dataset.folder / "media.parquet", columns=list(COUNTED), glob=False)
    tally = media.group_by(TALLIED).agg(pl.len().alias("n"))
    write_text(dataset.folder / "card.md", card_markdown(dataset, media, tally))
    write_json(dataset.folder / "croissant.json", croissant(dataset, media, tally))
    write_credits(pl.scan_parquet(dataset.folder / "media.parquet", glob=False), dataset.folder / "CREDITS.csv")


def write_credits(media: pl.LazyFrame, path: Path) -> None:
    """Attribute every file: who holds it, under which licence, where it comes from; formulas are defused by a quote."""
    with atomic_path(path) as part:
        media.select(defused(pl.col(name)) for name in CREDIT_COLUMNS).sink_csv(part)


def defused(column: pl.Expr) -> pl.Expr:
    """Put a quote before text that a spreadsheet would take for a formula."""
    runs = pl.any_horizontal(column.str.starts_with(start) for start in FORMULA_STARTS)
    return pl.when(runs).then(pl.format("'{}", column)).otherwise(column).name.keep()


def card_markdown(dataset: Dataset, media: pl.DataFrame, tally: pl.DataFrame) -> str:
    """Compose the card for people: counts, distributions, licences, refusals, gaps.

    Args:
        dataset: its manifest, taxa and quarantine are read.
        media: the columns COUNTED of its media table.
        tally: its `n` files by TALLIED.
    """
    taxa, counts = dataset.taxa, dataset.manifest["counts"]
    audio = media.select("duration_s", "sample_rate_hz").filter(media["modality"] == "audio")
    image = media.select(_side()).filter(media["modality"] == "image")
    hours = audio["duration_s"].sum() / 3600
    name = dataset.folder.resolve().name
    lines = [f"# Data card: {name}", ""]
    if dataset.manifest["made_up"]:
        lines += ["**Made up: every species, sound and picture here comes from a generator. This is not biology.**", ""]
    lines += [
        f"{len(media):,} files of {len(taxa):,} species: {len(audio):,} recordings ({hours:,.2f} h) and {len(image):,} "
        f"pictures. {counts['quarantined']:,} of {counts['records']:,} records were refused.",
        "",
        f"![{name} in pictures: species, files, lengths, licences, refusals, traits, places](card.png)",
        "",
        "## Splits",
        *_table(
            ("split", "recordings", "pictures", "species"),
            sorted(_by(tally, "split"), key=lambda row: SPLITS.index(row[0])),
        ),
        f"Drawn with seed {dataset.manifest['seed']}. The {counts['withheld']:,} species of test_unseen are in no "
        f"other split. No file{', no near-duplicate' if 'near_duplicates' in counts else ''} and no individual is in "
        "two splits.",
        "",
        "## Classes",
        *_table(("class", "recordings", "hours", "pictures", "species", "with both"), _classes(media, tally)),
        "## Licences",
        *_table(("licence", "recordings", "pictures", "species"), _largest(_by(tally, "licence"))),
        _conditions(tally),
        "CREDITS.csv names the holder and the origin of every file.",
        "",
        "## Sources",
        *_table(("source", "recordings", "pictures", "species"), _largest(_by(tally, "source"))),
        "## Files a species",
        *_table(("kind", "species", "fewest", "lower quarter", "median", "upper quarter", "most"), _spread(tally)),
        "## Recordings",
        *_table(("seconds", "recordings"), _binned(audio["duration_s"], LENGTHS_S)),
        *_table(("sample rate", "recordings"), _counted(audio, "sample_rate_hz")),
        "## Pictures",
        *_table(("shorter side, px", "pictures"), _binned(image.to_series(), SIDES_PX)),
        "## Places and times",
        *_places(media),
        "",
        "## Traits",
        "Share of the labels that are known, by class and group of labels.",
        "",
        *_table(("class", "species", *(group.replace("_", " ") for group in TRAIT_GROUPS), "all"), _trait_rows(taxa)),
        "## Near-duplicates",
        *_near_duplicates(counts),
        "",
        "## Refused",
        *_table(("reason", "records"), _counted(dataset.quarantine, "reason")),
        "quarantine.parquet holds one row for each, with what was seen.",
        "",
        *_names_refused(dataset.quarantine),
        "## Known gaps",
        *(f"- {gap}" for gap in _gaps(media, tally, taxa)),
        "",
    ]
    return "\n".join(lines)


def croissant(dataset: Dataset, media: pl.DataFrame, tally: pl.DataFrame) -> dict[str, Any]:
    """Describe the dataset as Croissant 1.0 (JSON-LD): the tables with their hashes, the media, every column.

    `datePublished` is left out, since a build has none: add it where the dataset is published.

    Args:
        dataset: its tables are hashed.
        media: the columns COUNTED of its media table.
        tally: its `n` files by TALLIED.
    """
    tables = {"media.parquet": MEDIA_SCHEMA, "taxa.parquet": TAXA_SCHEMA, "quarantine.parquet": QUARANTINE_SCHEMA}
    return {
        "@context": CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": dataset.folder.resolve().name,
        "description": f"{len(media):,} sounds and pictures of {len(dataset.taxa):,} species with their lineage, for "
        "contrastive training and retrieval."
        + (" Made up by a generator; not biology." if dataset.manifest["made_up"] else ""),
        "version": f"{dataset.manifest['schema']}.0.0",
        "citeAs": "Credit each source and rights holder as CREDITS.csv names them.",
        "license": [licence_url(licence) for licence in tally["licence"].unique().sort()],
        **_responsibility(dataset, media, tally),
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
                "description": "Sounds and pictures; `media/path` names each, `media/sha256` proves it.",
                "encodingFormat": ["audio/*", "image/*"],
                "includes": f"{MEDIA_FOLDER}/*/*",
            },
        ],
        "recordSet": [_record_set(name, schema) for name, schema in tables.items()],
    }


KEYS: Final = {"media": "media_id", "taxa": "species", "quarantine": "media_id"}


def _record_set(name: str, schema: dict[str, pl.DataType]) -> dict[str, Any]:
    table = name.removesuffix(".parquet")
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "key": {"@id": f"{table}/{KEYS[table]}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{table}/{column}",
                "name": column,
                "dataType": _croissant_type(dtype),
                "source": {"fileObject": {"@id": name}, "extract": {"column": column}},
            }
            for column, dtype in schema.items()
        ],
    }


def _responsibility(dataset: Dataset, media: pl.DataFrame, tally: pl.DataFrame) -> dict[str, Any]:
    """State what the responsible-AI extension of Croissant asks and the tables can answer."""
    made_up, years = dataset.manifest["made_up"], _years(media)
    collected = (
        "Drawn by a generator." if made_up else f"Public sources: {', '.join(sorted(tally['source'].unique()))}."
    )
    frame = {"rai:dataCollectionTimeFrame": [f"{years[0]}-01-01", f"{years[1]}-12-31"]} if years else {}
    return {
        "rai:dataCollection": f"{collected} Each medium keeps its source, page, licence and holder.",
        "rai:dataCollectionType": ["Synthetic data" if made_up else "Secondary data analysis"],
        "rai:dataCollectionMissingData": " ".join(_gaps(media, tally, dataset.taxa)),
        **frame,
        "rai:dataPreprocessingProtocol": [
            "Names are resolved to accepted species; a name that cannot be is refused with the reason.",
            "Every file is decoded in a limited process before it is taken; the originals are kept as they came.",
        ],
        "rai:dataBiases": _biases(tally),
        "rai:dataUseCases": ["Training and evaluation of models that relate the sound, picture and name of animals."],
        "rai:dataLimitations": ["Species are those that the sources state; they were not identified again."],
        "rai:personalSensitiveInformation": [
            "Names of rights holders, because licences ask for credit; places and times of observations, as precise as "
            "the source publishes them. Recordings may hold voices."
        ]
        if not made_up
        else ["None: holders and places are made up."],
    }


def _biases(tally: pl.DataFrame) -> list[str]:
    n_files = int(tally["n"].sum())
    by_class = tally.group_by("class").agg(pl.col("n").sum()).sort(["n", "class"], descending=[True, False])
    per_species = tally.group_by("species").agg(pl.col("n").sum())["n"].sort(descending=True)
    top = int(per_species.head(max(1, len(per_species) // 10)).sum())
    return [
        f"{by_class['class'][0]} hold {by_class['n'][0] / n_files:.0%} of the files.",
        f"The tenth of the species with the most files holds {top / n_files:.0%} of them.",
    ]


def _by(tally: pl.DataFrame, column: str) -> list[tuple[Any, ...]]:
    """Count recordings, pictures and species by a column."""
    return list(
        tally.group_by(column)
        .agg(_n("audio"), _n("image"), pl.col("species").n_unique())
        .sort(column, nulls_last=True)
        .iter_rows()
    )


def _n(modality: str) -> pl.Expr:
    return pl.col("n").filter(pl.col("modality") == modality).sum().alias(modality)


def _classes(media: pl.DataFrame, tally: pl.DataFrame) -> list[tuple[Any, ...]]:
    both = (
        tally.group_by("class", "species")
        .agg((pl.col("modality").n_unique() == 2).alias("both"))
        .group_by("class")
        .agg(pl.len().alias("species"), pl.col("both").sum())
    )
    hours = media.group_by("class").agg((pl.col("duration_s").sum() / 3600).alias("hours"))
    files = tally.group_by("class").agg(_n("audio"), _n("image")).join(hours, on="class", nulls_equal=True)
    rows = files.join(both, on="class", nulls_equal=True).sort("class", nulls_last=True)
    rows = rows.select("class", "audio", "hours", "image", "species", "both")
    return [(name, audio, f"{hours:,.2f}", *rest) for name, audio, hours, *rest in rows.iter_rows()]


def _largest(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=lambda row: (-row[1] - row[2], str(row[0])))


def _spread(tally: pl.DataFrame) -> Iterable[tuple[Any, ...]]:
    for label, rows in (
        ("files", tally),
        ("recordings", tally.filter(pl.col("modality") == "audio")),
        ("pictures", tally.filter(pl.col("modality") == "image")),
    ):
        if len(rows):
            n = rows.group_by("species").agg(pl.col("n").sum())["n"]
            at = (int(n.quantile(share, "lower") or 0) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
            yield (label, len(n), *at)


def _side() -> pl.Expr:
    return pl.min_horizontal("width_px", "height_px")


def _places(media: pl.DataFrame) -> list[str]:
    placed = len(media) - media["latitude_deg"].null_count()
    timed, years = len(media) - media["recorded_at"].null_count(), _years(media)
    span = f", from {years[0]} to {years[1]}" if years else ""
    return [f"{placed:,} files have a place and {timed:,} a time{span}."]


def _years(media: pl.DataFrame) -> tuple[int, int] | None:
    """Find the first and the last year; None where no time is known."""
    first, last = media.select(
        pl.col("recorded_at").min().dt.year().alias("first"), pl.col("recorded_at").max().dt.year().alias("last")
    ).row(0)
    return None if first is None else (first, last)


def trait_coverage(taxa: pl.DataFrame) -> pl.DataFrame:
    """Share the labels that are known: one row a class with `species`, one column a group of labels, and `all`."""
    groups = {**TRAIT_GROUPS, "all": TRAITS}
    known = [
        pl.mean_horizontal(pl.col(t).is_not_null().mean() for t in traits).alias(g) for g, traits in groups.items()
    ]
    return taxa.group_by("class").agg(pl.len().alias("species"), *known).sort("class", nulls_last=True)


def _trait_rows(taxa: pl.DataFrame) -> Iterable[tuple[Any, ...]]:
    for name, n_species, *shares in trait_coverage(taxa).iter_rows():
        yield (name, n_species, *(f"{share:.0%}" for share in shares))


def _near_duplicates(counts: dict[str, Any]) -> list[str]:
    if "near_duplicates" not in counts:
        return ["Not looked for: copies that were re-encoded, cut or resized count as files of their own."]
    return [
        f"{counts['near_duplicates']:,} files in {counts['groups']:,} groups sound or look almost alike, as their "
        "fingerprints tell. They are kept; a group is wholly in one split."
    ]


def _names_refused(quarantine: pl.DataFrame) -> list[str]:
    refused = quarantine.filter(pl.col("reason") == "name_unresolved")
    if not len(refused):
        return []
    return [
        "## Names refused",
        f"Names that could not be resolved: {refused['detail'].n_unique():,}.",
        "",
        *_table(("why", "records"), _counted(refused, "detail")),
    ]


def _conditions(tally: pl.DataFrame) -> str:
    families = tally["licence"].replace_strict({name: licence_family(name) for name in tally["licence"].unique()})
    parts = families.str.split("-")
    n_files = int(tally["n"].sum())
    nc, nd, sa = (
        _percent(int(tally["n"].filter(parts.list.contains(word)).sum()) / n_files) for word in ("nc", "nd", "sa")
    )
    return f"{nc} of the files exclude commercial use, {sa} ask for the same licence, {nd} allow no changed copies."


def _gaps(media: pl.DataFrame, tally: pl.DataFrame, taxa: pl.DataFrame) -> list[str]:
    n_species = len(taxa)
    has = {name: tally.filter(pl.col("modality") == name)["species"].n_unique() for name in ("audio", "image")}
    single = tally.group_by("species").agg(pl.col("n").sum()).filter(pl.col("n") == 1)
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
        *(f"{_percent(share)} of the files have no `{column}`." for column, share in missing.items() if share),
    ]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share == 0 or share >= 0.005 else "less than 1%"


def _binned(values: pl.Series, edges: tuple[int, ...]) -> Iterable[tuple[str, int]]:
    """Count values between edges, the upper one excluded; empty bins are left out."""
    for low, high in pairwise(edges):
        n = int(values.is_between(low, high, closed="left").sum())
        if n:
            yield (f"{low:,} to {high:,}" if high != edges[-1] else f"{low:,} and more"), n


def _counted(table: pl.DataFrame, column: str) -> list[tuple[Any, int]]:
    """Count the values of a column, the most frequent first; beyond N_LISTED they are one line."""
    rows = list(table[column].value_counts().sort(["count", column], descending=[True, False]).iter_rows())
    rest = rows[N_LISTED:]
    return [*rows[:N_LISTED], *([(f"{len(rest):,} more", sum(n for _, n in rest))] if rest else [])]


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    def line(cells: Iterable[Any]) -> str:
        shown = (f"{cell:,}" if isinstance(cell, int) else " ".join(str(cell).split()) for cell in cells)
        return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in shown) + " |"

    body = [line(row) for row in rows]
    return [line(head), "|" + " --- |" * len(head), *body, ""] if body else ["none", ""]


def licence_url(licence: str) -> str:
    """Find the page that states a licence: Creative Commons' own, or for one without a stated version its overview."""
    if licence == CC0:
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    if licence == PUBLIC_DOMAIN:
        return "https://creativecommons.org/publicdomain/mark/1.0/"
    if not licence.startswith("CC-"):
        return "https://creativecommons.org/share-your-work/cclicenses/" if "-CC-" in licence else licence
    family, version = licence.removeprefix("CC-").rsplit("-", 1)
    return f"https://creativecommons.org/licenses/{family.lower()}/{version}/"


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
    "equivalentProperty": "cr:equivalentProperty",
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
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
