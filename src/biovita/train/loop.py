"""One training stage, read top to bottom."""

import json
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from biovita.errors import StoppedError, TrainError
from biovita.files import write_bytes, write_json
from biovita.log import Progress
from biovita.models.encoder import Encoder
from biovita.train.batches import Batch, Sampler
from biovita.train.checkpoint import Checkpoints
from biovita.train.features import Features
from biovita.train.recipe import Recipe
from biovita.train.schedule import ramp_at, rate_at
from biovita.train.step import backward

Validate = Callable[[Encoder], dict[str, float]]
Signal = Callable[[], int | None]  # the number of a signal that asks the run to stop


def train_stage(
    encoder: Encoder,
    features: Features,
    prompts: Sequence[Sequence[str]],
    recipe: Recipe,
    *,
    log_path: Path,
    checkpoints: Checkpoints,
    validate: Validate | None = None,
    stop: Signal = lambda: None,
) -> dict[str, Any]:
    """Run one stage on the encoder's model, in place.

    Args:
        encoder: model and processor; parameters outside `recipe.trained` end bit for bit as they were.
        features: decoded media of the train split.
        prompts: for each species of `features`, its training texts.
        recipe: the stage.
        log_path: JSON lines, one a step, appended; steps that are done again after a kill appear again.
        checkpoints: where the run goes on from, and where it leaves its state.
        validate: called with the encoder every `validate_every` epochs and at the end; its numbers are logged.
        stop: asked before every step; with a signal's number, the state is saved and the run ends.

    Returns:
        Facts for run.json: steps, names of trained parameters, seconds, last losses.

    Raises:
        TrainError: a pattern matches no parameter; a loss or gradient is not finite (the weights stay those of the step
            before, and `bad_batch.json` beside the log names the batch).
        StoppedError: `stop` asked for it.
    """
    model = encoder.model
    trained = choose_trained(model, recipe.trained)
    optimizer = make_optimizer(model, recipe)
    sampler = Sampler(features, recipe, n_prompts=len(prompts[0]))
    n_steps = recipe.epochs * sampler.steps_per_epoch
    step = checkpoints.resume(model, optimizer)
    started, record = time.monotonic(), {}
    drop_torn_line(log_path)
    with Progress(recipe.stage, n_steps - step, "steps") as bar, log_path.open("a", encoding="utf-8") as log:
        first_epoch, first_step = divmod(step, sampler.steps_per_epoch)
        for epoch in range(first_epoch, recipe.epochs):
            set_modes(model, freeze_batch_norm=recipe.freeze_batch_norm)
            for batch in sampler.epoch(epoch, first=first_step if epoch == first_epoch else 0):
                signal = stop()
                if signal or checkpoints.is_due():
                    checkpoints.save(step, model, optimizer)
                if signal:
                    raise StoppedError(f"{recipe.stage}: stopped after step {step:,} of {n_steps:,}", signal)
                begun = time.monotonic()
                rate, ramp = rate_at(step, n_steps, recipe), ramp_at(step, sampler.steps_per_epoch, recipe)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad()
                loss, losses = backward(encoder, features, prompts, batch, recipe, ramp)
                if not torch.isfinite(loss):
                    raise not_finite("loss", loss, step, batch, features, recipe, log_path)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_gradient)
                if not torch.isfinite(norm):
                    raise not_finite("gradient", norm, step, batch, features, recipe, log_path)
                optimizer.step()
                if model.logit_scale.requires_grad:
                    model.logit_scale.data.clamp_(0.0, float(np.log(recipe.max_logit_scale)))
                step += 1
                record = {
                    "stage": recipe.stage,
                    "step": step,
                    "epoch": step / sampler.steps_per_epoch,
                    "loss": loss.item(),
                    **{f"loss_{pair}": value.item() for pair, value in losses.items()},
                    "lambda": ramp * max(recipe.audio_image, recipe.image_text),
                    "logit_scale": model.logit_scale.exp().item(),
                    "lr": rate,
                    "grad_norm": norm.item(),
                    "samples_per_s": len(batch.label) / (time.monotonic() - begun),
                }
                log.write(json.dumps(record) + "\n")
                log.flush()
                bar.advance(note=f"loss {record['loss']:.3f}")
            last = epoch + 1 == recipe.epochs
            if validate and (last or (epoch + 1) % recipe.validate_every == 0):
                model.eval()
                log.write(json.dumps({"stage": recipe.stage, "step": step, "val": validate(encoder)}) + "\n")
    model.eval()
    return {"n_steps": step, "seconds": time.monotonic() - started, "trained_parameters": trained, "last": record}


def drop_torn_line(log_path: Path) -> None:
    """Cut off what a kill left of the last line."""
    if log_path.is_file():
        content = log_path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            write_bytes(log_path, whole)


def not_finite(
    what: str, value: torch.Tensor, step: int, batch: Batch, features: Features, recipe: Recipe, log_path: Path
) -> TrainError:
    """Write down which items the step held, and say where."""
    report = log_path.with_name("bad_batch.json")
    write_json(report, {"stage": recipe.stage, "step": step, what: str(value.item()), **items_of(batch, features)})
    return TrainError(f"{recipe.stage}: the {what} is {value.item()} at step {step}; {report} names the batch")


def items_of(batch: Batch, features: Features) -> dict[str, list[str | None]]:
    """Name the media of a batch; None where an item has no partner."""
    ids: dict[str, list[str | None]] = {}
    for modality, rows in (("audio", batch.audio), ("image", batch.image)):
        names = features.media.filter(pl.col("modality") == modality).sort("row")["media_id"].to_list()
        ids[modality] = [names[row] if row >= 0 else None for row in rows]
    return ids


def choose_trained(model: torch.nn.Module, patterns: Sequence[str]) -> list[str]:
    """Switch gradients on for parameters that match a pattern, off for all others; return the names that train.

    Raises:
        TrainError: a pattern matches nothing, or there is none.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if pattern == "audio_adapter.*" and isinstance(model.get_submodule("audio_adapter"), torch.nn.Identity):
            continue  # a model that projects straight into the joint space has none
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TrainError(f"trained: '{pattern}' matches no parameter; they are named like {', '.join(names[:3])}")
    if not patterns:
        raise TrainError("trained: no pattern given, so nothing would train")
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in set(chosen))
    return chosen


def set_modes(model: torch.nn.Module, *, freeze_batch_norm: bool) -> None:
    """Put a tower that trains into training mode and a frozen one into evaluation mode.

    HTS-AT begins with a batch norm, whose statistics would otherwise keep moving while its weights are frozen.
    """
    model.eval()
    for name in ("audio_model", "audio_projection", "clip.text_model", "clip.vision_model"):
        tower = model.get_submodule(name)
        tower.train(any(parameter.requires_grad for parameter in tower.parameters()))
    for module in model.modules():
        if freeze_batch_norm and isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
