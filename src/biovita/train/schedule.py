"""Learning rate and loss weights as pure functions of the step."""

import math

from biovita.train.recipe import Recipe


def rate_at(step: int, n_steps: int, recipe: Recipe) -> float:
    """Learning rate of a step, counting from 0."""
    rate = recipe.learning_rate
    if step < recipe.warmup_steps:
        return rate * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return rate
    done = (step - recipe.warmup_steps) / max(1, n_steps - recipe.warmup_steps)
    return rate * 0.5 * (1.0 + math.cos(math.pi * done))


def ramp_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Share of λ that is switched on at a step: linear from 0 to 1 over `ramp_epochs`.

    Source:
        BioVITA (arXiv 2603.23883): λ grows linearly over the first two epochs of stage 2.
    """
    if recipe.ramp_epochs <= 0:
        return 1.0
    return min(1.0, step / (recipe.ramp_epochs * steps_per_epoch))
