"""Which items, partners, prompts and crops make a batch: a pure function of (seed, epoch, step)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import polars as pl

from biovita.errors import TrainError
from biovita.train.features import Features
from biovita.train.recipe import Recipe

ORDER, DRAWS = 1, 2  # purposes of the random streams


@dataclass(frozen=True)
class Batch:
    """One step's draws; every array has the shape (batch,).

    Attributes:
        label: species of each item.
        audio: row of the recording in `Features`, or -1 where the species has none.
        image: row of the picture, or -1.
        prompt: which of the five prompt forms.
        shift: where in the recording the window lies, in [0, 1).
        flip: whether the picture is mirrored.
    """

    label: np.ndarray
    audio: np.ndarray
    image: np.ndarray
    prompt: np.ndarray
    shift: np.ndarray
    flip: np.ndarray

    def part(self, rows: slice) -> "Batch":
        """Take some of the items."""
        return Batch(*(getattr(self, field.name)[rows] for field in fields(self)))


class Sampler:
    """Species-balanced draws: up to `max_per_species` items of a species an epoch, rare species topped up.

    Source:
        BioVITA (arXiv 2603.23883), training: 20 recordings a species and epoch, five with replacement for species with
        fewer. Unlike the released code, every epoch draws afresh, and so does every partner and prompt.
    """

    def __init__(self, features: Features, recipe: Recipe, *, n_prompts: int) -> None:
        self.recipe, self.n_prompts = recipe, n_prompts
        self._items = {m: _by_label(features.rows(m, "train"), len(features.species)) for m in ("audio", "image")}
        anchors = self._items[recipe.anchor]
        if not any(map(len, anchors)):
            raise TrainError(f"stage '{recipe.stage}' walks through {recipe.anchor}, and the train split has none")
        if recipe.anchor == "audio" and recipe.image_text:  # species with pictures only still train picture and name
            silent = [np.full(len(pictures), -1) for pictures in self._items["image"]]
            anchors = [items if len(items) else none for items, none in zip(anchors, silent, strict=True)]
        self._labels = [label for label, items in enumerate(anchors) if len(items)]
        self._anchors = [anchors[label] for label in self._labels]
        self.n_draws = sum(self._n_draws(len(items)) for items in self._anchors)

    def _n_draws(self, n_items: int) -> int:
        return min(max(n_items, self.recipe.min_per_species), self.recipe.max_per_species)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch; a ragged rest is dropped unless it is all there is."""
        return max(1, self.n_draws // self.recipe.batch_size)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the step `first` on."""
        rng = np.random.default_rng([self.recipe.seed, ORDER, epoch])
        drawn, labels = [], []
        for label, items in zip(self._labels, self._anchors, strict=True):
            n = self._n_draws(len(items))
            drawn.append(rng.permutation(items)[:n] if n <= len(items) else _topped_up(rng, items, n))
            labels.append(np.full(n, label))
        order = rng.permutation(self.n_draws)
        anchor, label = np.concatenate(drawn)[order], np.concatenate(labels)[order]
        size = self.recipe.batch_size
        for step in range(first, self.steps_per_epoch):
            rows = slice(step * size, (step + 1) * size)
            yield self._batch(anchor[rows], label[rows], np.random.default_rng([self.recipe.seed, DRAWS, epoch, step]))

    def _batch(self, anchor: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Batch:
        n = len(anchor)
        rows = {self.recipe.anchor: anchor}
        partner = "image" if self.recipe.anchor == "audio" else "audio"
        pick = rng.random(n)
        pools = [self._items[partner][species] for species in label]
        rows[partner] = np.array(
            [pool[int(p * len(pool))] if len(pool) else -1 for pool, p in zip(pools, pick, strict=True)]
        )
        shift = rng.random(n)
        return Batch(
            label=label,
            audio=rows["audio"],
            image=rows["image"],
            prompt=rng.integers(self.n_prompts, size=n),
            shift=shift,
            flip=(rng.random(n) < 0.5) & self.recipe.flip_images,
        )


def _by_label(rows: pl.DataFrame, n_species: int) -> list[np.ndarray]:
    found: list[np.ndarray] = [np.empty(0, np.int64)] * n_species
    for (label,), group in rows.group_by("label"):
        found[int(label)] = np.sort(group["row"].to_numpy())  # pyright: ignore[reportArgumentType]
    return found


def _topped_up(rng: np.random.Generator, items: np.ndarray, n: int) -> np.ndarray:
    """Every item at least once, the rest drawn again."""
    return np.concatenate([items, rng.choice(items, n - len(items))])
