"""Answers as a Camtrap DP package: deployments, media and observations, classified by a machine.

With a recording among the files, the terms of the bioacoustics pilot are used (`data.camtrap` tells of both), else
those of the standard. A deployment is one device at one place (coordinates to four decimals, about 11 m); it starts
with its first file and ends with its last, which says nothing about effort. A file that tells no time or place, and
has no place from `--place`, belongs to no deployment: it is left out and listed.

An observation is a detection (level `interval`) or a picture (level `media`). A picture whose animal is not sure is of
type `unknown`; nothing here says that a picture is blank. Only a calibrated probability is given as one.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from biovita.data.camtrap import DECIMALS, PROFILE, REVISIONS, TABLES, TIME, acoustic_terms, resources, table_schema
from biovita.data.export import MEDIA_TYPES
from biovita.files import write_json
from biovita.identify.blocks import Identified, Result
from biovita.identify.table import absolute, named_in, path_cell, shown, text_cell, written
from biovita.log import warn

Place = tuple[float, float]
PACKAGE = "datapackage.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where answers come from.

    Attributes:
        top: the folder that holds all files; paths in the package are relative to it.
        place: latitude and longitude in degrees of files that tell none; None where it is not known either.
        created: when the run was begun.
        facts: of the identifier.
    """

    top: Path
    place: Place | None
    created: datetime
    facts: dict[str, Any]


@dataclass
class _Deployment:
    device: str
    place: Place
    start: datetime
    end: datetime

    @property
    def id(self) -> str:
        return hashlib.sha256(repr((self.device, self.place)).encode()).hexdigest()[:12]


def write_camtrap_dp(
    found: Iterable[Result], folder: Path, source: Source, *, min_score: float | None, acoustic: bool
) -> None:
    """Write the package; without a file that has place and time its tables are empty, and there is no package file."""
    schemas = acoustic_terms(TABLES) if acoustic else TABLES
    revision = REVISIONS[acoustic]
    deployments: dict[tuple[str, Place], _Deployment] = {}
    taxa: dict[str, dict[str, Any]] = {}
    (folder / PACKAGE).unlink(missing_ok=True)
    n_left_out = animal = n_observations = 0
    with ExitStack() as stack:
        tables = {name: _Rows(stack.enter_context(written(folder / f"{name}.csv")), schemas[name]) for name in TABLES}
        left_out = _Rows(stack.enter_context(written(folder / "left_out.csv")), ("path", "reason"))
        for result in found:
            animal += result.together is not None
            for file in result.files:
                header = file.header
                if header.latitude_deg is None and source.place:
                    header = replace(header, latitude_deg=source.place[0], longitude_deg=source.place[1])
                at = header.recorded_at
                if at is None or header.latitude_deg is None or header.longitude_deg is None:
                    reason = "no_time" if at is None else "no_place"
                    left_out.add({"path": path_cell(file.path), "reason": reason})
                    n_left_out += 1
                    continue
                place = round(header.latitude_deg, DECIMALS), round(header.longitude_deg, DECIMALS)
                device = header.device or ""
                ends = at + timedelta(seconds=file.duration_s or 0)
                one = deployments.setdefault((device, place), _Deployment(device, place, at, ends))
                one.start, one.end = min(one.start, at), max(one.end, ends)
                tables["media"].add(_medium(file, one.id, at, source))
                for row in _observations(file, result, one.id, at, source, min_score, animal):
                    n_observations += 1
                    tables["observations"].add({**row, "observationID": f"{n_observations:09}"})
                for _, _, named in named_in(file, result.together, min_score):
                    taxa[named.name] = {
                        "scientificName": named.name,
                        "taxonRank": named.rank,
                        **{rank: name for rank, name in named.lineage.items() if rank != "species"},
                        **({"vernacularNames": {"eng": named.common_name}} if named.common_name else {}),
                    }
        for one in sorted(deployments.values(), key=lambda one: one.id):
            device = {"deviceID" if acoustic else "cameraID": text_cell(shown(one.device))}
            tables["deployments"].add(_deployment(one) | device)
    for name in TABLES:
        write_json(folder / revision / f"{name}-table-schema.json", table_schema(name, schemas[name]))
    write_json(folder / revision / "camtrap-dp-profile.json", PROFILE)
    if n_left_out:
        warn(f"{folder}: {n_left_out:,} files tell no time or no place and are left out; left_out.csv lists them")
    if not deployments:
        warn(f"{folder}: no file has both time and place, so there is no {PACKAGE}; --place LAT LON gives a place")
        return
    write_json(folder / PACKAGE, _package(list(deployments.values()), taxa, source, acoustic=acoustic))


class _Rows:
    """A CSV table whose columns are set; what a row does not have stays empty."""

    def __init__(self, file: TextIO, columns: Iterable[str]) -> None:
        self.columns = list(columns)
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(self.columns)

    def add(self, row: dict[str, Any]) -> None:
        self.writer.writerow([row.get(column) for column in self.columns])


