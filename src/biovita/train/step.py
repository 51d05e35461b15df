"""The loss of one batch and its gradient: at once, or in pieces that give the same."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from biovita.errors import TrainError
from biovita.models.processor import BioVitaProcessor
from biovita.models.vita import FRAMES
from biovita.train import ranks
from biovita.train.banks import Bank
from biovita.train.batches import Batch
from biovita.train.feed import Inputs
from biovita.train.gate import Keeper
from biovita.train.loss import Targets, contrastive
from biovita.train.recipe import Recipe
from biovita.train.trainee import TOWERS, learns, letters_of, pairs_of


@dataclass
class Step:
    """Turns batches into losses and gradients.

    Attributes:
        trainee: a `Trainee`, as accelerate wrapped it.
        processor: of the model.
        lineage: codes of each species' ranks, shape (n_species, ranks).
        recipe: of the stage.
        accelerator: how the processes work together.
        banks: vectors of frozen towers, by letter; what has one is not embedded again.
    """

    trainee: nn.Module
    processor: BioVitaProcessor
    lineage: np.ndarray
    recipe: Recipe
    accelerator: Accelerator
    banks: Mapping[str, Bank] = field(default_factory=dict)

    def backward(
        self, inputs: Inputs, weights: Mapping[str, float], keeper: Keeper | None = None, *, share: float = 1.0
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Add the gradient of a batch's loss to the parameters.

        With `recipe.micro_batch` the towers see so many items at a time: first without a gradient, for the vectors;
        then, when the loss has said how each vector should move, once more with it. Memory is that of a piece, the
        gradient that of the whole batch.

        Args:
            inputs: of this process.
            weights: of the pairs, as `schedule.weights_at` gives them.
            keeper: of the gate, whose penalty is added.
            share: of this batch in the step; the gradient is multiplied by it.

        Returns:
            The whole loss and its parts, over the batches of all processes.

        Source:
            Gradient caching: Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021.
        """
        size = self.recipe.micro_batch
        if not 0 < size < len(inputs.batch.label):
            found = self.embed(inputs)
            losses = self.losses(found, inputs.batch)
            loss = total_loss(losses, weights, keeper)
            self.accelerator.backward(share * (loss + _tied(found)))
            return loss.detach(), detached(losses)
        pieces = [part_of(inputs, slice(n, n + size)) for n in range(0, len(inputs.batch.label), size)]
        random = _random_state()
        with torch.no_grad():
            parts = [self.embed(piece) for piece in pieces]
        whole = {name: torch.cat([part[name] for part in parts if name in part]) for name in self._letters(parts)}
        whole |= {name: parts[-1][name].clone() for name in ("scale", "bias") if name in parts[-1]}
        learning = [name for name in whole if self._learns(name)]
        for name in learning:
            whole[name].requires_grad_()
        losses = self.losses(whole, inputs.batch)
        loss = total_loss(losses, weights, keeper)
        self.accelerator.backward(share * loss)
        _set_random_state(random)  # only towers that learn draw dropout, so the second look draws the same
        done = dict.fromkeys(learning, 0)
        for n, piece in enumerate(pieces):
            last = n + 1 == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(self.trainee):
                again = self.embed(piece)
                pulled = [_tied(again)]
                for name in learning:
                    grad = whole[name].grad
                    if name not in again or grad is None:
                        continue
                    if name in ("scale", "bias"):  # one number for the whole batch: its slope counts once
                        pulled += [again[name] * grad] if last else []
                        continue
                    rows = slice(done[name], done[name] + len(again[name]))
                    done[name] = rows.stop
                    pulled.append((again[name] * grad[rows]).sum())
                total = torch.stack(pulled).sum()
                if total.requires_grad:
                    total.backward()
        return loss.detach(), detached(losses)

    def embed(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Run the towers over what a batch holds: unit vectors of the items that have each modality."""
        device = self.accelerator.device
        pixels = None if inputs.squares is None else self.processor.pixels(inputs.squares.to(device))
        tokens = inputs.tokens and {name: tensor.to(device) for name, tensor in inputs.tokens.items()}
        mels = None if inputs.mels is None else inputs.mels.to(device)
        absent = {letter for letter, given in (("a", mels), ("i", pixels)) if given is None and letter in self._asked}
        if ranks.world_size() == 1 or not absent:
            return self.trainee(mels=mels, pixels=pixels, tokens=tokens)
        side = self.processor.image_processor.crop_size["height"]
        like = {"device": device, "dtype": self.accelerator.unwrap_model(self.trainee).model.dtype}
        if "a" in absent:
            mels = torch.zeros(1, FRAMES, self.processor.feature_extractor.feature_size, **like)
        if "i" in absent:
            pixels = torch.zeros(1, 3, side, side, **like)
        found = self.trainee(mels=mels, pixels=pixels, tokens=tokens)
        for letter in absent:  # another process has some: this one must take its part in what they do together
            found["scale"] = found["scale"] + 0.0 * found.pop(letter).sum()
        return found

    def losses(self, found: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        """Compute the loss of each pair of modalities; items that lack one of the two sit that pair out."""
        device = self.accelerator.device
        has = {"a": batch.audio >= 0, "i": batch.image >= 0, "t": np.ones(len(batch.label), bool)}
        lineage = torch.from_numpy(self.lineage[batch.label]).to(device)
        vectors = {letter: self._placed(letter, found, has[letter], batch) for letter in letters_of(self.recipe)}
        targets = Targets(self.recipe.same_species, self.recipe.kinship)
        losses = {}
        for one, other in pairs_of(self.recipe):
            present = torch.from_numpy(has[one] & has[other]).to(device)
            if ranks.total(present.sum()) >= 2:
                losses[one + other] = contrastive(
                    vectors[one],
                    vectors[other],
                    found["scale"],
                    lineage,
                    present=present,
                    targets=targets,
                    form=self.recipe.loss,
                    bias=found.get("bias"),
                )
        return losses

    def _placed(self, letter: str, found: Mapping[str, torch.Tensor], has: np.ndarray, batch: Batch) -> torch.Tensor:
        """Put vectors into the rows of their items, shape (batch, width); zeros where an item has none."""
        vectors = self.banks[letter].vectors(batch) if letter in self.banks else found.get(letter)
        width = self.accelerator.unwrap_model(self.trainee).model.config.width
        whole = found["scale"].new_zeros(len(has), width)
        if vectors is None:
            return whole
        return whole.index_copy(0, torch.from_numpy(np.flatnonzero(has)).to(whole.device), vectors.to(whole.device))

    @staticmethod
    def _letters(parts: Sequence[Mapping[str, torch.Tensor]]) -> list[str]:
        return sorted({name for part in parts for name in part} & {"a", "i", "t"})

    def _learns(self, name: str) -> bool:
        return name == "bias" or name in self._learning

    @cached_property
    def _asked(self) -> set[str]:
        return set(letters_of(self.recipe)) - set(self.banks)

    @cached_property
    def _learning(self) -> set[str]:
        model = self.accelerator.unwrap_model(self.trainee).model
        found = {letter for letter in TOWERS if learns(model, letter)}
        return found | ({"scale"} if model.logit_scale.requires_grad else set())


def total_loss(
    losses: Mapping[str, torch.Tensor], weights: Mapping[str, float], keeper: Keeper | None = None
) -> torch.Tensor:
    """Sum L = w_at ATC + w_ai AIC + w_it ITC over the pairs that the batch had, and the gate's penalty."""
    if not losses:
        raise TrainError("a batch held no pair of any loss; it needs two items of species with both modalities")
    parts = [weights[pair] * loss for pair, loss in losses.items()]
    if keeper and keeper.before and "at" in losses:
        parts.append(keeper.gate.penalty * (losses["at"] - keeper.ceiling).clamp_min(0.0))
    return torch.stack(parts).sum()


def part_of(inputs: Inputs, rows: slice) -> Inputs:
    """Take some of the items of a batch."""
    batch = inputs.batch
    first, stop, _ = rows.indices(len(batch.label))

    def among(tensor: torch.Tensor | None, row: np.ndarray) -> torch.Tensor | None:
        if tensor is None:
            return None
        before, inside = int((row[:first] >= 0).sum()), int((row[first:stop] >= 0).sum())
        return tensor[before : before + inside] if inside else None

    return replace(
        inputs,
        batch=batch.part(rows),
        mels=among(inputs.mels, batch.audio),
        squares=among(inputs.squares, batch.image),
        tokens=inputs.tokens and {name: tensor[rows] for name, tensor in inputs.tokens.items()},
    )


def detached(losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {pair: loss.detach() for pair, loss in losses.items()}


def _tied(found: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return a zero that hangs on every output, so that each parameter gets a gradient in every process."""
    return torch.stack([0.0 * tensor.sum() for tensor in found.values()]).sum()


def _random_state() -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
