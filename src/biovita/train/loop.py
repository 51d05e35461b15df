"""One training stage, read top to bottom."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from biovita.errors import StoppedError, TrainError
from biovita.files import write_bytes, write_json
from biovita.log import Progress, say, warn
from biovita.models.encoder import Encoder
from biovita.models.vita import BioVitaModel
from biovita.train import lora, ranks
from biovita.train.banks import fill_banks
from biovita.train.batches import Batch, Sampler
from biovita.train.checkpoint import Checkpoints, State, read_tensors, weights_of, write_tensors
from biovita.train.engine import Engine
from biovita.train.feed import Feed
from biovita.train.gate import Keeper
from biovita.train.recipe import Recipe
from biovita.train.remarks import check_data, remarks
from biovita.train.schedule import rate_at, weights_at
from biovita.train.sharding import all_whole, clip_gradient, like, sharded, share_numbers
from biovita.train.source import Source
from biovita.train.step import Step, letters_of
from biovita.train.track import numbers_of
from biovita.train.trainee import Trainee, autocast
from biovita.train.work import Work

BEST = "best.safetensors"
ALONE = Engine()
UNUSED = "clip.logit_scale"  # CLIP's own; ours stands beside the towers
Validate = Callable[[Encoder], dict[str, float]]
Signal = Callable[[], int | None]  # the number of a signal that asks the run to stop
Track = Callable[[dict[str, float], int], None]


@dataclass
class Looks:
    """What the looks at the validation split have found so far.

    Attributes:
        best: highest mean top-1.
        since: looks after that one.
        last: mean top-1 of the last look.
    """

    best: float = -1.0
    since: int = 0
    last: float = -1.0

    def note(self, top1: dict[str, float]) -> bool:
        """Take a look's numbers; tell whether it is the best so far."""
        self.last = score = float(np.mean(list(top1.values()))) if top1 else -1.0
        is_best = score > self.best
        self.best, self.since = (score, 0) if is_best else (self.best, self.since + 1)
        return is_best


