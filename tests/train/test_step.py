"""TWINS: a batch in pieces against the batch at once; what is frozen is embedded once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from biovita.errors import ConfigError
from biovita.train.batches import Batch
from biovita.train.features import Features
from biovita.train.loop import choose_trained, set_modes
from biovita.train.recipe import Recipe
from biovita.train.step import backward, losses_of, total_loss, vectors_of

COUNTS = [(3, 3), (2, 3), (3, 2), (2, 2)]
LOSSES = {"audio_text": 1.0, "audio_image": 0.5, "image_text": 0.25, "freeze_batch_norm": True}
ALL = ("*",)
SOUNDS = ("audio_model.*", "audio_projection.*", "audio_adapter.*", "logit_scale")


def batch_of() -> Batch:
    """Seven items: one has no picture, one no sound, two are of one species."""
    return Batch(
        label=np.array([0, 0, 1, 2, 3, 1, 2]),
        audio=np.array([0, 1, 3, 5, 8, -1, 6]),
        image=np.array([0, 2, -1, 6, 8, 4, 7]),
        prompt=np.array([0, 1, 2, 3, 4, 0, 1]),
        shift=np.linspace(0, 0.9, 7),
        flip=np.array([True, False] * 3 + [True]),
    )


def prompts_of(features: Features) -> list[list[str]]:
    return [[f"{species} form {form}" * (1 + form) for form in range(5)] for species in features.species]


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
    new_encoder: Callable[..., Any], make_features: Callable[..., Features], size: int, trained: tuple[str, ...]
) -> None:
    encoder, features = new_encoder(), make_features(COUNTS)
    choose_trained(encoder.model, trained)
    set_modes(encoder.model, freeze_batch_norm=True)
    found = {}
    for micro in (0, size):
        recipe = Recipe(**LOSSES, micro_batch=micro)
        arguments = (encoder, features, prompts_of(features), batch_of(), recipe, 0.5)
        found[micro] = graded(encoder, lambda arguments=arguments: backward(*arguments))
    assert len(found[0]) > 10
    assert_close(found[size], found[0])


def test_the_second_look_at_a_piece_draws_the_same_dropout_as_the_first(
    new_encoder: Callable[..., Any], make_features: Callable[..., Features]
) -> None:
    encoder, features, recipe = new_encoder(), make_features(COUNTS), Recipe(**LOSSES, micro_batch=3)
    choose_trained(encoder.model, SOUNDS)
    set_modes(encoder.model, freeze_batch_norm=True)
    for module in encoder.model.audio_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    prompts, batch = prompts_of(features), batch_of()

    def in_one_graph() -> None:
        pieces = [batch.part(slice(n, n + 3)) for n in (0, 3, 6)]
        parts = [vectors_of(encoder, features, prompts, piece, recipe, {"a", "i", "t"}) for piece in pieces]
        vectors = {letter: torch.cat([part[letter] for part in parts]) for letter in "ait"}
        total_loss(losses_of(vectors, encoder, features, batch, recipe), recipe, 0.5).backward()

    expected = graded(encoder, in_one_graph)
    after = torch.get_rng_state()
    assert_close(graded(encoder, lambda: backward(encoder, features, prompts, batch, recipe, 0.5)), expected)
    assert torch.equal(torch.get_rng_state(), after)


def test_pieces_want_a_frozen_batch_norm() -> None:
    with pytest.raises(ConfigError, match=r"micro_batch is 4.*freeze_batch_norm"):
        Recipe(micro_batch=4)
    assert Recipe(micro_batch=4, audio_text=0, image_text=1).micro_batch == 4  # has no batch norm
