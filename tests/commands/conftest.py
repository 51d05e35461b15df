"""A dataset folder that commands may write in, and files to identify."""

import shutil
from pathlib import Path

import polars as pl
import pytest


@pytest.fixture(scope="module")
def data(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the made-up dataset; training may keep its decoded features there."""
    copy = tmp_path_factory.mktemp("data") / "dataset"
    return Path(shutil.copytree(made_up, copy, ignore=shutil.ignore_patterns(".features")))


@pytest.fixture(scope="module")
def media(made_up: Path) -> dict[str, list[Path]]:
    """Three recordings and three pictures of the dataset."""
    table = pl.read_parquet(made_up / "media.parquet")
    return {
        kind: [made_up / path for path in table.filter(modality=kind)["path"].head(3)] for kind in ("audio", "image")
    }
