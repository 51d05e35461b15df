"""An untrained model that tells things apart."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def lively(new_encoder: Callable[..., Any]) -> Any:
    """A tiny model with weights of a trained one's size; do not change it.

    As it starts, a model gives every input nearly the same vector, and a comparison could hardly fail.
    """
    import torch

    encoder = new_encoder()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in encoder.model.named_parameters():
            if "relative_position_bias_table" in name:
                tensor.normal_(0, 1, generator=draw)
            elif tensor.dim() == 2 and "embedding" not in name:
                tensor.normal_(0, tensor.shape[1] ** -0.5, generator=draw)
            elif tensor.dim() == 1 and "norm" in name:
                tensor.normal_(1 if name.endswith("weight") else 0, 0.2, generator=draw)
    return encoder
