"""Rates and ramps at their edges."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biovita.errors import ConfigError
from biovita.train.recipe import Augment, Gate, Recipe
from biovita.train.schedule import ramp_at, rate_at, weights_at


def test_warm_up_grows_from_one_share_to_the_whole_rate() -> None:
    recipe = Recipe(learning_rate=4e-3, warmup_steps=4)
    assert [rate_at(step, 100, recipe) for step in range(6)] == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 4e-3, 4e-3])
    assert rate_at(99, 100, recipe) == 4e-3


def test_without_warm_up_a_constant_rate_is_constant() -> None:
    recipe = Recipe(learning_rate=1e-4)
    assert {rate_at(step, 10, recipe) for step in range(10)} == {1e-4}


def test_the_cosine_falls_from_the_whole_rate_by_way_of_half_to_nothing() -> None:
    recipe = Recipe(learning_rate=2.0, schedule="cosine", warmup_steps=10)
    assert rate_at(10, 110, recipe) == pytest.approx(2.0)
    assert rate_at(60, 110, recipe) == pytest.approx(1.0)
    assert rate_at(110, 110, recipe) == pytest.approx(0.0)
    assert rate_at(109, 110, recipe) > 0


@pytest.mark.parametrize("n_steps", [1, 5, 6])
def test_a_run_shorter_than_its_warm_up_still_has_a_rate(n_steps: int) -> None:
    recipe = Recipe(schedule="cosine", warmup_steps=5)
    assert all(0 < rate_at(step, n_steps, recipe) <= recipe.learning_rate for step in range(n_steps))


@given(st.integers(0, 20), st.integers(1, 60), st.sampled_from(["constant", "cosine"]))
def test_no_step_of_a_run_has_a_rate_outside_zero_and_the_peak(warmup: int, n_steps: int, schedule: str) -> None:
    recipe = Recipe(schedule=schedule, warmup_steps=warmup)  # pyright: ignore[reportArgumentType]
    rates = [rate_at(step, n_steps, recipe) for step in range(n_steps)]
    assert all(0 < rate <= recipe.learning_rate * (1 + 1e-12) for rate in rates)
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)


def test_the_ramp_is_off_at_first_linear_over_its_epochs_and_then_on() -> None:
    recipe = Recipe(ramp_epochs=2.0)
    assert [ramp_at(step, 10, recipe) for step in (0, 1, 5, 10, 19, 20, 21, 999)] == pytest.approx(
        [0, 0.05, 0.25, 0.5, 0.95, 1, 1, 1]
    )


def test_a_ramp_of_no_or_half_an_epoch_works() -> None:
    assert ramp_at(0, 10, Recipe(ramp_epochs=0.0)) == 1.0
    assert [ramp_at(step, 10, Recipe(ramp_epochs=0.5)) for step in (0, 2, 5)] == pytest.approx([0, 0.4, 1])
    assert ramp_at(1, 1, Recipe(ramp_epochs=1.0)) == 1.0


def test_each_of_two_losses_may_have_a_ramp_of_its_own_in_steps() -> None:
    recipe = Recipe(audio_text=0.9, audio_image=0.2, image_text=0.1, ramp_steps=(600, 300), ramp_epochs=7.0)
    found = [weights_at(step, 10, recipe) for step in (0, 150, 300, 600)]
    assert [weights["at"] for weights in found] == [0.9] * 4
    assert [weights["ai"] for weights in found] == pytest.approx([0, 0.05, 0.1, 0.2])
    assert [weights["it"] for weights in found] == pytest.approx([0, 0.05, 0.1, 0.1])
    assert weights_at(600, 10, recipe, gate_open=False) == {"at": 0.9, "ai": 0.0, "it": 0.0}


def test_parameters_with_another_peak_follow_the_same_course() -> None:
    recipe = Recipe(learning_rate=1e-4, schedule="cosine", warmup_steps=4)
    for step in range(50):
        assert rate_at(step, 50, recipe, 5e-6) == pytest.approx(rate_at(step, 50, recipe) / 20)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"audio_text": 0.0}, "audio_text, audio_image and image_text are all 0"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"stage": " "}, "stage is empty"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be below 9223372036854775808"),
        ({"rates": {"clip.*": -1e-4}}, r"rates of 'clip\.\*' is -0\.0001"),
        ({"decays": {"*": float("nan")}}, r"decays of '\*' is nan"),
        ({"from_steps": {"clip.*": -1}}, r"from_steps of 'clip\.\*' is -1"),
        ({"ramp_steps": (600, -300)}, "ramp_steps is 600, -300; both must be at least 0"),
        ({"audio_image": -0.1}, "audio_image is -0.1"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": float("inf")}, "weight_decay is inf; it must be at least 0, and finite"),
        ({"logit_scale": 500.0}, "logit_scale 500 is larger than max_logit_scale 100"),
        ({"max_logit_scale": 1.0}, "max_logit_scale is 1.0"),
        ({"max_per_species": 0, "min_per_species": 0}, "max_per_species is 0"),
        ({"validate_every": -1}, "validate_every is -1"),
        ({"ema": 1.0}, "ema is 1.0; it must be at least 0 and below 1"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"distinct_species": True, "hard_negatives": "genus"}, "exclude each other"),
        ({"min_per_species": 21}, "min_per_species 21 is larger than max_per_species 20"),
    ],
)
def test_a_recipe_that_cannot_work_names_its_fields(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Recipe(**fields)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patience": 0}, "gate.patience is 0; it must be at least 1"),
        ({"memory": 1.0}, "gate.memory is 1.0; it must be at least 0 and below 1"),
        ({"above": -0.1}, "gate.above is -0.1"),
        ({"above": float("nan")}, "gate.above is nan"),
        ({"penalty": float("inf")}, "gate.penalty is inf"),
        ({"below": float("nan")}, "gate.below is nan"),
    ],
)
def test_a_gate_that_cannot_work_names_its_fields(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Gate(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"crop": 0.0}, "augment.crop is 0.0; it must be from 0.01 to 1"),
        ({"mask_frames": 5000}, "augment.mask_frames is 5000"),
        ({"background": 1.5}, "augment.background is 1.5"),
        ({"background_snr_db": (9.0, 3.0)}, "the first must not exceed the second"),
    ],
)
def test_augmentation_that_cannot_work_names_its_fields(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Augment(**fields)


@pytest.mark.parametrize(
    ("weights", "anchor"),
    [((1.0, 0.0, 0.0), "audio"), ((0.0, 1.0, 0.0), "audio"), ((0.0, 0.0, 1.0), "image"), ((1.0, 1.0, 1.0), "audio")],
)
def test_an_epoch_walks_through_the_sounds_unless_no_loss_has_any(
    weights: tuple[float, float, float], anchor: str
) -> None:
    audio_text, audio_image, image_text = weights
    recipe = Recipe(audio_text=audio_text, audio_image=audio_image, image_text=image_text)
    assert recipe.anchor == anchor
