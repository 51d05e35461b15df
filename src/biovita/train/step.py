"""The loss of one batch and its gradient: at once, or in pieces that give the same."""

from collections.abc import Sequence

import numpy as np
import torch

from biovita.errors import TrainError
from biovita.models.encoder import Encoder
from biovita.models.vita import FRAMES
from biovita.train import ranks
from biovita.train.batches import Batch
from biovita.train.features import Features
from biovita.train.loss import Targets, contrastive
from biovita.train.recipe import Recipe

TOWERS = {
    "a": ("audio_model", "audio_projection", "audio_adapter"),
    "i": ("clip.vision_model", "clip.visual_projection"),
    "t": ("clip.text_model", "clip.text_projection"),
}
Prompts = Sequence[Sequence[str]]


def backward(
    encoder: Encoder, features: Features, prompts: Prompts, batch: Batch, recipe: Recipe, ramp: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Add the gradient of a batch's loss to the parameters; return the loss and its parts.

    With `recipe.micro_batch` the towers see so many items at a time: first without a gradient, for the vectors; then,
    when the loss has said how each vector should move, once more with it. Memory is that of a piece, the gradient that
    of the whole batch.

    Source:
        Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021 (gradient caching).
    """
    if not 0 < recipe.micro_batch < len(batch.label):
        losses = pair_losses(encoder, features, prompts, batch, recipe)
        loss = total_loss(losses, recipe, ramp)
        loss.backward()
        return loss.detach(), losses
    pieces = [slice(n, n + recipe.micro_batch) for n in range(0, len(batch.label), recipe.micro_batch)]
    letters, random = _letters(recipe), _random_state()
    with torch.no_grad():
        parts = [vectors_of(encoder, features, prompts, batch.part(piece), recipe, letters) for piece in pieces]
    vectors = {letter: torch.cat([part[letter] for part in parts]) for letter in letters}
    learning = {letter for letter in letters if _learns(encoder, letter)}
    for letter in learning:
        vectors[letter].requires_grad_()
    losses = losses_of(vectors, encoder, features, batch, recipe)
    loss = total_loss(losses, recipe, ramp)
    loss.backward()
    _set_random_state(random)  # only towers that learn draw dropout, so the second look draws the same
    for piece in pieces:
        again = vectors_of(encoder, features, prompts, batch.part(piece), recipe, learning)
        pulled = [(again[letter], vectors[letter].grad) for letter in sorted(learning) if again[letter].requires_grad]
        pulled = [(vector, grad[piece]) for vector, grad in pulled if grad is not None]
        if pulled:
            torch.autograd.backward([vector for vector, _ in pulled], [grad for _, grad in pulled])
    return loss.detach(), losses


def pair_losses(
    encoder: Encoder, features: Features, prompts: Prompts, batch: Batch, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Compute the losses that the recipe weighs: `at`, `ai`, `it`."""
    vectors = vectors_of(encoder, features, prompts, batch, recipe, _letters(recipe))
    return losses_of(vectors, encoder, features, batch, recipe)


def vectors_of(
    encoder: Encoder, features: Features, prompts: Prompts, batch: Batch, recipe: Recipe, letters: set[str]
) -> dict[str, torch.Tensor]:
    """Embed a batch: for each modality, unit vectors of shape (batch, width), zeros where an item has none."""
    device = encoder.device
    vectors = {}
    if "a" in letters:
        has = np.flatnonzero(batch.audio >= 0)
        shift = batch.shift if recipe.shift_audio else _start_unless_longer(features, batch)
        mels = [features.mel(*draw) for draw in zip(batch.audio[has], shift[has], strict=True)]
        found = encoder.model.audio_vectors(torch.from_numpy(np.stack(mels)).to(device)) if mels else None
        vectors["a"] = _spread(found, has, batch, encoder)
    if "i" in letters:
        has = np.flatnonzero(batch.image >= 0)
        squares = [features.squares[row] for row in batch.image[has]]
        squares = [square[:, ::-1] if flip else square for square, flip in zip(squares, batch.flip[has], strict=True)]
        found = None
        if squares:
            pixels = encoder.processor.pixels(torch.from_numpy(np.stack(squares)).to(device))
            found = encoder.model.image_vectors(pixels)
        vectors["i"] = _spread(found, has, batch, encoder)
    if "t" in letters:
        texts = [prompts[int(label)][int(form)] for label, form in zip(batch.label, batch.prompt, strict=True)]
        tokens = encoder.processor.tokens(texts)
        vectors["t"] = encoder.model.text_vectors(*(tensor.to(device) for tensor in tokens.values()))
    return vectors


def losses_of(
    vectors: dict[str, torch.Tensor], encoder: Encoder, features: Features, batch: Batch, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Compute the loss of each pair of modalities; items that lack one of the two sit that pair out."""
    device = encoder.device
    has = {"a": batch.audio >= 0, "i": batch.image >= 0, "t": np.ones(len(batch.label), bool)}
    lineage = torch.from_numpy(features.lineage[batch.label]).to(device)
    scale = encoder.model.logit_scale.exp()
    targets = Targets(recipe.same_species, recipe.kinship)
    losses = {}
    for pair in _pairs(recipe):
        one, other = pair
        present = torch.from_numpy(has[one] & has[other]).to(device)
        if ranks.total(present.sum()) >= 2:
            losses[pair] = contrastive(vectors[one], vectors[other], scale, lineage, present=present, targets=targets)
    return losses


def total_loss(losses: dict[str, torch.Tensor], recipe: Recipe, ramp: float) -> torch.Tensor:
    """Sum L = w_at ATC + ramp (w_ai AIC + w_it ITC) over the pairs that the batch had."""
    weights = {"at": recipe.audio_text, "ai": ramp * recipe.audio_image, "it": ramp * recipe.image_text}
    if not losses:
        raise TrainError(f"{recipe.stage}: a batch held no pair of any loss; it needs two items of species with both")
    return torch.stack([weights[pair] * loss for pair, loss in losses.items()]).sum()


def _pairs(recipe: Recipe) -> list[str]:
    wanted = {"at": recipe.audio_text, "ai": recipe.audio_image, "it": recipe.image_text}
    return [pair for pair, weight in wanted.items() if weight]


def _letters(recipe: Recipe) -> set[str]:
    return set("".join(_pairs(recipe)))


def _learns(encoder: Encoder, letter: str) -> bool:
    towers = (encoder.model.get_submodule(name) for name in TOWERS[letter])
    return any(parameter.requires_grad for tower in towers for parameter in tower.parameters())


def _spread(vectors: torch.Tensor | None, rows: np.ndarray, batch: Batch, encoder: Encoder) -> torch.Tensor:
    """Put the vectors of some items into their rows of the batch."""
    whole = torch.zeros(len(batch.label), encoder.model.config.width, device=encoder.device)
    return whole if vectors is None else whole.index_copy(0, torch.from_numpy(rows).to(encoder.device), vectors)


def _start_unless_longer(features: Features, batch: Batch) -> np.ndarray:
    """Zero the shift of recordings shorter than a window, so that their padding comes last."""
    frames = np.diff(features.starts)[batch.audio]
    return np.where(frames > FRAMES, batch.shift, 0.0)


def _random_state() -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
