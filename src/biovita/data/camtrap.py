"""A field collection as Camtrap DP 1.0.2: deployments.csv, media.csv, observations.csv and datapackage.json.

The table schemas and the profile are written into the package, under `camtrap-dp/1.0.2/`, so that it can be validated
without a network, and so that readers which look for the version in these paths find it. With `acoustic`, the terms of
the bioacoustics pilot replace those of cameras; that is a proposal of August 2025 over version 1.0.1, no standard yet.

What we hold is records of media, not of surveys. A deployment is one source, one holder and one place (coordinates to
four decimals, about 11 m); it starts with its first medium and ends with its last, which says nothing about effort.
A medium without place or time belongs to no deployment: it is left out, counted and listed.

A licence of Camtrap DP is one for all media of a package, so there is a package a licence.

Source: Camtrap DP 1.0.2 (tdwg/camtrap-dp); acoustic terms as in camera-traps/bioacoustics.
"""

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from biovita.data.card import defused, licence_url, write_credits
from biovita.data.dataset import Dataset
from biovita.data.export import MEDIA_TYPES, claim, identity, read_medium
from biovita.errors import DatasetError
from biovita.files import atomic_path, sha256_file, write_json, write_manifest
from biovita.log import Progress
from biovita.taxonomy.rank import RANKS

DECIMALS: Final = 4
TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
URL: Final = r"^https?://[^.~](?:[^.]|\.[^.])*$"  # Camtrap DP forbids `..` in a path
REVISIONS: Final = {False: "camtrap-dp/1.0.2", True: "camtrap-dp/1.0.1/bioacoustics-2025-08"}

Schema = dict[str, dict[str, Any]]


def _text(*words: str, required: bool = False, unique: bool = False, pattern: str | None = None) -> dict[str, Any]:
    rules: dict[str, Any] = {"required": required} | ({"unique": True} if unique else {})
    rules |= ({"enum": list(words)} if words else {}) | ({"pattern": pattern} if pattern else {})
    return {"type": "string", "constraints": rules}


def _number(
    low: float | None = None, high: float | None = None, *, required: bool = False, whole: bool = False
) -> dict[str, Any]:
    rules: dict[str, Any] = {"required": required} | ({} if low is None else {"minimum": low})
    return {
        "type": "integer" if whole else "number",
        "constraints": rules | ({} if high is None else {"maximum": high}),
    }


def _flag(*, required: bool = False) -> dict[str, Any]:
    return {"type": "boolean", "constraints": {"required": required}}


def _time(*, required: bool = False) -> dict[str, Any]:
    return {"type": "datetime", "format": "%Y-%m-%dT%H:%M:%S%z", "constraints": {"required": required}}


