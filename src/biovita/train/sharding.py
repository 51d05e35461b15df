"""Weights and moments spread over the processes (FSDP), for models or batches that one device has no room for."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from biovita.models.encoder import Encoder
from biovita.train import ranks

BLOCKS = ("ClapAudioLayer", "CLIPEncoderLayer")  # what is gathered at a time


def sharded(encoder: Encoder) -> Encoder:
    """Copy an encoder, with a model whose weights lie in parts in all processes; gathered block by block when needed.

    The logit scales are whole everywhere: a number cannot be split.
    """
    model = deepcopy(encoder.model)
    mesh = init_device_mesh(model.device.type, (ranks.world_size(),))
    for block in [module for module in model.modules() if type(module).__name__ in BLOCKS]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params={model.logit_scale, model.clip.logit_scale})
    for name in ("audio_vectors", "image_vectors", "text_vectors"):
        register_fsdp_forward_method(model, name)
    return replace(encoder, model=model)


def share_numbers(parameters: Iterable[nn.Parameter]) -> None:
    """Take the mean over processes of the gradients of what is whole everywhere; those of parts are means already."""
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
            ranks.total(parameter.grad).div_(ranks.world_size())


def clip_gradient(parameters: Iterable[nn.Parameter], most: float) -> torch.Tensor:
    """Scale the gradient down to a norm of at most `most`; return the norm that it had over all processes."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    kinds = [[p.grad for p in parameters if isinstance(p.grad, DTensor) is parted] for parted in (True, False)]
    norms = [whole(nn.utils.get_total_norm([g for g in grads if g is not None])) for grads in kinds if grads]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a tensor whose parts lie in several processes; all must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def all_whole(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gather many."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def like(own: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Spread a whole tensor over the processes as `own` is."""
    if isinstance(own, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value
