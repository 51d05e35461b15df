"""A small folder of sounds and pictures with the tables that name them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from biovita.media.audio import write_audio
from biovita.media.image import write_image
from biovita.taxonomy.rank import RANKS

CLASSES = {"Aves": 6, "Amphibia": 3, "Mammalia": 3}
N_AUDIO, N_IMAGE = 5, 4
RATE_HZ = 8_000


def species_table() -> pl.DataFrame:
    rows = []
    for class_, n_species in CLASSES.items():
        for i in range(n_species):
            genus = f"{class_[:4].capitalize()}gen{'abc'[i // 2]}"
            names = (
                "Animalia",
                "Chordata",
                class_,
                f"{class_}ordo",
                f"{genus}idae",
                genus,
                f"{genus} spec{'ab'[i % 2]}",
            )
            rows.append(
                {**dict(zip(RANKS, names, strict=True)), "common_name": f"Common {class_} {i}", "diurnal": i > 0}
            )
    return pl.DataFrame(rows)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with `records.tsv`, `taxa.parquet` and media: 12 species, 5 sounds and 4 pictures each.

    The first sound and the first picture of a species are of one individual.
    """
    folder = tmp_path / "source"
    folder.mkdir()
    rng = np.random.default_rng(7)
    taxa = species_table()
    taxa.write_parquet(folder / "taxa.parquet")
    rows = []
    for number, species in enumerate(taxa["species"]):
        for i in range(N_AUDIO):
            name = f"{number}-{i}{('.wav', '.flac')[i % 2]}"
            write_audio(folder / name, rng.uniform(-0.5, 0.5, 1_600), RATE_HZ)
            rows.append((name, species, "audio", "CC-BY-4.0", f"obs{number}" if i == 0 else None))
        for i in range(N_IMAGE):
            name = f"{number}-{i}.png"
            write_image(folder / name, Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)))
            rows.append((name, species, "image", "CC BY-NC", f"obs{number}" if i == 0 else None))
    table = pl.DataFrame(rows, ["path", "scientific_name", "modality", "licence", "individual"], orient="row")
    table.write_csv(folder / "records.tsv", separator="\t")
    return folder


@pytest.fixture
def append(source: Path) -> Callable[..., None]:
    """Add a row to the table of `source`."""

    def add(path: str, **values: str) -> None:
        table = pl.read_csv(source / "records.tsv", separator="\t", infer_schema=False)
        species = table["scientific_name"][0]
        row = {"path": path, "scientific_name": species, "modality": "audio", "licence": "CC0", **values}
        pl.concat([table, pl.DataFrame([row])], how="diagonal").write_csv(source / "records.tsv", separator="\t")

    return add