def train_stage(
    encoder: Encoder,
    source: Source,
    prompts: Sequence[Sequence[str]],
    recipe: Recipe,
    *,
    log_path: Path,
    checkpoints: Checkpoints,
    validate: Validate | None = None,
    odds: Mapping[str, Any] | None = None,
    stop: Signal = lambda: None,
    engine: Engine = ALONE,
    banks: Path | None = None,
    open_track: Callable[[int], Track] = lambda done: lambda numbers, step: None,
) -> dict[str, Any]:
    """Run one stage on the encoder's model, in place.

    With several processes, each calls this with the same arguments and takes its share of every batch.

    Args:
        encoder: model and processor; parameters outside `recipe.trained` end bit for bit as they were.
        source: media of the train split.
        prompts: for each species of `source`, its training texts.
        recipe: the stage.
        log_path: JSON lines, one a step, appended; steps that are done again after a kill appear again.
        checkpoints: where the run goes on from, and where it leaves its state.
        validate: called with an encoder of the weights so far before the first step, every `validate_every` epochs
            and at the end.
        odds: what a look's numbers mean, written beside them.
        stop: asked before every step; with a signal's number, the state is saved and the run ends.
        engine: how the stage runs; changes nothing but the last digits.
        banks: folder for vectors of frozen towers; by default beside the checkpoints.
        open_track: called with the steps done before; what it returns is given every step's numbers and every look's.

    Returns:
        Facts for run.json: steps, names of trained parameters, seconds, last losses, what the looks found.

    Raises:
        ConfigError: the recipe does not suit so many processes.
        TrainError: a pattern matches no parameter; the data cannot give what the recipe asks for; a loss or gradient
            is not finite (the weights stay those of the step before, and `bad_batch.json` beside the log names the
            batch).
        StoppedError: `stop` asked for it.
    """
    model = encoder.model
    accelerator = engine.start()
    model.to(accelerator.device)
    if recipe.lora_rank:
        trained = lora.add(model, recipe.trained, recipe.lora_rank)
    else:
        trained = choose_trained(model, recipe.trained)
    sampler = Sampler(source, recipe, n_prompts=len(prompts[0]))
    steps_per_epoch = max(1, sampler.steps_per_epoch // recipe.accumulate)
    n_steps = recipe.epochs * steps_per_epoch
    look_every = max(1, round(recipe.validate_every * steps_per_epoch))
    check_data(source, recipe, sampler, n_processes=ranks.world_size())
    has_looks = not odds or bool(odds["n_queries"])
    if not has_looks and (recipe.patience or recipe.keep == "best"):
        raise TrainError("patience and keep = 'best' go by looks at the val split, and it is empty; leave them out")
    if ranks.rank() == 0:
        for remark in remarks(model, source, recipe, sampler, n_steps=n_steps, steps_per_epoch=steps_per_epoch):
            warn(f"{recipe.stage}: {remark}")
        if not has_looks:
            warn(f"{recipe.stage}: the val split is empty, so nothing will tell whether it learns")
    kept = fill_banks(encoder, source, prompts, recipe, banks or checkpoints.folder.with_name("banks"))
    letters = {letter for letter in letters_of(recipe) if letter not in kept}
    feed = Feed(source, encoder.processor, prompts, recipe, letters)
    if recipe.logit_scale:
        model.logit_scale.data.fill_(float(np.log(recipe.logit_scale)))
    acting = sharded(encoder) if engine.sharded and ranks.world_size() > 1 else encoder
    model = acting.model
    trainee = Trainee(model, recipe)
    wrapped = engine.wrap(accelerator, trainee, recipe)
    optimizer = make_optimizer(trainee, recipe)
    mean = {name: tensor.clone() for name, tensor in weights_of(trainee).items()} if recipe.ema else {}
    keeper, looks = Keeper(recipe.gate), Looks()
    state = State(trainee, optimizer, mean, {"gate": keeper.state(), "looks": vars(looks), "seconds": 0.0})
    step = checkpoints.resume(state)
    keeper.take(state.memory["gate"])
    looks = Looks(**state.memory["looks"])
    track = open_track(step)
    work = Step(wrapped, encoder.processor, source.lineage, recipe, accelerator, kept)
    rate = Work(accelerator.device, recipe.precision)
    best = log_path.with_name(BEST)

    def look() -> bool:
        """Validate; tell whether to stop early."""
        if not validate:
            return False
        model.eval()
        with Averaged(trainee, mean), autocast(accelerator.device, recipe.precision):
            top1 = validate(acting)
            if looks.note(top1) and recipe.keep == "best":
                weights = all_whole(weights_of(trainee))
                if ranks.rank() == 0:
                    write_tensors(best, weights)
        write({"stage": recipe.stage, "step": step, "val": top1, **(odds or {})})
        set_modes(model, freeze_batch_norm=recipe.freeze_batch_norm)
        return 0 < recipe.patience <= looks.since

    def write(line: dict[str, Any]) -> None:
        if ranks.rank() == 0:
            log.write(json.dumps(line) + "\n")
            log.flush()
            track(numbers_of(line), step)

    started, record = time.monotonic() - state.memory.get("seconds", 0.0), {}
    if ranks.rank() == 0:
        drop_torn_line(log_path)
    set_modes(model, freeze_batch_norm=recipe.freeze_batch_norm)
    with Progress(recipe.stage, n_steps - step, "steps") as bar, log_path.open("a", encoding="utf-8") as log:
        if step == 0:
            look()
            if recipe.gate.above:
                keeper.before = measure_atc(work, feed, sampler, recipe)
        batches = own_batches(sampler, recipe, first=step, steps_per_epoch=steps_per_epoch)
        stream = feed.stream(batches, workers=engine.workers)
        ended_early = False
        while step < n_steps and not ended_early:
            is_due = ranks.rank() == 0 and checkpoints.is_due()
            signal, due = ranks.highest(torch.tensor([stop() or 0, is_due], device=accelerator.device)).tolist()
            if signal or due:
                seconds = time.monotonic() - started
                state.memory = {"gate": keeper.state(), "looks": vars(looks), "seconds": seconds}
                checkpoints.save(step, state)
            if signal:
                raise StoppedError(f"{recipe.stage}: stopped after step {step:,} of {n_steps:,}", signal)
            begun = time.monotonic()
            weights = weights_at(step, steps_per_epoch, recipe, gate_open=keeper.is_open)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, n_steps, recipe, group["peak"])
            optimizer.zero_grad()
            losses: dict[str, float] = {}
            inputs, waited_s, n_items, batches = next(stream), 0.0, 0, []
            with rate.counted():
                for n in range(recipe.accumulate):
                    inputs = next(stream) if n else inputs
                    batches.append(inputs.batch)
                    last = n + 1 == recipe.accumulate
                    with nullcontext() if last else accelerator.no_sync(wrapped):
                        loss, parts = work.backward(inputs, weights, keeper, share=1 / recipe.accumulate)
                    if not torch.isfinite(loss):
                        raise not_finite("loss", loss, step, batches[-1:], source, recipe, log_path)
                    for name, value in (
                        {"loss": loss} | {f"loss_{pair}": part for pair, part in parts.items()}
                    ).items():
                        losses[name] = losses.get(name, 0.0) + value.item() / recipe.accumulate
                    waited_s += inputs.waited_s
                    n_items += len(inputs.batch.label) * ranks.world_size()
            leave_out_later_ones(optimizer, step)
            if acting is not encoder:
                share_numbers(trainee.parameters())
            norm = clip_gradient(trainee.parameters(), recipe.clip_gradient)
            if not torch.isfinite(norm):
                raise not_finite("gradient", norm, step, batches, source, recipe, log_path)
            optimizer.step()
            if model.logit_scale.requires_grad:
                model.logit_scale.data.clamp_(0.0, float(np.log(recipe.max_logit_scale)))
            average(mean, trainee, recipe.ema)
            if recipe.gate.above and "loss_at" in losses:
                keeper.note(losses["loss_at"])
            step += 1
            seconds = time.monotonic() - begun
            record = {
                "stage": recipe.stage,
                "step": step,
                "epoch": step / steps_per_epoch,
                **losses,
                "lambda": max(weights["ai"], weights["it"]),
                "logit_scale": model.logit_scale.exp().item(),
                "lr": rate_at(step - 1, n_steps, recipe),
                "grad_norm": norm.item(),
                "samples_per_s": n_items / seconds,
                "wait_share": waited_s / seconds,
                "peak_share": rate.share(seconds),
            }
            write(record)
            if step % look_every == 0 or step == n_steps:
                ended_early = look() and step < n_steps
            seen = f", {100 * looks.last:.1f} % right at the last look" if looks.last >= 0 else ""
            bar.advance(note=f"loss {record['loss']:.3f}{seen}")
    if ended_early:
        say(f"{recipe.stage}: {looks.since} looks without a better one; stopped after step {step:,} of {n_steps:,}")
    take_on(trainee, mean)
    if recipe.keep == "best" and best.is_file():
        ranks.barrier()
        take_on(trainee, read_tensors(best))
    if acting is not encoder:
        encoder.model.load_state_dict(all_whole(model.state_dict()))
    if recipe.lora_rank:
        lora.merge(encoder.model)
    encoder.model.eval()
    return {
        "n_steps": step,
        "seconds": time.monotonic() - started,
        "trained_parameters": trained,
        "banks": sorted(kept),
        "n_processes": ranks.world_size(),
        "best_mean_top1": looks.best if looks.best >= 0 else None,
        "last": record,
    }


