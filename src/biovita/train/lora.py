"""Low-rank additions to linear layers, which train instead of them and are added up in the end. The door to peft."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from biovita.errors import TrainError
from biovita.models.vita import BioVitaModel


def add(model: BioVitaModel, patterns: Sequence[str], rank: int) -> list[str]:
    """Put W + B A in the place of the matrices W that patterns name, in place; everything but A and B is frozen.

    A is drawn from torch's random state and B is 0, so the model's vectors do not change yet. A parameter that is
    written out whole and is no part of a linear layer, such as `logit_scale` or the weight of a norm, trains as it is.
    Buffers are left to the caller: batch norm moves its statistics in training mode, whatever is frozen.

    Args:
        model: the network.
        patterns: on names of parameters, as `Recipe.trained`; what they match besides linear layers stays frozen.
        rank: rows of A and columns of B.

    Returns:
        Names of the parameters that train.

    Raises:
        TrainError: a pattern reaches no linear layer.

    Source:
        LoRA (arXiv 2106.09685), with a factor of 1 on B A.
    """
    layers, whole = reached_by(model, patterns, rank)
    chosen = "|".join(re.escape(layer) for layer in sorted(layers))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=f"({chosen})"), model)
    for module in model.modules():
        if isinstance(module, LoraLayer):  # new ones come in training mode
            module.train(module.get_base_layer().training)
    for name in whole:
        model.get_parameter(name).requires_grad_()
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def reached_by(model: BioVitaModel, patterns: Sequence[str], rank: int) -> tuple[set[str], set[str]]:
    """Name the linear layers that patterns reach, and the parameters that train as they are.

    Raises:
        TrainError: a pattern reaches no linear layer.
    """
    parameters = dict(model.named_parameters())
    layer_of = {
        f"{layer}.{name}": layer
        for layer, module in model.named_modules()
        if isinstance(module, nn.Linear)
        for name, _ in module.named_parameters()
    }
    layers, whole = set(), set()
    for pattern in patterns:
        reached = {layer for name, layer in layer_of.items() if fnmatchcase(name, pattern)}
        if not reached and pattern in parameters:
            whole.add(pattern)
        elif not reached and not (pattern == "audio_adapter.*" and isinstance(model.audio_adapter, nn.Identity)):
            raise TrainError(f"trained: '{pattern}' reaches no linear layer; lora_rank {rank} needs one, or 0")
        layers |= reached
    if not layers:
        raise TrainError(f"trained: {', '.join(patterns) or 'nothing'} reaches no linear layer; set lora_rank to 0")
    return layers, whole


def merge(model: BioVitaModel) -> None:
    """Add B A to W, in place; afterwards the model's parameters have their plain names again, and none trains."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    model.requires_grad_(False)
    del model.peft_config
