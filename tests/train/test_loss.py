"""TWINS: the loss against a plain loop, forward and gradient; RANKS: two processes against one."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import multiprocessing

from biovita.train import loss as loss_module
from biovita.train.loss import Form, Targets, contrastive

SPECIES = (0, 1, 0, 2, 1, 0, 3)
GENUS = (0, 0, 0, 1, 0, 0, 1)
LINEAGE = torch.tensor([SPECIES, GENUS, (0,) * 7]).T
PRESENT = torch.tensor([True, True, False, True, True, True, True])
TARGETS = [
    Targets(same_species=same, kinship=kinship)
    for same, kinship in itertools.product(("masked", "positive", "negative"), (0.0, 0.3))
]
IDS = [f"{targets.same_species}-{targets.kinship}" for targets in TARGETS]


def right(i: int, j: int, targets: Targets) -> float | None:
    """How right j is for i; None if the pair takes no part."""
    if i == j:
        return 1.0
    if SPECIES[i] == SPECIES[j]:
        return {"masked": None, "positive": 1.0, "negative": 0.0}[targets.same_species]
    if GENUS[i] == GENUS[j]:
        return targets.kinship
    return targets.kinship**2


def slow(
    one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, targets: Targets, form: Form,
    rows: list[int],
) -> torch.Tensor:  # fmt: skip
    total = torch.zeros((), dtype=torch.float64)
    if form == "sigmoid":
        for i, j in itertools.product(rows, rows):
            weight = right(i, j, targets)
            if weight is not None:
                yes = torch.sigmoid(scale * (one[i] * other[j]).sum() + bias)
                total = total - weight * torch.log(yes) - (1 - weight) * torch.log(1 - yes)
        return total / len(rows)
    for asked, offered in ((one, other), (other, one)):
        for i in rows:
            candidates = [(right(i, j, targets), scale * (asked[i] * offered[j]).sum()) for j in rows]
            candidates = [(weight, logit) for weight, logit in candidates if weight is not None]
            everything = torch.stack([torch.exp(logit) for _, logit in candidates]).sum()
            weights = sum(weight for weight, _ in candidates)
            for weight, logit in candidates:
                total = total - weight / weights * torch.log(torch.exp(logit) / everything)
    return total / (2 * len(rows))


def batch(n: int = 7, width: int = 5, *, dtype: torch.dtype = torch.float64, scale: float = 7.5) -> list[torch.Tensor]:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(2, n, width))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    values = (*rows, np.array(scale), np.array(-1.5))
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in values]


def graded(loss: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    loss.backward()
    return [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.double() for tensor in inputs]


@pytest.fixture(params=[(1 << 30, 1 << 30), (60, 0), (60, 120)], ids=["whole", "blocks", "some_kept"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split seven rows into blocks of seven, or of two with a tail of one; keep all of them, none, or two."""
    monkeypatch.setattr(loss_module, "BLOCK_BYTES", request.param[0])
    monkeypatch.setattr(loss_module, "KEPT_BYTES", request.param[1])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("everyone", [True, False], ids=["all", "one_absent"])
@pytest.mark.parametrize("targets", TARGETS, ids=IDS)
@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_the_loss_and_its_gradient_equal_a_plain_loop(form: Form, targets: Targets, everyone: bool) -> None:
    rows = [n for n in range(7) if everyone or PRESENT[n]]
    twins = batch()
    expected = slow(*twins, targets, form, rows)
    slopes = graded(expected, twins)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        inputs = batch(dtype=dtype)
        found = contrastive(
            *inputs[:3], LINEAGE, present=None if everyone else PRESENT, targets=targets, form=form, bias=inputs[3]
        )
        assert found.item() == pytest.approx(expected.item(), abs=tolerance)
        for slope, twin in zip(graded(found, inputs), slopes, strict=True):
            assert torch.allclose(slope, twin, atol=tolerance)


