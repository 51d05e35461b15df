"""Which items, partners, prompts and crops make a batch: a pure function of (seed, epoch, index)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import polars as pl

from biovita.errors import TrainError
from biovita.train.recipe import Recipe
from biovita.train.source import Source

ITEMS, ORDER, PARTNERS, PROMPTS, SHIFTS, FLIPS, BACKGROUNDS, SEEDS = range(1, 9)  # purposes of the random streams
RELATIVES = {"genus": 1, "family": 2}  # columns of `Source.lineage`


@dataclass(frozen=True)
class Batch:
    """One step's draws; every array has the shape (batch,).

    Attributes:
        label: species of each item.
        audio: row of the recording in its `Source`, or -1 where the species has none.
        image: row of the picture, or -1.
        prompt: which of the five prompt forms.
        shift: where in the recording the window lies, in [0, 1).
        flip: whether the picture is mirrored.
        background: row of a recording of another species to mix in, or -1.
        seed: of the item's own random stream, for augmentation; uint64.
    """

    label: np.ndarray
    audio: np.ndarray
    image: np.ndarray
    prompt: np.ndarray
    shift: np.ndarray
    flip: np.ndarray
    background: np.ndarray
    seed: np.ndarray

    def part(self, rows: slice) -> "Batch":
        """Take some of the items."""
        return Batch(*(getattr(self, field.name)[rows] for field in fields(self)))


class Sampler:
    """Species-balanced draws: up to `max_per_species` items of a species an epoch, rare species topped up.

    Every draw of an epoch is made when it begins, in arrays over all its items, each from a stream of its own. So an
    item does not depend on batch size (but for `distinct_species`), number of processes, or where a run goes on.

    Both kinds of composed batches come from dealing. Draws are sorted so that those of a species lie side by side,
    species in random order, and dealt out in turn to as many piles as are needed; a pile then holds no species twice
    unless there are fewer piles than draws of one species.

    - `distinct_species`: the piles are the batches.
    - `hard_negatives`: the draws of a genus or family are dealt to piles of at most `hard_group`, and to as many piles
      as its largest species has draws. The piles of all genera or families are shuffled and laid end to end; where a
      batch ends, a pile is cut. Species without relatives are spread as ever.

    Attributes:
        n_draws: items of an epoch.
        counts: items of each species to draw from, shape (n_species,).

    Source:
        BioVITA (arXiv 2603.23883), training: 20 recordings a species and epoch, five with replacement for species with
        fewer. Unlike the released code, every epoch draws afresh, and so does every partner and prompt; and a rare
        species shows each of its recordings before one comes again.
    """

    def __init__(self, source: Source, recipe: Recipe, *, n_prompts: int) -> None:
        self.recipe, self.n_prompts = recipe, n_prompts
        self._items = {m: _index(source.rows(m, "train"), len(source.species)) for m in ("audio", "image")}
        self._anchors = self._items[recipe.anchor]
        if not len(self._anchors.rows):
            instead = "; for pictures and names alone set audio_text and audio_image to 0, and image_text to 1"
            raise TrainError(
                f"stage '{recipe.stage}' walks through {recipe.anchor}, and the train split has none"
                f"{instead if recipe.anchor == 'audio' and len(self._items['image'].rows) else ''}"
            )
        if recipe.anchor == "audio" and recipe.image_text:  # species with pictures only still train picture and name
            self._anchors = _with_silent(self._items["audio"], self._items["image"].counts)
        self.counts = counts = self._anchors.counts
        self._draws_of = np.clip(counts, recipe.min_per_species, recipe.max_per_species) * (counts > 0)
        self.n_draws = int(self._draws_of.sum())
        if recipe.hard_negatives != "none":
            lineage = source.lineage[:, RELATIVES[recipe.hard_negatives]]
            self._group_of = np.unique(lineage, return_inverse=True)[1]
        if recipe.distinct_species:
            self._group_of = np.zeros_like(counts)
            most = int(self._draws_of.max())
            if most > self.steps_per_epoch:
                species = source.species[int(self._draws_of.argmax())]
                raise TrainError(
                    f"distinct_species: {species} is drawn {most} times an epoch, which has {self.steps_per_epoch} "
                    f"batches; set batch_size to {self.n_draws // most} at most, or lower max_per_species"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch; a ragged rest, another one each epoch, is dropped unless it is all there is."""
        return max(1, self.n_draws // self.recipe.batch_size)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the step `first` on."""
        draws, size = self.draws(epoch), self.recipe.batch_size
        for step in range(first, self.steps_per_epoch):
            yield draws.part(slice(step * size, (step + 1) * size))

    def draws(self, epoch: int) -> Batch:
        """Draw all items of an epoch, in the order of its batches, the ragged rest last."""
        label, anchor = self.view(epoch)
        n = len(label)
        partner = "image" if self.recipe.anchor == "audio" else "audio"
        rows = {
            self.recipe.anchor: anchor,
            partner: self._items[partner].pick(label, self._rng(PARTNERS, epoch).random(n)),
        }
        return Batch(
            label=label,
            audio=rows["audio"],
            image=rows["image"],
            prompt=self._rng(PROMPTS, epoch).integers(self.n_prompts, size=n),
            shift=self._rng(SHIFTS, epoch).random(n),
            flip=(self._rng(FLIPS, epoch).random(n) < 0.5) & self.recipe.flip_images,
            background=self._background(label, rows["audio"], self._rng(BACKGROUNDS, epoch)),
            seed=self._rng(SEEDS, epoch).integers(2**64, size=n, dtype=np.uint64),
        )

    def view(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the items that an epoch walks through: labels and rows of the anchor, in the order of its batches."""
        label, anchor = _draw(self._anchors, self._draws_of, self._rng(ITEMS, epoch))
        rng = self._rng(ORDER, epoch)
        order = rng.permutation(self.n_draws)
        if self.recipe.distinct_species:
            order = order[: self.steps_per_epoch * self.recipe.batch_size]
            order = order[self._dealt(label[order], np.array([self.steps_per_epoch]), rng)]
        if self.recipe.hard_negatives != "none":
            n_piles = -(-np.bincount(self._group_of, self._draws_of).astype(int) // self.recipe.hard_group)
            np.maximum.at(n_piles, self._group_of, self._draws_of)
            order = order[self._dealt(label[order], n_piles, rng)]
        return label[order], anchor[order]

    def _rng(self, purpose: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, purpose, epoch])

    def _dealt(self, label: np.ndarray, n_piles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Deal shuffled draws to the piles of their group (see the class); return their order, pile after pile."""
        group = self._group_of[label]
        beside = np.lexsort((rng.permutation(len(self._group_of))[label], group))
        group = group[beside]
        turn = np.arange(len(label)) - np.searchsorted(group, group)
        pile = np.concatenate([[0], np.cumsum(n_piles)])[group] + turn % n_piles[group]
        shuffled = rng.permutation(n_piles.sum())[pile]
        return beside[np.lexsort((rng.random(len(label)), shuffled))]

    def _background(self, label: np.ndarray, audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a recording of another species for some of the sounds, every one as likely."""
        items = self._items["audio"]
        chosen = (rng.random(len(label)) < self.recipe.augment.background) & (audio >= 0)
        begin, own = items.starts[label], items.counts[label]
        others = len(items.rows) - own
        place = (rng.random(len(label)) * others).astype(int)
        place += np.where(place < begin, 0, own)  # those of a species lie side by side; step over its own
        background = np.full(len(label), -1)
        chosen &= others > 0
        background[chosen] = items.rows[place[chosen]]
        return background


@dataclass(frozen=True)
class _Items:
    """Rows of a modality, sorted by species: those of species s lie at `starts[s]` up to `starts[s + 1]`."""

    rows: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.starts)

    def pick(self, label: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Take an item of each species, at a share in [0, 1) of its items; -1 where it has none."""
        found = np.full(len(label), -1)
        has = self.counts[label] > 0
        place = self.starts[label] + (share * self.counts[label]).astype(int)
        found[has] = self.rows[place[has]]
        return found


def _index(media: pl.DataFrame, n_species: int) -> _Items:
    label, row = (media[column].to_numpy().astype(np.int64) for column in ("label", "row"))
    span = 1 + row.max(initial=0)
    place = np.sort(label * span + row)  # one number sorts many times faster than two columns
    return _Items(place % span, np.searchsorted(place, np.arange(n_species + 1) * span))


def _with_silent(audio: _Items, n_pictures: np.ndarray) -> _Items:
    """Give species without a recording as many items of row -1 as they have pictures."""
    species = np.arange(len(n_pictures))
    silent = np.where(audio.counts > 0, 0, n_pictures)
    label = np.concatenate([np.repeat(species, audio.counts), np.repeat(species, silent)])
    rows = np.concatenate([audio.rows, np.full(silent.sum(), -1)])
    starts = np.concatenate([[0], np.cumsum(audio.counts + silent)])
    return _Items(rows[np.argsort(label, kind="stable")], starts)


def _draw(items: _Items, n_draws: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw so many items of each species: some (equally many of each such), all, or all and then some of them again.

    Returns:
        Labels and rows, sorted by label.
    """
    counts, rows = items.counts, items.rows.copy()
    large = np.flatnonzero(counts > n_draws)
    for n in range(n_draws[large].max(initial=0)):  # the shuffle of Fisher and Yates, in all large species at once
        here = items.starts[large] + n
        there = here + (rng.random(len(large)) * (counts[large] - n)).astype(int)
        rows[here], rows[there] = rows[there], rows[here]
    label = np.repeat(np.arange(len(counts)), n_draws)
    place = np.arange(len(label)) - np.repeat(np.cumsum(n_draws) - n_draws, n_draws)
    again = np.flatnonzero(place >= counts[label])
    place[again] = (rng.random(len(again)) * counts[label[again]]).astype(int)
    return label, rows[items.starts[label] + place]