DEPLOYMENTS: Final[Schema] = {
    "deploymentID": _text(required=True, unique=True),
    "locationID": _text(),
    "locationName": _text(),
    "latitude": _number(-90, 90, required=True),
    "longitude": _number(-180, 180, required=True),
    "coordinateUncertainty": _number(1, whole=True),
    "deploymentStart": _time(required=True),
    "deploymentEnd": _time(required=True),
    "setupBy": _text(),
    "cameraID": _text(),
    "cameraModel": _text(),
    "cameraDelay": _number(0, whole=True),
    "cameraHeight": _number(0),
    "cameraDepth": _number(0),
    "cameraTilt": _number(-90, 90, whole=True),
    "cameraHeading": _number(0, 360, whole=True),
    "detectionDistance": _number(0),
    "timestampIssues": _flag(),
    "baitUse": _flag(),
    "featureType": _text(
        *("roadPaved", "roadDirt", "trailHiking", "trailGame", "roadUnderpass", "roadOverpass", "roadBridge"),
        *("culvert", "burrow", "nestSite", "carcass", "waterSource", "fruitingTree"),
    ),
    "habitat": _text(),
    "deploymentGroups": _text(),
    "deploymentTags": _text(),
    "deploymentComments": _text(),
}
MEDIA: Final[Schema] = {
    "mediaID": _text(required=True, unique=True),
    "deploymentID": _text(required=True),
    "captureMethod": _text("activityDetection", "timeLapse"),
    "timestamp": _time(required=True),
    "filePath": _text(required=True, pattern=r"^(?=^[^./~])(^((?!\.{2}).)*$).*$"),
    "filePublic": _flag(required=True),
    "fileName": _text(),
    "fileMediatype": _text(required=True, pattern="^(image|video|audio)/.*$"),
    "exifData": {"type": "object", "constraints": {"required": False}},
    "favorite": _flag(),
    "mediaComments": _text(),
}
OBSERVATIONS: Final[Schema] = {
    "observationID": _text(required=True, unique=True),
    "deploymentID": _text(required=True),
    "mediaID": _text(),
    "eventID": _text(),
    "eventStart": _time(required=True),
    "eventEnd": _time(required=True),
    "observationLevel": _text("media", "event", required=True),
    "observationType": _text("animal", "human", "vehicle", "blank", "unknown", "unclassified", required=True),
    "cameraSetupType": _text("setup", "calibration"),
    "scientificName": _text(),
    "count": _number(1, whole=True),
    "lifeStage": _text("adult", "subadult", "juvenile"),
    "sex": _text("female", "male"),
    "behavior": _text(),
    "individualID": _text(),
    "individualPositionRadius": _number(0),
    "individualPositionAngle": _number(-90, 90),
    "individualSpeed": _number(0),
    "bboxX": _number(0, 1),
    "bboxY": _number(0, 1),
    "bboxWidth": _number(1e-15, 1),
    "bboxHeight": _number(1e-15, 1),
    "classificationMethod": _text("human", "machine"),
    "classifiedBy": _text(),
    "classificationTimestamp": _time(),
    "classificationProbability": _number(0, 1),
    "observationTags": _text(),
    "observationComments": _text(),
}
TABLES: Final = {"deployments": DEPLOYMENTS, "media": MEDIA, "observations": OBSERVATIONS}
KEYS: Final = {"deployments": "deploymentID", "media": "mediaID", "observations": "observationID"}
LINKS: Final = {"deployments": (), "media": ("deployments",), "observations": ("deployments", "media")}


def write_camtrap_dp(
    dataset: Dataset,
    out: Path,
    *,
    data_licence: str | None = None,
    acoustic: bool = False,
    created: datetime | None = None,
) -> dict[str, Any]:
    """Write a Camtrap DP package for each licence: `out/CC-BY-4.0/datapackage.json` and its tables.

    A medium with a public address is referred to, any other is copied into the package.

    Args:
        dataset: a finished dataset folder.
        out: a new folder, or one that the same call left unfinished or finished.
        data_licence: SPDX id under which the tables are published; None says that it is not stated.
        acoustic: use the terms of the bioacoustics pilot.
        created: the time that the packages state; now, if None.

    Returns:
        The manifest: `packages` counts the rows of every package, `left_out` the media by reason (`no_place`,
        `no_time`); `left_out.csv` lists them.

    Raises:
        DatasetError: no medium has place and time, or the folder holds something else.
    """
    out = Path(out)
    placed = pl.col("latitude_deg").is_between(-90, 90) & pl.col("longitude_deg").is_between(-180, 180)
    reason = (
        pl.when(placed.fill_null(value=False).not_())
        .then(pl.lit("no_place"))
        .when(pl.col("recorded_at").is_null())
        .then(pl.lit("no_time"))
    )
    media = dataset.media.with_columns(reason.alias("reason")).sort("media_id")
    left_out, kept = media.filter(pl.col("reason").is_not_null()), media.filter(pl.col("reason").is_null())
    counts = dict(left_out["reason"].value_counts().sort("reason").iter_rows())
    if not len(kept):
        lacks = " and ".join(f"{n:,} {'no place' if why == 'no_place' else 'no time'}" for why, n in counts.items())
        raise DatasetError(f"{dataset.folder}: no medium has both place and time, which a deployment needs: {lacks}")
    request = {
        "kind": "camtrap-dp",
        "dataset": identity(dataset),
        "acoustic": acoustic,
        "data_licence": data_licence,
        "created": created and created.isoformat(),
    }
    if manifest := claim(out, request):
        return manifest
    stamp = (created or datetime.now(UTC)).astimezone(UTC).strftime(TIME)
    packages: dict[str, dict[str, int]] = {}
    with Progress("export", len(kept), "files") as bar:
        for (licence,), rows in kept.group_by("licence", maintain_order=True):
            packages[str(licence)] = _write_package(
                dataset, rows, out / str(licence), bar, str(licence), data_licence, acoustic=acoustic, stamp=stamp
            )
    _write_csv(left_out.select(defused(pl.col("media_id")), "reason"), out / "left_out.csv")
    pinned = [f"{name}/{file}" for name in sorted(packages) for file in ("datapackage.json", *_files())]
    facts = {"packages": packages, "left_out": counts, "made_up": dataset.manifest["made_up"]}
    return write_manifest(out, [*pinned, "left_out.csv"], **request, **facts)


