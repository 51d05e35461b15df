"""`biovita model calibrate`: what it writes, what it leaves for measuring, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.data.dataset import Dataset
from biovita.errors import DatasetError
from biovita.identify.answer import Identifier
from biovita.identify.calibrate import FILE, read_calibration
from biovita.identify.fitting import draw_species, files_to_fit
from biovita.identify.labels import read_labels
from biovita.models import hub


@pytest.fixture(scope="module")
def model(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("calibrated") / "model"))


def test_it_writes_a_calibration_that_identify_uses(biovita: Callable[..., Any], model: Path, made_up: Path) -> None:
    ran = biovita("model", "calibrate", model, "--data", made_up, "--json", "--quiet")
    assert ran.code == 0
    said = json.loads(ran.out)
    calibration = read_calibration(model)
    assert calibration
    assert said["weights"] == calibration.weights
    assert {*calibration.weights} == {"audio", "image", "audio+image"}
    dataset = Dataset.open(made_up)
    assert calibration.trained == dataset.media.filter(split="train")["species"].unique().sort().to_list()
    withheld = set(dataset.taxa.filter("withheld")["species"])
    assert len(said["withheld_species"]) == len(withheld) // 2
    assert set(said["withheld_species"]) < withheld
    encoder = hub.load_encoder(model)
    identifier = Identifier(encoder, read_labels(encoder), calibration=calibration)
    path = dataset.path(dataset.media.filter(modality="image")["path"][0])
    (answer,) = identifier.answers(encoder.embed_image([path]), "image", k=100)
    assert sum(one.prob or 0.0 for one in answer.taxa) == pytest.approx(1)
    before = (model / FILE).read_bytes()
    biovita("model", "calibrate", model, "--data", made_up, "--json", "--quiet")
    assert (model / FILE).read_bytes() == before


def test_without_withheld_species_it_says_what_that_means(
    biovita: Callable[..., Any], model: Path, made_up: Path
) -> None:
    ran = biovita("model", "calibrate", model, "--data", made_up, "--withheld-share", "0")
    assert ran.code == 0
    assert "species that the model never met may be too high" in ran.err
    calibration = read_calibration(model)
    assert calibration
    assert {weights["trained"] for weights in calibration.weights.values()} == {0.0}


@pytest.mark.parametrize("case", ["no model", "no data", "no share"])
def test_what_cannot_be_done_is_one_line_and_exit_2(
    biovita: Callable[..., Any], model: Path, made_up: Path, tmp_path: Path, case: str
) -> None:
    words, said = {
        "no model": ([tmp_path / "none", "--data", made_up], "no such model folder"),
        "no data": ([model, "--data", tmp_path], str(tmp_path)),
        "no share": ([model, "--data", made_up, "--withheld-share", "2"], "--withheld-share 2.0: give 0 to 1"),
    }[case]
    ran = biovita("model", "calibrate", *words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert said in ran.err


def test_only_files_that_training_did_not_see_help_and_only_of_species_drawn(made_up: Path) -> None:
    dataset = Dataset.open(made_up)
    drawn = draw_species(dataset.taxa, share=0.5, seed=3)
    found = files_to_fit(dataset, drawn, dataset.taxa["species"].to_list())
    assert set(found["split"]) == {"val", "test_unseen"}
    assert set(found.filter(split="test_unseen")["species"]) == set(drawn)
    assert len(found.filter(split="val")) == len(dataset.media.filter(split="val"))
    assert draw_species(dataset.taxa, share=0.5, seed=3) == drawn
    assert draw_species(dataset.taxa, share=1, seed=3) == dataset.taxa.filter("withheld")["species"].sort().to_list()
    with pytest.raises(DatasetError, match="no validation files"):
        files_to_fit(dataset, drawn, ["Nobody ignotus"])


def test_large_datasets_are_cut_to_so_many_animals_and_animals_stay_whole(
    made_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(made_up)
    drawn = draw_species(dataset.taxa, share=1, seed=1)
    whole = files_to_fit(dataset, drawn, dataset.taxa["species"].to_list())
    monkeypatch.setattr("biovita.identify.fitting.MOST", 5)
    part = files_to_fit(dataset, drawn, dataset.taxa["species"].to_list())
    animals = part.group_by("split").agg(pl.col("individual").n_unique())
    assert sorted(animals["individual"]) == [5, 5]
    kept = whole.filter(pl.col("individual").is_in(part["individual"].implode()))
    assert np.array_equal(kept["media_id"], part["media_id"])
