"""Batches and prompts by hand, for tests in this and in other processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from biovita.train.batches import Batch
from biovita.train.features import Features
from biovita.train.feed import Feed, Inputs
from biovita.train.recipe import Recipe
from biovita.train.trainee import letters_of


def prompts_of(features: Features) -> list[list[str]]:
    return [[f"{species} form {form}" * (1 + form) for form in range(5)] for species in features.species]


def make_batch(audio: Sequence[int], image: Sequence[int], label: Sequence[int], **more: Any) -> Batch:
    n = len(label)
    draws = {
        "prompt": np.arange(n) % 5, "shift": np.zeros(n), "flip": np.zeros(n, bool),
        "background": np.full(n, -1), "seed": np.arange(n, dtype=np.uint64), **more,
    }  # fmt: skip
    return Batch(audio=np.array(audio), image=np.array(image), label=np.array(label), **draws)


def read_batch(
    encoder: Any, features: Features, batch: Batch, recipe: Recipe, letters: set[str] | None = None
) -> Inputs:
    letters = set(letters_of(recipe)) if letters is None else letters
    return Feed(features, encoder.processor, prompts_of(features), recipe, letters).inputs(batch)
