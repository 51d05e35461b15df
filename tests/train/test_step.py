"""TWINS: a batch in pieces against the batch at once; what is frozen is embedded once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import prompts_of

from biovita.errors import ConfigError
from biovita.train.banks import fill_banks
from biovita.train.batches import Batch
from biovita.train.features import Features
from biovita.train.loop import choose_trained, set_modes
from biovita.train.recipe import Augment, Recipe
from biovita.train.step import Step, part_of, total_loss

COUNTS = [(3, 3), (2, 3), (3, 2), (2, 2)]
WEIGHTS = {"at": 1.0, "ai": 0.25, "it": 0.125}
LOSSES = {"audio_text": 1.0, "audio_image": 0.5, "image_text": 0.25, "freeze_batch_norm": True}
ALL = ("*",)
SOUNDS = ("audio_model.*", "audio_projection.*", "audio_adapter.*", "logit_scale")


@pytest.fixture
def seven(batch_of: Callable[..., Batch]) -> Batch:
    """Seven items: one has no picture, one no sound, two are of one species."""
    return batch_of(
        [0, 1, 3, 5, 8, -1, 6], [0, 2, -1, 6, 8, 4, 7], [0, 0, 1, 2, 3, 1, 2],
        shift=np.linspace(0, 0.9, 7), flip=np.array([True, False] * 3 + [True]),
    )  # fmt: skip


def graded(encoder: Any, work: Callable[[], Any]) -> dict[str, torch.Tensor]:
    encoder.model.zero_grad()
    torch.manual_seed(5)
    work()
    return {name: p.grad.clone() for name, p in encoder.model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Within 1e-5 of each gradient, and of the largest one where it is all but zero."""
    assert found.keys() == expected.keys()
    largest = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        assert float((found[name] - grad).norm()) <= 1e-5 * max(float(grad.norm()), 1e-3 * largest), name


@pytest.mark.parametrize("trained", [ALL, SOUNDS], ids=["all", "sounds"])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_gradient_of_pieces_is_that_of_the_whole_batch(
    new_encoder: Callable[..., Any],
    make_features: Callable[..., Features],
    step_of: Callable[..., Step],
    inputs_of: Callable[..., Any],
    seven: Batch,
    size: int,
    trained: tuple[str, ...],
) -> None:
    encoder, features = new_encoder(), make_features(COUNTS)
    choose_trained(encoder.model, trained)
    set_modes(encoder.model, freeze_batch_norm=True)
    found = {}
    for micro in (0, size):
        recipe = Recipe(**LOSSES, micro_batch=micro)
        step, inputs = step_of(encoder, features, recipe), inputs_of(encoder, features, seven, recipe)
        found[micro] = graded(encoder, lambda step=step, inputs=inputs: step.backward(inputs, WEIGHTS))
    assert len(found[0]) > 10
    assert_close(found[size], found[0])


@pytest.mark.parametrize("size", [0, 3])
def test_the_bias_of_the_sigmoid_loss_learns(
    new_encoder: Callable[..., Any],
    make_features: Callable[..., Features],
    step_of: Callable[..., Step],
    inputs_of: Callable[..., Any],
    seven: Batch,
    size: int,
) -> None:
    encoder, features = new_encoder(), make_features(COUNTS)
    choose_trained(encoder.model, ("audio_projection.*",))
    set_modes(encoder.model, freeze_batch_norm=True)
    recipe = Recipe(**LOSSES, loss="sigmoid", micro_batch=size)
    step, inputs = step_of(encoder, features, recipe), inputs_of(encoder, features, seven, recipe)
    step.backward(inputs, WEIGHTS)
    slope, bias, around = step.trainee.bias.grad.item(), step.trainee.bias, []
    for shift in (-0.01, 0.02):
        bias.data += shift
        with torch.no_grad():
            around.append(total_loss(step.losses(step.embed(inputs), seven), WEIGHTS).item())
    assert slope == pytest.approx((around[1] - around[0]) / 0.02, rel=1e-2)
    assert slope != 0


def test_the_second_look_at_a_piece_draws_the_same_dropout_as_the_first(
    new_encoder: Callable[..., Any],
    make_features: Callable[..., Features],
    step_of: Callable[..., Step],
    inputs_of: Callable[..., Any],
    seven: Batch,
) -> None:
    encoder, features, recipe = new_encoder(), make_features(COUNTS), Recipe(**LOSSES, micro_batch=3)
    choose_trained(encoder.model, SOUNDS)
    set_modes(encoder.model, freeze_batch_norm=True)
    for module in encoder.model.audio_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    step, inputs = step_of(encoder, features, recipe), inputs_of(encoder, features, seven, recipe)

    def in_one_graph() -> None:
        parts = [step.embed(part_of(inputs, slice(n, n + 3))) for n in (0, 3, 6)]
        found = {name: torch.cat([part[name] for part in parts if name in part]) for name in "ait"}
        total_loss(step.losses(found | {"scale": parts[0]["scale"]}, seven), WEIGHTS).backward()

    expected = graded(encoder, in_one_graph)
    after = torch.get_rng_state()
    assert_close(graded(encoder, lambda: step.backward(inputs, WEIGHTS)), expected)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("trained", [SOUNDS, (*SOUNDS, "clip.text_model.*")], ids=["both frozen", "pictures frozen"])
def test_vectors_from_a_bank_give_the_loss_and_gradient_of_embedding_anew(
    new_encoder: Callable[..., Any],
    make_features: Callable[..., Features],
    step_of: Callable[..., Step],
    inputs_of: Callable[..., Any],
    seven: Batch,
    tmp_path: Path,
    trained: tuple[str, ...],
) -> None:
    encoder, features, recipe = new_encoder(), make_features(COUNTS), Recipe(**LOSSES)
    choose_trained(encoder.model, trained)
    set_modes(encoder.model, freeze_batch_norm=True)
    banks = fill_banks(encoder, features, prompts_of(features), recipe, tmp_path)
    assert set(banks) == ({"i", "t"} if trained == SOUNDS else {"i"})
    anew = step_of(encoder, features, recipe)
    kept = step_of(encoder, features, recipe, banks=banks)
    expected = graded(encoder, lambda: anew.backward(inputs_of(encoder, features, seven, recipe), WEIGHTS))
    letters = {"a", "i", "t"} - set(banks)
    found = graded(encoder, lambda: kept.backward(inputs_of(encoder, features, seven, recipe, letters), WEIGHTS))
    assert_close(found, expected)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    fill_banks(encoder, features, prompts_of(features), recipe, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}  # taken as they are
    with torch.no_grad():
        encoder.model.clip.visual_projection.weight.mul_(2)
    fill_banks(encoder, features, prompts_of(features), recipe, tmp_path)
    assert len(list(tmp_path.rglob("*.npy"))) == len(before) + 1  # another tower, another bank


def test_pictures_that_change_at_random_have_no_bank(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], tmp_path: Path
) -> None:
    encoder, features = new_encoder(), make_features(COUNTS)
    choose_trained(encoder.model, SOUNDS)
    recipe = Recipe(**LOSSES, augment=Augment(crop=0.5))
    assert set(fill_banks(encoder, features, prompts_of(features), recipe, tmp_path)) == {"t"}


def test_pieces_want_a_frozen_batch_norm() -> None:
    with pytest.raises(ConfigError, match=r"micro_batch is 4.*freeze_batch_norm"):
        Recipe(micro_batch=4)
    assert Recipe(micro_batch=4, audio_text=0, image_text=1).micro_batch == 4  # has no batch norm
