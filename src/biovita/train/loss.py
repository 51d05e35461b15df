"""Symmetric InfoNCE between two modalities."""

import torch
from torch.nn import functional


def info_nce(
    one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor, species: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the mean of both directions' cross entropies; row i of `one` belongs to row i of `other`.

    Args:
        one: unit vectors, shape (batch, width).
        other: unit vectors of the other modality, the same shape.
        scale: factor on the cosines, 1 / temperature, a scalar.
        species: label of each row, shape (batch,). Where given, two different rows of one species are not each
            other's negatives: a song of a species is not a wrong answer to another photo of it.

    Source:
        CLIP's loss; BioVITA (arXiv 2603.23883) uses it for ATC, AIC and ITC. The mask is ours: the released code counts
        same-species pairs as negatives.
    """
    logits = scale * one @ other.T
    if species is not None:
        same = species[:, None] == species[None, :]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(one), device=one.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
