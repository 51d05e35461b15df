"""TWINS: the loss against a plain loop, forward and gradient."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from biovita.train.loss import info_nce

LABELS = {
    "no_mask": None,
    "all_different": (0, 1, 2, 3, 4, 5, 6),
    "some_alike": (0, 1, 0, 2, 1, 0, 3),
    "all_alike": (4, 4, 4, 4, 4, 4, 4),
}


def slow(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor, species: Sequence[int] | None) -> torch.Tensor:
    """-log of the share that the right partner has among partners of other species; both directions; their mean."""
    total = torch.zeros((), dtype=torch.float64)
    n, width = one.shape
    for asked, offered in ((one, other), (other, one)):
        for i in range(n):
            rivals = torch.zeros((), dtype=torch.float64)
            right = torch.zeros((), dtype=torch.float64)
            for j in range(n):
                cosine = torch.zeros((), dtype=torch.float64)
                for d in range(width):
                    cosine = cosine + asked[i, d] * offered[j, d]
                if i == j:
                    right = torch.exp(scale * cosine)
                if i == j or species is None or species[i] != species[j]:
                    rivals = rivals + torch.exp(scale * cosine)
            total = total - torch.log(right / rivals)
    return total / (2 * n)


def batch(n: int, width: int = 5, *, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(2, n, width))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    one, other = (torch.tensor(side, dtype=dtype, requires_grad=True) for side in rows)
    return one, other, torch.tensor(7.5, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_loss_and_its_gradient_equal_a_plain_loop(n: int, labels: Sequence[int] | None) -> None:
    species = None if labels is None else labels[:n]
    twins = batch(n, dtype=torch.float64)
    expected = slow(*twins, species)
    expected.backward()
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        inputs = batch(n, dtype=dtype)
        found = info_nce(*inputs, None if species is None else torch.tensor(species))
        found.backward()
        assert found.item() == pytest.approx(expected.item(), abs=tolerance)
        for tensor, twin in zip(inputs, twins, strict=True):
            assert tensor.grad is not None
            assert twin.grad is not None
            assert torch.allclose(tensor.grad.double(), twin.grad, atol=tolerance)


def test_a_batch_of_one_teaches_nothing_and_breaks_nothing() -> None:
    one, other, scale = batch(1, dtype=torch.float32)
    loss = info_nce(one, other, scale)
    loss.backward()
    assert loss.item() == 0.0
    for tensor in (one, other, scale):
        assert tensor.grad is not None
        assert (tensor.grad == 0).all()


def test_without_a_mask_photos_of_the_same_species_are_wrong_answers() -> None:
    one, other, scale = batch(7, dtype=torch.float64)
    masked = info_nce(one, other, scale, torch.tensor(LABELS["some_alike"]))
    assert masked.item() < info_nce(one, other, scale).item() - 0.01


def test_vectors_that_say_nothing_cost_the_log_of_the_batch() -> None:
    vectors = torch.ones(7, 4) / 2
    assert info_nce(vectors, vectors, torch.tensor(14.0)).item() == pytest.approx(math.log(7), abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_the_largest_scale_overflows_nothing(scale: float) -> None:
    vectors = torch.eye(7, requires_grad=True)
    loss = info_nce(vectors, -vectors, torch.tensor(scale), torch.tensor(LABELS["some_alike"]))
    loss.backward()
    assert torch.isfinite(loss)
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