def _medium(file: Identified, deployment: str, at: datetime, source: Source) -> dict[str, Any]:
    verdict = file.verdict
    suffix = ((verdict and verdict.suffix) or "").removeprefix(".")
    return {
        "mediaID": path_cell(shown(file.path)),
        "deploymentID": deployment,
        "timestamp": at.strftime(TIME),
        "filePath": _inside(file, source.top),
        "filePublic": "false",
        "fileName": text_cell(shown(Path(file.path).name)),
        "fileMediatype": MEDIA_TYPES.get(suffix, f"{file.modality}/{suffix or 'unknown'}"),
        "mediaComments": file.header.time_rule,
        "samplingFrequency": verdict and verdict.sample_rate_hz,
        "channels": verdict and verdict.n_channels,
        "mediaDuration": file.duration_s,
    }


def _inside(file: Identified, top: Path) -> str:
    """Write a path as Camtrap DP takes it: inside the folder, without `..`, not hidden; what it forbids is encoded."""
    path = shown(absolute(Path(file.path)).relative_to(top).as_posix()).replace("..", "%2E%2E")
    return f"%{ord(path[0]):02X}{path[1:]}" if path[0] in ".~=+-@'" else path


def _observations(
    file: Identified,
    result: Result,
    deployment: str,
    at: datetime,
    source: Source,
    min_score: float | None,
    animal: int,
) -> Iterator[dict[str, Any]]:
    shared = {
        "deploymentID": deployment,
        "mediaID": path_cell(shown(file.path)),
        "eventID": f"animal-{animal}" if result.together else None,
        "classificationMethod": "machine",
        "classifiedBy": f"BioVITA, {source.facts['model']}, weights {str(source.facts['weights_sha256'])[:12]}",
        "classificationTimestamp": source.created.strftime(TIME),
    }
    whole = {"eventStart": at.strftime(TIME), "observationLevel": "media"}
    whole["eventEnd"] = (at + timedelta(seconds=file.duration_s or 0)).strftime(TIME)
    found = named_in(file, result.together, min_score)
    if not found and (result.together or file.modality == "image"):
        yield {**shared, **whole, "observationType": "unknown"}
    for start_s, end_s, named in found:
        if start_s is not None and end_s is not None:
            event = {
                "eventStart": (at + timedelta(seconds=start_s)).strftime(TIME),
                "eventEnd": (at + timedelta(seconds=end_s)).strftime(TIME),
                "observationLevel": "interval",
            }
        else:
            event = whole
        yield {
            **shared,
            **event,
            "observationType": "animal",
            "scientificName": text_cell(shown(named.name)),
            "classificationProbability": None if named.prob is None else round(named.prob, 4),
            "observationComments": f"{named.rank}; score {named.score:.4f}",
        }


def _deployment(one: _Deployment) -> dict[str, Any]:
    return {
        "deploymentID": one.id,
        "latitude": one.place[0],
        "longitude": one.place[1],
        "deploymentStart": one.start.strftime(TIME),
        "deploymentEnd": one.end.strftime(TIME),
        "deploymentTags": "effort:unknown",
    }


def _package(
    deployments: Sequence[_Deployment], taxa: dict[str, dict[str, Any]], source: Source, *, acoustic: bool
) -> dict[str, Any]:
    revision, model = REVISIONS[acoustic], str(source.facts["model"])
    latitudes, longitudes = zip(*(one.place for one in deployments), strict=True)
    west, south, east, north = min(longitudes), min(latitudes), max(longitudes), max(latitudes)
    corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    unstated = {"name": "not-stated", "title": "the author of the files states it"}
    return {
        "profile": f"{revision}/camtrap-dp-profile.json",
        "name": "biovita-predictions",
        "title": f"Animals named by {Path(model).name}",
        "description": f"Answers of a machine, not looked through by people. Paths of media are relative to the folder "
        f"{shown(str(source.top))}. " + " ".join(f"{key}: {value}." for key, value in source.facts.items()),
        "created": source.created.strftime(TIME),
        "contributors": [{"title": "BioVITA"}],
        "sources": [{"title": model}],
        "licenses": [{**unstated, "scope": "data"}, {**unstated, "scope": "media"}],
        "project": {
            "title": "Animals named by a machine",
            "description": "The times of a deployment are those of its first and last file; effort is not known.",
            "samplingDesign": "opportunistic",
            "captureMethod": ["activityDetection"],
            "individualAnimals": False,
            "observationLevel": ["media", "interval"] if acoustic else ["media"],
        },
        "coordinatePrecision": 10**-DECIMALS,
        "spatial": {"type": "Polygon", "bbox": [west, south, east, north], "coordinates": [corners]},
        "temporal": {
            "start": f"{min(one.start for one in deployments):%Y-%m-%d}",
            "end": f"{max(one.end for one in deployments):%Y-%m-%d}",
        },
        "taxonomic": [taxa[name] for name in sorted(taxa)],
        "resources": resources(revision),
    }
