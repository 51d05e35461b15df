"""Learning rate and loss weights as pure functions of the step."""

import math

from biovita.train.recipe import Recipe


def rate_at(step: int, n_steps: int, recipe: Recipe, peak: float | None = None) -> float:
    """Learning rate of a step, counting from 0; of parameters with another peak than the recipe's, if given."""
    rate = recipe.learning_rate if peak is None else peak
    if step < recipe.warmup_steps:
        return rate * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return rate
    done = (step - recipe.warmup_steps) / max(1, n_steps - recipe.warmup_steps)
    return rate * 0.5 * (1.0 + math.cos(math.pi * done))


def ramp_at(step: int, steps_per_epoch: int, recipe: Recipe, pair: str = "ai") -> float:
    """Share of the weight of AIC (`ai`) or ITC (`it`) that is switched on at a step: linear from 0 to 1.

    Source:
        BioVITA (arXiv 2603.23883): λ grows linearly over the first two epochs of stage 2; in the released code over 600
        steps for AIC and 300 for ITC.
    """
    n_steps = recipe.ramp_steps[pair == "it"] or recipe.ramp_epochs * steps_per_epoch
    return 1.0 if n_steps <= 0 else min(1.0, step / n_steps)


def weights_at(step: int, steps_per_epoch: int, recipe: Recipe, *, gate_open: bool = True) -> dict[str, float]:
    """Weights of ATC, AIC and ITC at a step."""
    weights = {"at": recipe.audio_text, "ai": recipe.audio_image, "it": recipe.image_text}
    ramps = {pair: ramp_at(step, steps_per_epoch, recipe, pair) * gate_open for pair in ("ai", "it")}
    return weights | {pair: weights[pair] * ramp for pair, ramp in ramps.items()}
