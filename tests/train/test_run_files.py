"""The shipped run files, against the parameters of the paper-size model."""

import json
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from biovita.commands.train import Train
from biovita.config import parse
from biovita.models.vita import BioVitaConfig, BioVitaModel
from biovita.train.loop import choose_trained, make_optimizer
from biovita.train.recipe import Recipe
from biovita.train.trainee import Trainee

RUNS = Path(str(files("biovita") / "runs"))


def recipe_of(path: Path) -> Recipe:
    return parse(Train, [str(path), "--data", "d", "--out", "o"], prog="biovita train").recipe


def stages() -> list[Path]:
    paths = sorted(path for path in RUNS.glob("**/*.toml") if "[recipe]" in path.read_text())
    assert len(paths) >= 10
    return paths


@pytest.fixture(scope="module")
def paper_size() -> BioVitaModel:
    """The model in the paper's size, without memory for its weights."""
    shape = json.loads((files("biovita.models") / "sizes" / "paper.json").read_text())
    config = BioVitaConfig(
        audio_config=shape["audio_config"],
        clip_config=shape["clip_config"],
        audio_projection=shape["audio_projection"],
    )
    with torch.device("meta"):
        return BioVitaModel(config)


@pytest.mark.parametrize("path", stages(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_pattern_of_a_run_file_names_parameters_of_the_paper_size_model(
    paper_size: BioVitaModel, path: Path
) -> None:
    recipe = recipe_of(path)
    if recipe.lora_rank:
        assert all(any(fnmatchcase(name, p) for name, _ in paper_size.named_parameters()) for p in recipe.trained)
        return
    trained = choose_trained(paper_size, recipe.trained)  # refuses a pattern that matches nothing
    optimizer = make_optimizer(Trainee(paper_size, recipe), recipe)  # so does this, for rates, decays and first steps
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)


def test_the_release_trains_what_its_code_thaws_at_its_four_rates(paper_size: BioVitaModel) -> None:
    recipe = recipe_of(RUNS / "stage2_release.toml")
    choose_trained(paper_size, recipe.trained)
    optimizer = make_optimizer(Trainee(paper_size, recipe), recipe)
    found: dict[tuple[float, int], int] = {}
    for group in optimizer.param_groups:
        key = (group["peak"], group["from_step"])
        found[key] = found.get(key, 0) + sum(parameter.numel() for parameter in group["params"])
    clap = 1_632 + (768 * 512 + 512) + (512 * 512 + 512)  # the patch convolution, and the projection of the audio side
    text = sum(p.numel() for p in (*paper_size.clip.text_model.parameters(),
                                   *paper_size.clip.text_projection.parameters()))  # fmt: skip
    assert found == {(1e-4, 0): 512 * 768, (5e-6, 0): text, (1e-5, 300): clap}
    assert not paper_size.logit_scale.requires_grad
    assert recipe.logit_scale == 5.0


def test_the_release_draws_exactly_twenty_triplets_a_species_and_counts_them_as_negatives() -> None:
    for name in ("stage2_release_warmup", "stage2_release"):
        recipe = recipe_of(RUNS / f"{name}.toml")
        assert (recipe.min_per_species, recipe.max_per_species, recipe.batch_size) == (20, 20, 8 * 32)
        assert recipe.same_species == "negative"
        assert not recipe.flip_images
        assert not recipe.shift_audio
