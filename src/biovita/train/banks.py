"""Vectors of frozen towers, computed once and kept: what does not learn need not be embedded at every step.

A frozen text tower gives each species and prompt form the same vector all through the stage, a frozen image tower each
picture, plain and mirrored. They are kept in blocks on disk, so a run that was stopped goes on, and several processes
share the work.

Source:
    BioVITA (arXiv 2603.23883), training: stage 1 freezes image and text tower, stage 2 the image tower; the released
    code embeds both at every step.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from biovita.files import atomic_path, sha256_json
from biovita.log import Progress
from biovita.models.encoder import Encoder
from biovita.train import ranks
from biovita.train.batches import Batch
from biovita.train.recipe import Recipe
from biovita.train.source import Source
from biovita.train.trainee import autocast, learns, letters_of

BLOCK = 1024  # things a file
TOWER_BATCH = 32


@dataclass(frozen=True)
class Bank:
    """The vectors of one modality.

    Attributes:
        letter: `i` or `t`.
        paths: blocks of vectors, float32 [things, variants, width]: pictures plain and mirrored, species in each
            prompt form.
    """

    letter: str
    paths: tuple[Path, ...]

    def vectors(self, batch: Batch) -> torch.Tensor:
        """Look up the items of a batch that have the modality, shape (n, width)."""
        if self.letter == "i":
            has = batch.image >= 0
            thing, variant = batch.image[has], batch.flip[has].astype(np.int64)
        else:
            thing, variant = batch.label, batch.prompt
        block, row = np.divmod(thing, BLOCK)
        found = np.empty((len(thing), self.blocks[0].shape[2]), np.float32)
        for number in np.unique(block):
            here = block == number
            found[here] = self.blocks[number][row[here], variant[here]]
        return torch.from_numpy(found)

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in self.paths]


def fill_banks(
    encoder: Encoder, source: Source, prompts: Sequence[Sequence[str]], recipe: Recipe, folder: Path
) -> dict[str, Bank]:
    """Embed all that the stage's frozen image and text towers will be asked for.

    Pictures that are cropped or recoloured at random have no vector to keep; they are embedded at every step.

    Args:
        encoder: model and processor; what trains is already chosen.
        source: of the pictures.
        prompts: for each species, its training texts.
        recipe: of the stage.
        folder: where the blocks go; those of the same tower and things are taken as they are.
    """
    banks = {}
    changes = recipe.augment.crop < 1 or recipe.augment.colour > 0
    for letter in letters_of(recipe):
        if letter == "a" or learns(encoder.model, letter) or (letter == "i" and changes):
            continue
        if letter == "t":
            things = [list(texts) for texts in prompts]
        else:
            things = source.media.filter(modality="image").sort("row")["sha256"].to_list()
        mirrored = bool(recipe.flip_images) and letter == "i"
        made_of = [
            letter,
            things,
            mirrored,
            recipe.precision,
            _digest(encoder, letter),
            encoder.processor.fingerprint(),
        ]
        key = sha256_json(made_of)[:16]
        (folder / key).mkdir(parents=True, exist_ok=True)
        blocks = [range(n, min(n + BLOCK, len(things))) for n in range(0, len(things), BLOCK)]
        paths = tuple(folder / key / f"{n:06}.npy" for n in range(len(blocks)))
        missing = [(rows, path) for rows, path in zip(blocks, paths, strict=True) if not path.is_file()]
        ranks.barrier()  # all have looked before the first writes
        own = missing[ranks.rank() :: ranks.world_size()]
        if own:
            _fill(encoder, source, prompts, letter, own, recipe, mirrored=mirrored)
        ranks.barrier()
        if paths:
            banks[letter] = Bank(letter, paths)
    return banks


def _fill(
    encoder: Encoder,
    source: Source,
    prompts: Sequence[Sequence[str]],
    letter: str,
    blocks: list[tuple[range, Path]],
    recipe: Recipe,
    *,
    mirrored: bool,
) -> None:
    what = "names" if letter == "t" else "pictures"
    with Progress(f"embed {what} once", sum(len(rows) for rows, _ in blocks), what) as bar:
        for rows, path in blocks:
            with autocast(encoder.device, recipe.precision):
                vectors = _block(encoder, source, prompts, letter, rows, mirrored=mirrored)
            with atomic_path(path) as part, part.open("wb") as file:
                np.save(file, vectors)
            bar.advance(len(rows))


@torch.no_grad()
def _block(
    encoder: Encoder, source: Source, prompts: Sequence[Sequence[str]], letter: str, rows: range, *, mirrored: bool
) -> np.ndarray:
    if letter == "t":
        texts = [text for row in rows for text in prompts[row]]
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # so that padding is small
        found = np.empty((len(texts), encoder.model.config.width), np.float32)
        for batch in _batches(order):
            tokens = encoder.processor.tokens([texts[n] for n in batch])
            tensors = (tensor.to(encoder.device) for tensor in tokens.values())
            found[batch] = encoder.model.text_vectors(*tensors).float().cpu().numpy()
        return found.reshape(len(rows), -1, found.shape[1])
    parts = []
    for batch in _batches(rows):
        squares = torch.from_numpy(np.stack([source.square(row) for row in batch])).to(encoder.device)
        both = [squares, squares.flip(2)] if mirrored else [squares]
        vectors = [encoder.model.image_vectors(encoder.processor.pixels(variant)) for variant in both]
        parts.append(torch.stack(vectors, dim=1).float().cpu().numpy())
    return np.concatenate(parts)


def _batches(rows: Sequence[int]) -> Iterator[list[int]]:
    return (list(rows[n : n + TOWER_BATCH]) for n in range(0, len(rows), TOWER_BATCH))


def _digest(encoder: Encoder, letter: str) -> str:
    """Hash the weights of a tower."""
    tower: nn.Module = encoder.model.clip.vision_model if letter == "i" else encoder.model.clip.text_model
    head: nn.Module = encoder.model.clip.visual_projection if letter == "i" else encoder.model.clip.text_projection
    digest = hashlib.sha256()
    for tensor in (*tower.state_dict().values(), *head.state_dict().values()):
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