def _files() -> list[str]:
    return [f"{table}.csv" for table in TABLES]


def _write_package(
    dataset: Dataset,
    rows: pl.DataFrame,
    folder: Path,
    bar: Progress,
    licence: str,
    data_licence: str | None,
    *,
    acoustic: bool,
    stamp: str,
) -> dict[str, int]:
    rows = rows.with_columns(
        pl.col("latitude_deg").round(DECIMALS).alias("latitude"),
        pl.col("longitude_deg").round(DECIMALS).alias("longitude"),
        (pl.col("recorded_at") + pl.duration(seconds=pl.col("duration_s").fill_null(0).ceil())).alias("ends_at"),
        pl.col("url").str.contains(URL).fill_null(value=False).alias("is_public"),
    )
    deployments = _deployments(rows)
    rows = rows.join(
        deployments, on=["source", "rights_holder", "latitude", "longitude"], nulls_equal=True, maintain_order="left"
    )
    tables = {"deployments": deployments, "media": _media(rows), "observations": _observations(rows)}
    schemas = acoustic_terms(TABLES) if acoustic else TABLES
    for name, table in tables.items():
        absent = [pl.lit(None, pl.String).alias(column) for column in schemas[name] if column not in table.columns]
        _write_csv(table.with_columns(absent).select(*schemas[name]), folder / f"{name}.csv")
        write_json(folder / REVISIONS[acoustic] / f"{name}-table-schema.json", table_schema(name, schemas[name]))
    for path, sha256, is_public in rows.select("path", "sha256", "is_public").iter_rows():
        if not is_public:
            _copy(dataset, path, sha256, folder / path)
        bar.advance()
    os.sync()  # once, since a sync a file is ten times slower; a copy that was cut is found by its hash
    write_credits(rows.lazy(), folder / "CREDITS.csv")
    write_json(folder / REVISIONS[acoustic] / "camtrap-dp-profile.json", PROFILE)
    package = _package(dataset, rows, licence, data_licence, acoustic=acoustic, stamp=stamp)
    write_json(folder / "datapackage.json", package)
    return {name: len(table) for name, table in tables.items()}


def _copy(dataset: Dataset, path: str, sha256: str, target: Path) -> None:
    if not target.is_file() or sha256_file(target) != sha256:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_medium(dataset, path, sha256))


def _deployments(rows: pl.DataFrame) -> pl.DataFrame:
    place = ["source", "rights_holder", "latitude", "longitude"]
    found = rows.group_by(place).agg(
        pl.col("recorded_at").min().dt.strftime(TIME).alias("deploymentStart"),
        pl.col("ends_at").max().dt.strftime(TIME).alias("deploymentEnd"),
        (pl.col("recorded_at").dt.time() == pl.time(0, 0, 0)).any().alias("timestampIssues"),
    )
    names = [
        f"{source}-{hashlib.sha256(repr(rest).encode()).hexdigest()[:12]}"
        for source, *rest in found.select(place).iter_rows()
    ]
    return found.with_columns(
        pl.Series("deploymentID", names),
        defused(pl.col("rights_holder")).alias("setupBy"),
        pl.lit("effort:unknown").alias("deploymentTags"),
        pl.when("timestampIssues")
        .then(pl.lit("A time of midnight may stand for a date without a time."))
        .alias("deploymentComments"),
    ).sort("deploymentID")


