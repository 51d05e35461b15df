"""The card's picture: drawn for any dataset, always with the same bytes."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from biovita.data.dataset import MEDIA_SCHEMA, QUARANTINE_SCHEMA, TAXA_SCHEMA, Dataset
from biovita.report.card_plots import draw_card
from biovita.tables import write_table


def copy(made_up: Path, folder: Path) -> Dataset:
    folder.mkdir()
    for name in ("media", "taxa", "quarantine"):
        shutil.copyfile(made_up / f"{name}.parquet", folder / f"{name}.parquet")
    return Dataset(folder, {})


def test_a_card_is_drawn_in_the_same_bytes_wherever_it_goes(made_up: Path, tmp_path: Path) -> None:
    draw_card(made_up, tmp_path / "card.png")
    draw_card(made_up, tmp_path / "again.png")
    assert (tmp_path / "card.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "card.png") as image:
        assert image.info.keys() <= {"dpi"}  # no date, no version
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1430
    assert (pixels != pixels[0, 0]).any(axis=2).mean() > 0.05


@pytest.mark.parametrize("modality", ["audio", "image"])
def test_a_dataset_of_one_kind_without_places_or_refusals_is_drawn(
    made_up: Path, tmp_path: Path, modality: str
) -> None:
    dataset = copy(made_up, tmp_path / "a $name$ with_signs")
    media = dataset.media.filter(pl.col("modality") == modality).with_columns(
        pl.lit(None, pl.Float64).alias("latitude_deg")
    )
    write_table(dataset.folder / "media.parquet", media[:1], MEDIA_SCHEMA)
    write_table(dataset.folder / "taxa.parquet", dataset.taxa[:1], TAXA_SCHEMA)
    draw_card(dataset.folder, tmp_path / "card.png")
    assert (tmp_path / "card.png").stat().st_size > 10_000


def test_many_classes_licences_and_reasons_stay_on_the_page(made_up: Path, tmp_path: Path) -> None:
    dataset = copy(made_up, tmp_path / "dataset")
    number = pl.int_range(pl.len()) % 30
    media = dataset.media.with_columns(
        pl.format("Class {}", number).alias("class"), pl.format("LicenseRef-{}", number).alias("licence")
    )
    write_table(dataset.folder / "media.parquet", media, MEDIA_SCHEMA)
    refused = pl.DataFrame({"media_id": [str(i) for i in range(90)], "reason": [f"reason_{i % 30}" for i in range(90)]})
    refused = refused.with_columns(pl.lit("x").alias("detail"))
    write_table(dataset.folder / "quarantine.parquet", refused, QUARANTINE_SCHEMA)
    draw_card(dataset.folder, tmp_path / "card.png")
    with Image.open(tmp_path / "card.png") as image:
        assert image.height < 4_000
