"""What a recipe asks for in vain is said, or refused, before the first step."""

from collections.abc import Callable
from typing import Any

import pytest

from biovita.errors import TrainError
from biovita.train.batches import Sampler
from biovita.train.loop import choose_trained
from biovita.train.recipe import Recipe
from biovita.train.remarks import check_data, remarks

BOTH = [(3, 3), (2, 3), (3, 2), (2, 2)]
QUIET = {"batch_size": 4, "min_per_species": 2, "max_per_species": 4, "trained": ("audio_projection.*",)}
TRIPLETS = {"audio_text": 1.0, "audio_image": 0.5, "image_text": 0.5}


@pytest.fixture
def said(make_features: Callable[..., Any], new_encoder: Callable[..., Any]) -> Callable[..., list[str]]:
    """Ask for the remarks on a recipe; an epoch of the usual data has two steps."""

    def ask(
        counts: list[tuple[int, int]] = BOTH, *, n_processes: int = 1, n_steps: int = 10, **fields: Any
    ) -> list[str]:
        features, recipe = make_features(counts, n_frames=2), Recipe(**{**QUIET, **fields})
        sampler = Sampler(features, recipe, n_prompts=5)
        check_data(features, recipe, sampler, n_processes=n_processes)
        model = new_encoder().model
        choose_trained(model, recipe.trained)
        return remarks(model, features, recipe, sampler, n_steps=n_steps, steps_per_epoch=2)

    return ask


def test_a_recipe_that_suits_its_data_needs_no_remark(said: Callable[..., list[str]]) -> None:
    assert said() == []
    fields = {"warmup_steps": 10, "ramp_epochs": 5.0, "from_steps": {"*": 9}, "ema": 0.8, "hard_negatives": "genus"}
    fields |= {"patience": 2, "validate_every": 2.0}
    assert said(**TRIPLETS, **fields, trained=("*",)) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({**TRIPLETS, "counts": [(3, 0), (3, 0), (3, 0)]}, "audio_image is 0.5, and no species"),
        ({"trained": ("audio_projection.*", "clip.visual_projection.*")}, "trained names the tower of pictures"),
        ({"batch_size": 64}, "batch_size is 64, and an epoch has 10 items"),
        ({"counts": [(3, 3), (0, 3), (3, 3)], "hard_negatives": "genus"}, "no genus of the train split"),
        ({"warmup_steps": 11}, "warmup_steps is 11; the stage ends after 10"),
        ({**TRIPLETS, "ramp_epochs": 6.0}, "the ramp of AIC and ITC is longer than the 10 steps"),
        ({**TRIPLETS, "ramp_steps": (2, 11)}, "the ramp of AIC and ITC is longer than the 10 steps"),
        ({"from_steps": {"audio_*": 10}}, "from_steps: 'audio_*' begins at step 10; the stage ends after 10"),
        ({"patience": 2, "validate_every": 2.0, "n_steps": 8}, "patience is 2, and only 1 looks come before the end"),
        ({"ema": 0.999}, "ema 0.999 remembers 1,000 steps; 10 leave the mean near where it began"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_effect_is_said(said: Callable[..., list[str]], fields: dict[str, Any], expected: str) -> None:
    assert any(expected in line for line in said(**fields)), said(**fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"counts": [(5, 5)]}, "only species 0 has sounds and names in the train split"),
        ({"counts": [(5, 0), (0, 5)], "audio_text": 0, "audio_image": 1}, "no species has sounds and pictures in"),
        ({"batch_size": 1}, "batch_size is 1; a loss compares the items of a batch"),
        ({"accumulate": 3}, "accumulate is 3, and an epoch of 10 items has only 2 batches of 4"),
        ({"batch_size": 64, "n_processes": 4}, "batch_size is 64, and an epoch has only 10 items for 4 processes; set "
                                              "batch_size to at most 8"),
    ],
)  # fmt: skip
def test_data_that_a_recipe_cannot_learn_from_are_refused(
    said: Callable[..., list[str]], fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(TrainError, match=expected):
        said(**fields)
