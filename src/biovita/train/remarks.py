"""What a recipe asks for that the data, or the length of the stage, cannot give; known before the first step."""

import numpy as np
from torch import nn

from biovita.errors import TrainError
from biovita.train.batches import RELATIVES, Sampler
from biovita.train.recipe import Recipe
from biovita.train.schedule import ramp_at
from biovita.train.source import Source
from biovita.train.trainee import PAIRS, TOWERS, learns, letters_of, pairs_of

WORDS = {"a": "sounds", "i": "pictures", "t": "names"}


def check_data(source: Source, recipe: Recipe, sampler: Sampler, *, n_processes: int) -> None:
    """Refuse data that a recipe cannot learn from.

    Raises:
        TrainError: no two species have what a loss compares, or an epoch does not fill a step.
    """
    usable = set().union(*(_shared_by(source, pair) for pair in pairs_of(recipe)))
    if len(usable) < 2:
        needed = " or ".join(f"{WORDS[one]} and {WORDS[other]}" for one, other in pairs_of(recipe))
        found = f"only {source.species[usable.pop()]} has" if usable else "no species has"
        raise TrainError(
            f"{recipe.stage}: {found} {needed} in the train split; a stage tells species apart and needs two of them"
        )
    if recipe.batch_size < 2:
        raise TrainError("batch_size is 1; a loss compares the items of a batch, so it needs at least 2")
    if sampler.steps_per_epoch < recipe.accumulate:
        raise TrainError(
            f"accumulate is {recipe.accumulate}, and an epoch of {sampler.n_draws:,} items has only "
            f"{sampler.steps_per_epoch} batches of {recipe.batch_size}; lower accumulate or batch_size"
        )
    if n_processes > 1 and sampler.n_draws < recipe.batch_size:
        raise TrainError(
            f"batch_size is {recipe.batch_size}, and an epoch has only {sampler.n_draws:,} items for {n_processes} "
            f"processes; set batch_size to at most {sampler.n_draws // n_processes * n_processes}"
        )


def remarks(
    model: nn.Module, source: Source, recipe: Recipe, sampler: Sampler, *, n_steps: int, steps_per_epoch: int
) -> list[str]:
    """Say what has no effect, or another than the words promise.

    Args:
        model: what trains is already chosen.
        source: of the train split.
        recipe: of the stage.
        sampler: of both.
        n_steps: of the stage.
        steps_per_epoch: steps of the optimizer.
    """
    said = []
    for pair in pairs_of(recipe):
        if not _shared_by(source, pair):
            said.append(
                f"{PAIRS[pair]} is {getattr(recipe, PAIRS[pair]):g}, and no species of the train split has both "
                f"{WORDS[pair[0]]} and {WORDS[pair[1]]}; this loss takes no part"
            )
    for letter in sorted(TOWERS):
        if letter not in letters_of(recipe) and learns(model, letter):
            said.append(f"trained names the tower of {WORDS[letter]}, which no loss of the stage uses; it will stay")
    if sampler.n_draws < recipe.batch_size:
        said.append(f"batch_size is {recipe.batch_size}, and an epoch has {sampler.n_draws:,} items: one batch")
    if recipe.hard_negatives != "none":
        kin = source.lineage[np.flatnonzero(sampler.counts), RELATIVES[recipe.hard_negatives]]
        if len(np.unique(kin)) == len(kin):
            said.append(f"hard_negatives: no {recipe.hard_negatives} of the train split has two species; no effect")
    if recipe.warmup_steps > n_steps:
        said.append(f"warmup_steps is {recipe.warmup_steps:,}; the stage ends after {n_steps:,}, still below its rate")
    if min(ramp_at(n_steps, steps_per_epoch, recipe, pair) for pair in ("ai", "it")) < 1:
        said.append(f"the ramp of AIC and ITC is longer than the {n_steps:,} steps of the stage; it ends on the way")
    for pattern, step in recipe.from_steps.items():
        if step >= n_steps:
            said.append(f"from_steps: '{pattern}' begins at step {step:,}; the stage ends after {n_steps:,}")
    looks = (n_steps - 1) // max(1, round(recipe.validate_every * steps_per_epoch))
    if recipe.patience > looks:
        said.append(f"patience is {recipe.patience}, and only {looks} looks come before the end; it stops nothing")
    if recipe.ema and (memory := 1 / (1 - recipe.ema)) > n_steps:
        said.append(f"ema {recipe.ema} remembers {memory:,.0f} steps; {n_steps:,} leave the mean near where it began")
    return said


def _shared_by(source: Source, pair: str) -> set[int]:
    """Number the species of the train split that have both modalities of a pair; every species has a name."""
    has = {letter: set(source.rows(name, "train")["label"]) for letter, name in (("a", "audio"), ("i", "image"))}
    has["t"] = has["a"] | has["i"]
    return has[pair[0]] & has[pair[1]]
