"""Two processes are one: the same batches, loss, gradients and stage."""

import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from by_hand import make_batch, prompts_of, read_batch
from torch import multiprocessing

from biovita.errors import ConfigError
from biovita.models import hub
from biovita.train import ranks
from biovita.train.batches import Batch
from biovita.train.checkpoint import Checkpoints
from biovita.train.engine import Engine
from biovita.train.features import Features
from biovita.train.loop import choose_trained, own_batches, set_modes, train_stage
from biovita.train.recipe import Recipe
from biovita.train.step import Step
from biovita.train.trainee import Trainee

COUNTS = [(3, 3), (2, 3), (3, 0), (2, 2), (0, 2)]
WEIGHTS = {"at": 1.0, "ai": 0.25, "it": 0.125}
RECIPE = Recipe(
    audio_text=1.0, audio_image=0.5, image_text=0.5, epochs=2, batch_size=4, min_per_species=2, max_per_species=4,
    learning_rate=1e-3, freeze_batch_norm=True, trained=("*",),
)  # fmt: skip
KINDS = {
    "plain": {},
    "in pieces": {"micro_batch": 1},
    "with a bank": {"trained": ("audio_model.*", "audio_projection.*", "clip.text_model.*", "logit_scale")},
    "sigmoid": {"loss": "sigmoid", "same_species": "positive", "kinship": 0.3},
    "two batches a step": {"accumulate": 2},
    "averaged": {"ema": 0.5, "keep": "best", "clip_gradient": 0.5},
}

GRADIENTS = ("plain", "in pieces", "sigmoid")
STAGES = ("plain", "with a bank", "two batches a step", "averaged", "sigmoid")

pytestmark = pytest.mark.slow


def recipe_of(kind: str) -> Recipe:
    return Recipe(**{**vars(RECIPE), **KINDS[kind]})