def own_batches(sampler: Sampler, recipe: Recipe, *, first: int, steps_per_epoch: int) -> Iterator[Batch]:
    """Yield this process's rows of every batch, from the step `first` to the end of the stage."""
    size, n = recipe.batch_size // ranks.world_size(), recipe.accumulate
    own = slice(ranks.rank() * size, (ranks.rank() + 1) * size) if ranks.world_size() > 1 else slice(None)
    first_epoch, first_step = divmod(first, steps_per_epoch)
    for epoch in range(first_epoch, recipe.epochs):
        start = first_step * n if epoch == first_epoch else 0
        whole = sampler.epoch(epoch, first=start)
        for batch in islice(whole, steps_per_epoch * n - start):
            yield batch.part(own)


def measure_atc(work: Step, feed: Feed, sampler: Sampler, recipe: Recipe) -> float:
    """Mean of ATC over the first batches, before training."""
    own = own_batches(sampler, recipe, first=0, steps_per_epoch=max(1, sampler.steps_per_epoch // recipe.accumulate))
    found = []
    with torch.no_grad():
        for batch in islice(own, recipe.gate.patience):
            losses = work.losses(work.embed(feed.inputs(batch)), batch)
            found += [losses["at"].item()] if "at" in losses else []
    return float(np.mean(found))


class Averaged:
    """Within it, the model has its averaged weights; without averages nothing happens."""

    def __init__(self, trainee: Trainee, mean: dict[str, torch.Tensor]) -> None:
        self.trainee, self.mean = trainee, mean

    def __enter__(self) -> None:
        self.own = {name: tensor.clone() for name, tensor in weights_of(self.trainee).items()} if self.mean else {}
        take_on(self.trainee, self.mean)

    def __exit__(self, *_: object) -> None:
        take_on(self.trainee, self.own)


@torch.no_grad()
def average(mean: dict[str, torch.Tensor], trainee: Trainee, memory: float) -> None:
    """Move the averages a step towards the weights; counts and buffers are taken as they are."""
    if not mean:
        return
    for name, tensor in weights_of(trainee).items():
        if tensor.is_floating_point():
            mean[name].lerp_(tensor, 1 - memory)
        else:
            mean[name].copy_(tensor)


@torch.no_grad()
def take_on(trainee: Trainee, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights in."""
    own = weights_of(trainee)
    for name, tensor in weights.items():
        own[name].copy_(like(own[name], tensor))


def leave_out_later_ones(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Forget the gradients of groups that begin later."""
    for group in optimizer.param_groups:
        if step < group["from_step"]:
            for parameter in group["params"]:
                parameter.grad = None


def drop_torn_line(log_path: Path) -> None:
    """Cut off what a kill left of the last line."""
    if log_path.is_file():
        content = log_path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            write_bytes(log_path, whole)


def not_finite(
    what: str, value: torch.Tensor, step: int, batches: list[Batch], source: Source, recipe: Recipe, log_path: Path
) -> TrainError:
    """Write down which items the batches held, and say where."""
    report = log_path.with_name("bad_batch.json" if ranks.rank() == 0 else f"bad_batch-{ranks.rank()}.json")
    write_json(report, {"stage": recipe.stage, "step": step, what: str(value.item()), **items_of(batches, source)})
    return TrainError(
        f"{recipe.stage}: the {what} is {value.item()} at step {step}; {report} names the batch: look at its files, or "
        "lower learning_rate"
    )


def items_of(batches: list[Batch], source: Source) -> dict[str, list[str | None]]:
    """Name the media of batches; None where an item has no partner."""
    ids: dict[str, list[str | None]] = {}
    for modality in ("audio", "image"):
        names = source.media.filter(pl.col("modality") == modality).sort("row")["media_id"].to_list()
        rows = np.concatenate([getattr(batch, modality) for batch in batches])
        ids[modality] = [names[row] if row >= 0 else None for row in rows]
    return ids


def check_patterns(model: BioVitaModel, recipe: Recipe) -> None:
    """Refuse patterns that match nothing, which costs nothing yet; `train_stage` comes after all media are decoded.

    Raises:
        TrainError: a pattern matches nothing, or nothing that trains.
    """
    if recipe.lora_rank:
        lora.reached_by(model, recipe.trained, recipe.lora_rank)
    else:
        choose_trained(model, recipe.trained)
        make_optimizer(Trainee(model, recipe), recipe)


def choose_trained(model: torch.nn.Module, patterns: Sequence[str]) -> list[str]:
    """Switch gradients on for parameters that match a pattern, off for all others; return the names that train.

    Raises:
        TrainError: a pattern matches nothing, or there is none.
    """
    names = [name for name, _ in model.named_parameters() if name != UNUSED]
    for pattern in patterns:
        if pattern == "audio_adapter.*" and isinstance(model.get_submodule("audio_adapter"), torch.nn.Identity):
            continue  # a model that projects straight into the joint space has none
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = {".".join([*name.split(".")[:n], "*"]) for name in names for n in range(1, name.count(".") + 1)}
            near = get_close_matches(pattern, sorted(parts | set(names)), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"they are named like {', '.join(names[:3])}"
            raise TrainError(f"trained: '{pattern}' matches no parameter; {hint}")
    if not patterns:
        raise TrainError("trained: no pattern given, so nothing would train")
    chosen = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return [name for name in names if name in chosen]


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


def make_optimizer(trainee: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over groups of parameters that share rate, weight decay and first step.

    Matrices and filters decay; norms, biases and scalars do not, unless `decays` has the pattern `*`. Each pattern of
    `rates`, `decays` and `from_steps` gives the parameters that it matches another value; of several that match the
    first counts.

    Raises:
        TrainError: a pattern matches nothing that trains.
    """
    trained = {name.removeprefix("model."): p for name, p in trainee.named_parameters() if p.requires_grad}
    for what in ("rates", "decays", "from_steps"):
        for pattern in getattr(recipe, what):
            if not any(fnmatchcase(name, pattern) for name in trained):
                raise TrainError(f"{what}: '{pattern}' matches nothing that trains; see `trained`")

    def chosen(table: dict[str, Any], name: str, default: Any) -> Any:
        return next((value for pattern, value in table.items() if fnmatchcase(name, pattern)), default)

    groups: dict[tuple[float, float, int], list[torch.nn.Parameter]] = {}
    for name, parameter in trained.items():
        spared = parameter.ndim < 2 and "*" not in recipe.decays
        decay = 0.0 if spared else chosen(recipe.decays, name, recipe.weight_decay)
        key = (chosen(recipe.rates, name, recipe.learning_rate), decay, chosen(recipe.from_steps, name, 0))
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "peak": peak, "from_step": from_step}
            for (peak, decay, from_step), parameters in groups.items()
        ],
        lr=recipe.learning_rate,
        betas=(0.9, recipe.beta2),
    )
