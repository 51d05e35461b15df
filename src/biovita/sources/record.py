"""A record: one row of metadata about one sound or picture, before its file is looked at."""

import polars as pl

MODALITIES = ("audio", "image")

RECORD_SCHEMA: dict[str, pl.DataType] = {
    "media_id": pl.String(),  # source:source_id, unique
    "modality": pl.String(),
    "source": pl.String(),
    "url": pl.String(),
    "page_url": pl.String(),
    "scientific_name": pl.String(),  # as the source gives it
    "licence": pl.String(),  # SPDX id or "unknown"
    "rights_holder": pl.String(),
    "recorded_at": pl.Datetime("us", "UTC"),
    "latitude_deg": pl.Float64(),
    "longitude_deg": pl.Float64(),
    "quality": pl.String(),
    "individual": pl.String(),  # observation id: a photo and a sound of one animal share it
    "remarks": pl.String(),
}

FILE_SCHEMA: dict[str, pl.DataType] = {  # what a source that has files on disk adds
    "given_path": pl.String(),
    "file": pl.String(),  # absolute; null where the given path would leave the source's folder
    "given_common_name": pl.String(),
}
