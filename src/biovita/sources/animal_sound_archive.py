"""The Animal Sound Archive (Tierstimmenarchiv) of the Museum fuer Naturkunde Berlin, as a dataset of GBIF.

One record a recording, named by the archive's own number (`asa:TSA:...`). The licence is the recording's own, mostly
CC BY-NC-SA, although the dataset as such is CC BY. `individual` is the one that the GBIF source gives, so a recording
that is read from both never stands in two splits.

Source:
    https://doi.org/10.15468/0bpalr; the key is the packageId of its EML in GBIF download 10.15468/dl.v7nwww
    (dataset/b7ec1bf8-819b-11e2-bad2-00145eb45e9a.xml, which gives that DOI and the title Animal Sound Archive).
"""

from pathlib import Path
from typing import Final

import polars as pl

from biovita.errors import DatasetError
from biovita.sources import gbif
from biovita.sources.pages import Door
from biovita.sources.record import Reading, as_records

DATASET: Final = "b7ec1bf8-819b-11e2-bad2-00145eb45e9a"
HOSTS: Final = (*gbif.HOSTS, "www.tierstimmenarchiv.de")  # the recordings that GBIF names lie on the latter


def read(path: Path) -> Reading:
    """Read the recordings of the archive from a GBIF download, or from saved pages or occurrences of GBIF's API.

    Raises:
        DatasetError: nothing of GBIF is there, or nothing of this archive in it.
    """
    path = Path(path)
    media, counts = gbif.read_media(path, dataset=DATASET)
    if not len(media):
        raise DatasetError(f"{path}: no media of the Animal Sound Archive (dataset {DATASET}) in it")
    own = pl.coalesce(pl.col("catalogNumber", "occurrenceID").str.strip_chars().replace("", None))
    media = media.with_columns(own.alias("own"))
    counts["recordings without a number of the archive"] = media["own"].null_count()
    named = pl.format("asa:{}", pl.coalesce("own", pl.format("gbif:{}", "coreid")))
    media = media.with_columns(pl.lit("asa").alias("source"), named.alias("media_id"))
    several = pl.col("media_id").is_duplicated()
    media = media.with_columns(
        pl.when(several).then(pl.format("{}:{}", "media_id", "hash")).otherwise("media_id").alias("media_id")
    )
    return Reading(records=as_records(media, path), counts=+counts)


def fetch(door: Door, query: str, folder: Path) -> list[Path]:
    """Save the recordings that match a query of GBIF's occurrence search (`taxonKey=212`, or empty for all).

    Raises:
        ConfigError, DatasetError, FetchError: as `gbif.fetch`.
    """
    pairs = "&".join(part for part in (query, f"datasetKey={DATASET}", "mediaType=Sound") if part)
    return gbif.fetch(door, pairs, folder)