def _media(rows: pl.DataFrame) -> pl.DataFrame:
    suffix = pl.col("path").str.extract(r"\.(\w+)$")
    return rows.select(
        defused(pl.col("media_id")).alias("mediaID"),
        "deploymentID",
        pl.col("recorded_at").dt.strftime(TIME).alias("timestamp"),
        pl.when("is_public").then("url").otherwise("path").alias("filePath"),
        pl.lit(value=True).alias("filePublic"),
        pl.col("path").str.extract(r"([^/]+)$").alias("fileName"),
        suffix.replace_strict(MEDIA_TYPES, return_dtype=pl.String).alias("fileMediatype"),
        defused(pl.col("remarks")).alias("mediaComments"),
        pl.col("sample_rate_hz").alias("samplingFrequency"),
        pl.col("n_channels").alias("channels"),
        pl.col("duration_s").alias("mediaDuration"),
    )


def _observations(rows: pl.DataFrame) -> pl.DataFrame:
    renamed = pl.col("scientific_name") != pl.col("species")
    return rows.select(
        defused(pl.col("media_id")).alias("observationID"),
        "deploymentID",
        defused(pl.col("media_id")).alias("mediaID"),
        defused(pl.col("individual")).alias("eventID"),  # an observation: of one animal at one time
        pl.col("recorded_at").dt.strftime(TIME).alias("eventStart"),
        pl.col("ends_at").dt.strftime(TIME).alias("eventEnd"),
        pl.lit("media").alias("observationLevel"),
        pl.lit("animal").alias("observationType"),
        pl.col("species").alias("scientificName"),
        pl.when(renamed).then(pl.format("given as {}", "scientific_name")).alias("observationComments"),
    )