def test_a_batch_of_one_teaches_nothing_and_breaks_nothing() -> None:
    inputs = batch(1, dtype=torch.float32)
    loss = contrastive(*inputs[:3], torch.zeros(1, 1, dtype=torch.int64))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    for slope in graded(loss, inputs):
        assert slope.abs().max() < 1e-5


def test_a_batch_in_which_no_row_has_both_costs_nothing() -> None:
    inputs = batch()
    loss = contrastive(*inputs[:3], LINEAGE, present=torch.zeros(7, dtype=torch.bool))
    assert loss.item() == 0
    assert all((slope == 0).all() for slope in graded(loss, inputs))


def test_without_a_mask_photos_of_the_same_species_are_wrong_answers() -> None:
    one, other, scale, _ = batch()
    masked = contrastive(one, other, scale, LINEAGE)
    assert masked.item() < contrastive(one, other, scale, LINEAGE, targets=Targets("negative")).item() - 0.01


def test_vectors_that_say_nothing_cost_the_log_of_the_batch() -> None:
    vectors, species = torch.ones(7, 4) / 2, torch.arange(7)[:, None]
    assert contrastive(vectors, vectors, torch.tensor(14.0), species).item() == pytest.approx(math.log(7), abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 14.3, 69.0, 71.0, 100.0])
def test_the_largest_scale_overflows_and_loses_nothing(scale: float) -> None:
    """Opposite partners: every right answer is the worst of all, and those of a masked species stand alone."""
    vectors = torch.eye(7, requires_grad=True)
    loss = contrastive(vectors, -vectors, torch.tensor(scale), LINEAGE)
    loss.backward()
    rivals = [sum(SPECIES[i] != SPECIES[j] for j in range(7)) for i in range(7)]
    expected = np.mean([np.logaddexp(-scale, math.log(n)) + scale for n in rivals])
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


def test_the_loss_takes_no_part_in_autocast() -> None:
    inputs = batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive(*inputs[:3], LINEAGE)
    assert found.item() == contrastive(*inputs[:3], LINEAGE).item()


def two_ranks(rank: int, folder: str, targets: Targets, form: Form) -> None:
    """Take half of eight rows, and write the loss and the gradients of the mean over both processes."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    inputs, lineage, present = eight()
    half = slice(4 * rank, 4 * rank + 4)
    own = [inputs[0][half].detach().requires_grad_(), inputs[1][half].detach().requires_grad_(), *inputs[2:]]
    loss = contrastive(*own[:3], lineage[half], present=present[half], targets=targets, form=form, bias=own[3])
    slopes = graded(loss, own)
    torch.save([loss.detach(), *slopes], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def eight() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    lineage = torch.cat([LINEAGE, torch.tensor([[4, 2, 0]])])
    return batch(8), lineage, torch.tensor([*PRESENT.tolist(), True])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_two_processes_have_the_loss_and_gradients_of_one(form: Form, tmp_path: Path) -> None:
    for number, targets in enumerate((Targets(), Targets("positive", 0.3))):
        folder = tmp_path / str(number)
        folder.mkdir()
        inputs, lineage, present = eight()
        loss = contrastive(*inputs[:3], lineage, present=present, targets=targets, form=form, bias=inputs[3])
        expected = graded(loss, inputs)
        multiprocessing.spawn(two_ranks, (str(folder), targets, form), nprocs=2)
        ranks: list[list[Any]] = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
        for found in ranks:
            assert found[0].item() == pytest.approx(loss.item(), rel=1e-12)
        for n in (1, 2):  # vectors: each process has its own rows, and distributed training halves what it has
            assert torch.allclose(torch.cat([found[n] for found in ranks]) / 2, expected[n - 1], rtol=1e-10)
        for n in (3, 4):  # scale and bias: the mean over processes
            assert torch.allclose((ranks[0][n] + ranks[1][n]) / 2, expected[n - 1], rtol=1e-10)