def as_process(rank: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    """Be one of two processes, as torchrun would have it."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"})
    torch.set_num_threads(1)
    work(*arguments)
    torch.distributed.destroy_process_group()


def spawn(work: Callable[..., None], *arguments: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(as_process, (port, work, *arguments), nprocs=2)


def gradients(features: Features, folder: Path) -> None:
    """Write the loss and the gradient of the first batch, for every kind of stage."""
    for kind in GRADIENTS:
        recipe = replace(recipe_of(kind), batch_size=8)
        engine = Engine(cpu=True)
        accelerator = engine.start()
        encoder = hub.start("tiny", [text for texts in prompts_of(features) for text in texts], seed=1)
        choose_trained(encoder.model, recipe.trained)
        set_modes(encoder.model, freeze_batch_norm=True)
        trainee = Trainee(encoder.model, recipe)
        trainee.double()  # in float32 a batch of four has other roundings than one of eight
        wrapped = engine.wrap(accelerator, trainee, recipe)
        processor: Any = InDouble(encoder.processor)
        step = Step(wrapped, processor, features.lineage, recipe, accelerator)
        batch = next(own_batches(OneBatch(), recipe, first=0, steps_per_epoch=1))
        inputs = read_batch(encoder, features, batch, recipe)
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            loss, _ = step.backward(replace(inputs, mels=inputs.mels.double()), WEIGHTS)
        if ranks.rank() == 0:
            slopes = {name: p.grad for name, p in trainee.named_parameters() if p.grad is not None and p.grad.any()}
            torch.save({"loss": loss, "slopes": slopes}, folder / f"{kind} {ranks.world_size()}.pt")


class InDouble:
    """A processor whose pixels are float64."""

    def __init__(self, processor: Any) -> None:
        self.pixels = lambda squares: processor.pixels(squares).double()
        self.image_processor, self.feature_extractor = processor.image_processor, processor.feature_extractor


class OneBatch:
    """A sampler of a single batch; its first half has all modalities, of its second half no item has a picture."""

    def epoch(self, epoch: int, first: int = 0) -> Sequence[Batch]:
        return [make_batch([0, 3, 5, 9, 1, -1, 6, 8], [0, 4, 2, 6, -1, -1, -1, -1], [0, 1, 2, 3, 0, 4, 2, 3])]


def test_two_processes_have_the_loss_and_gradient_of_one(
    make_features: Callable[..., Features], tmp_path: Path
) -> None:
    features = make_features(COUNTS)
    gradients(features, tmp_path)
    spawn(gradients, features, tmp_path)
    for kind in GRADIENTS:
        one, two = (torch.load(tmp_path / f"{kind} {n}.pt", weights_only=True) for n in (1, 2))
        assert two["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-6)
        assert len(one["slopes"]) > 10
        assert one["slopes"].keys() == two["slopes"].keys()
        whole = torch.stack([slope.norm() for slope in one["slopes"].values()]).norm()
        for name, slope in one["slopes"].items():  # what is zero but for rounding is measured by the whole
            assert (two["slopes"][name] - slope).norm() <= 1e-6 * max(slope.norm(), 1e-6 * whole), (kind, name)


def stage(features: Features, kind: str, folder: Path, seconds: float, *, sharded: bool = False) -> None:
    recipe = recipe_of(kind)
    encoder = hub.start("tiny", [text for texts in prompts_of(features) for text in texts], seed=1)
    if ranks.rank() == 0:
        folder.mkdir(exist_ok=True)
    ranks.barrier()
    train_stage(
        encoder, features, prompts_of(features), recipe, log_path=folder / "log.jsonl",
        engine=Engine(cpu=True, sharded=sharded),
        checkpoints=Checkpoints(folder / "checkpoints", key="a run", every_s=seconds),
        validate=lambda encoder: {"a2t": encoder.model.logit_scale.item()},
    )  # fmt: skip
    torch.save(encoder.model.state_dict(), folder / f"{ranks.rank()}.pt")


def stages(features: Features, folder: Path) -> None:
    """Run every kind of stage; one once more, with a checkpoint at every step, and again from the last of these."""
    Engine(cpu=True).start()
    for kind in STAGES:
        stage(features, kind, folder / f"{kind} {ranks.world_size()}", 600.0)
    for seconds in (0.0, 600.0) if ranks.world_size() == 2 else ():
        stage(features, "plain", folder / "resumed", seconds)
        stage(features, "averaged", folder / "sharded resumed", seconds, sharded=True)
    if ranks.world_size() == 2:
        for kind in ("averaged", "sigmoid"):
            stage(features, kind, folder / f"{kind} sharded", 600.0, sharded=True)
    if ranks.world_size() == 2:
        refuse({"batch_size": 5}, "batch_size 5 is not a multiple of the 2 processes")
        refuse({"freeze_batch_norm": False}, "2 processes and freeze_batch_norm is false")


def refuse(fields: dict[str, Any], said: str) -> None:
    recipe, engine = replace(RECIPE, **fields), Engine(cpu=True)
    encoder = hub.start("tiny", ["a name"], seed=1)
    with pytest.raises(ConfigError, match=said):
        engine.wrap(engine.start(), Trainee(encoder.model, recipe), recipe)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_stage_on_two_processes_goes_as_on_one_and_goes_on_bit_for_bit(
    make_features: Callable[..., Features], tmp_path: Path
) -> None:
    features = make_features(COUNTS)
    stages(features, tmp_path)
    spawn(stages, features, tmp_path)
    for kind in STAGES:
        one, two = ([line["loss"] for line in lines_of(tmp_path / f"{kind} {n}") if "loss" in line] for n in (1, 2))
        assert len(one) == (2 if kind == "two batches a step" else 6)
        assert two[0] == pytest.approx(one[0], rel=1e-6)
        assert two == pytest.approx(one, rel=1e-4)  # rounding grows from step to step
        first, second = (torch.load(tmp_path / f"{kind} 2" / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert (max((tmp_path / "resumed" / "checkpoints").iterdir()) / "random-1.safetensors").is_file()
    steps = [line["step"] for line in lines_of(tmp_path / "resumed") if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6, 6]
    for pair in (("plain 2", "resumed"), ("averaged sharded", "sharded resumed")):
        one, other = (torch.load(tmp_path / name / "1.pt", weights_only=True) for name in pair)
        assert all(torch.equal(one[name], other[name]) for name in one)
    for kind in ("averaged", "sigmoid"):
        lines, plain_lines = lines_of(tmp_path / f"{kind} sharded"), lines_of(tmp_path / f"{kind} 2")
        for name in ("loss", "grad_norm", "logit_scale"):
            one, other = ([line[name] for line in some if name in line] for some in (lines, plain_lines))
            assert one == pytest.approx(other, rel=1e-3)
            assert one[0] == pytest.approx(other[0], rel=1e-6 if name == "loss" else 1e-5)