def _write_csv(table: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as part:
        table.write_csv(part)


def acoustic_terms(tables: Mapping[str, Schema]) -> dict[str, Schema]:
    """Put the terms of the bioacoustics pilot in place of those of cameras."""
    renamed = {
        name: {column.replace("camera", "device"): rules for column, rules in schema.items()}
        for name, schema in tables.items()
    }
    kinds = ("buoy", "vegetation", "building", "structure", "pole", "unattached")
    renamed["deployments"] |= {"devicePlatform": _text(*kinds), "dutyCycle": _text()}
    renamed["media"] |= {
        "captureMethod": _text("activityDetection", "timeLapse", "dutyCycle"),
        "samplingFrequency": _number(0, whole=True),
        "bitDepth": _number(8, 32, whole=True),
        "gain": _number(),
        "channels": _number(1, whole=True),
        "mediaDuration": _number(0),
    }
    renamed["observations"] |= {
        "observationLevel": _text("media", "event", "interval", required=True),
        "frequencyLow": _number(0),
        "frequencyHigh": _number(0),
    }
    return renamed


def table_schema(name: str, schema: Schema) -> dict[str, Any]:
    """Describe a table for readers of data packages: columns, their rules, and the keys into other tables."""
    keys = [{"fields": KEYS[other], "reference": {"resource": other, "fields": KEYS[other]}} for other in LINKS[name]]
    return {
        "name": name,
        "fields": [{"name": column, **rules} for column, rules in schema.items()],
        "missingValues": [""],
        "primaryKey": KEYS[name],
        **({"foreignKeys": keys} if keys else {}),
    }


def _package(
    dataset: Dataset, rows: pl.DataFrame, licence: str, data_licence: str | None, *, acoustic: bool, stamp: str
) -> dict[str, Any]:
    revision, name = REVISIONS[acoustic], dataset.folder.resolve().name
    made_up = " Made up by a generator; not biology." if dataset.manifest["made_up"] else ""
    low_x, high_x, low_y, high_y = (
        float(rows[column].min() if low else rows[column].max())  # pyright: ignore[reportArgumentType]
        for column in ("longitude", "latitude")
        for low in (True, False)
    )
    holders = rows["rights_holder"].drop_nulls().unique().sort()
    corners = [[low_x, low_y], [high_x, low_y], [high_x, high_y], [low_x, high_y], [low_x, low_y]]
    species = rows.unique("species").sort("species")
    stated = {"name": data_licence} if data_licence else {"name": "not-stated", "title": "the exporter stated none"}
    return {
        "profile": f"{revision}/camtrap-dp-profile.json",
        "name": "".join(c if c.isalnum() else "-" for c in f"{name}-{licence}".lower()),
        "title": f"{name}: media under {licence}",
        "description": f"{len(rows):,} sounds and pictures of {len(species):,} species, with place and time.{made_up}",
        "created": stamp,
        "contributors": [{"title": holder, "role": "rightsHolder"} for holder in holders]
        or [{"title": "no holder is stated; see CREDITS.csv"}],
        "sources": [{"title": source} for source in rows["source"].unique().sort()],
        "licenses": [
            {**stated, "scope": "data"},
            {"name": licence, "path": licence_url(licence), "scope": "media"},
        ],
        "project": {
            "title": name,
            "description": "Records of single sounds and pictures, mostly taken by people who met an active animal. "
            "The times of a deployment are those of its first and last medium; effort is not known.",
            "samplingDesign": "opportunistic",
            "captureMethod": ["activityDetection"],
            "individualAnimals": False,
            "observationLevel": ["media"],
        },
        "coordinatePrecision": 10**-DECIMALS,
        "spatial": {"type": "Polygon", "bbox": [low_x, low_y, high_x, high_y], "coordinates": [corners]},
        "temporal": {
            "start": rows.select(pl.col("recorded_at").min().dt.strftime("%Y-%m-%d")).item(),
            "end": rows.select(pl.col("ends_at").max().dt.strftime("%Y-%m-%d")).item(),
        },
        "taxonomic": [
            {
                "scientificName": taxon["species"],
                "taxonRank": "species",
                **{rank: taxon[rank] for rank in RANKS[:-1] if taxon[rank]},
                **({"vernacularNames": {"eng": taxon["common_name"]}} if taxon["common_name"] else {}),
            }
            for taxon in species.select(*RANKS, "common_name").iter_rows(named=True)
        ],
        "resources": resources(revision),
    }


def resources(revision: str) -> list[dict[str, str]]:
    """List the tables of a package, as datapackage.json does; the schemas lie in the package under the revision."""
    return [
        {
            "name": table,
            "path": f"{table}.csv",
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "schema": f"{revision}/{table}-table-schema.json",
        }
        for table in TABLES
    ]


PROFILE: Final = {  # what Camtrap DP asks of datapackage.json, beyond a data package
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Camtrap DP",
    "type": "object",
    "required": [
        *("resources", "profile", "created", "contributors", "project", "spatial", "temporal", "taxonomic"),
    ],
    "properties": {
        "resources": {
            "type": "array",
            "minItems": 3,
            "items": {"type": "object", "required": ["name", "path", "profile", "schema"]},
        },
        "contributors": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["title"]}},
        "licenses": {
            "type": "array",
            "minItems": 2,
            "items": {
                "type": "object",
                "required": ["scope"],
                "properties": {"scope": {"enum": ["data", "media"]}},
            },
        },
        "project": {
            "type": "object",
            "required": ["title", "samplingDesign", "captureMethod", "individualAnimals", "observationLevel"],
            "properties": {
                "samplingDesign": {
                    "enum": [
                        *("simpleRandom", "systematicRandom", "clusteredRandom"),
                        *("experimental", "targeted", "opportunistic"),
                    ]
                },
                "captureMethod": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"enum": ["activityDetection", "timeLapse", "dutyCycle"]},
                },
                "individualAnimals": {"type": "boolean"},
                "observationLevel": {"type": "array", "items": {"enum": ["media", "event", "interval"]}},
            },
        },
        "spatial": {"type": "object", "required": ["type", "coordinates"]},
        "temporal": {"type": "object", "required": ["start", "end"]},
        "taxonomic": {"type": "array", "items": {"type": "object", "required": ["scientificName"]}},
    },
}
