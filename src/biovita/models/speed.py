"""A loaded model made fast for inference: half-precision products, fused attention, compilation.

What each choice gains and costs in accuracy is measured in docs/results/towers.md. Left out because they gained nothing
there: autocast, channels-last pictures, one product for query, key and value.
"""

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional
from transformers.models.clap.modeling_clap import (
    ClapAudioAttention,
    ClapAudioLayer,
    ClapAudioPatchMerging,
    ClapAudioSelfAttention,
)
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from biovita.errors import ModelError
from biovita.models.vita import BioVitaModel

Precision = Literal["fp32", "bf16", "fp16"]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare(model: BioVitaModel, *, precision: Precision = "fp32", compiled: bool = False) -> BioVitaModel:
    """Make a model fast, in place, on the device where it will run. It is for inference from then on.

    Args:
        model: in evaluation mode, with float32 weights, already on its device.
        precision: of the linear layers and the attention of every block, which are nearly all of the work. The stream
            between the blocks, the norms, the log-mel's batch norm and the projections into the joint space stay
            float32: that costs nothing and takes away most of the rounding. In `bf16` a vector keeps a cosine of at
            least 0.9999 to its `fp32` self; `fp32` differs from an unprepared model by less than 2e-6.
        compiled: also compile each tower, which takes a minute or more at the first batch of each shape.

    Raises:
        ModelError: no such precision, or `fp16` on a CPU, where its products are a thousand times slower.
    """
    if precision not in get_args(Precision):
        raise ModelError(f"precision '{precision}': unknown; it is one of {', '.join(get_args(Precision))}")
    on_cpu = model.device.type == "cpu"
    if precision == "fp16" and on_cpu:
        raise ModelError("precision 'fp16': needs a GPU; on a CPU use bf16 or fp32")
    if on_cpu and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        _use_onednn(model)
    if precision != "fp32":
        _halve(model, HALVES[precision])
    if precision == "fp32" or not on_cpu:  # in bf16 on a CPU the plain products are faster
        for module in model.audio_model.modules():
            if isinstance(module, ClapAudioAttention):
                module.register_module("self", WindowAttention(module.self))
    if compiled:
        for tower in (model.audio_model, model.clip.vision_model, model.clip.text_model):
            tower.compile()
    return model


class OneDnnLinear(nn.Linear):
    """A linear layer through oneDNN's product; where a gradient is wanted, torch's own.

    In float32 torch asks MKL, which on processors of other makers leaves half of their width unused.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")


class WindowAttention(nn.Module):
    """HTS-AT's attention inside a window, through torch's fused kernel; it keeps the names of the tensors.

    Args:
        plain: the layer that it takes the place of.
    """

    def __init__(self, plain: ClapAudioSelfAttention) -> None:
        super().__init__()
        self.query, self.key, self.value = plain.query, plain.key, plain.value
        self.relative_position_bias_table = plain.relative_position_bias_table
        self.relative_position_index = nn.Buffer(plain.relative_position_index)
        self.n_heads = plain.num_attention_heads

    def forward(
        self, windows: torch.Tensor, mask: torch.Tensor | None = None, output_attentions: bool | None = False
    ) -> tuple[torch.Tensor]:
        """Attend inside each window.

        Args:
            windows: shape (pictures * windows of a picture, places, width).
            mask: for shifted windows, -100 between places that are no neighbours: (windows of a picture, places,
                places). It is the same for every picture.
            output_attentions: refused; the fused kernel does not keep them.
        """
        if output_attentions:
            raise ValueError("the fused kernel keeps no attention weights")
        n, places, width = windows.shape
        n_masks = 1 if mask is None else len(mask)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            bias = (bias + mask[:, None]).flatten(0, 1)
        heads = (
            layer(windows)
            .view(n, places, self.n_heads, -1)
            .transpose(1, 2)
            .reshape(n // n_masks, -1, places, width // self.n_heads)
            for layer in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(*heads, attn_mask=bias[None])
        return (seen.reshape(n, self.n_heads, places, -1).transpose(1, 2).reshape(n, places, width),)


def _use_onednn(model: BioVitaModel) -> None:
    for parent in list(model.modules()):
        for name, plain in list(parent.named_children()):
            if type(plain) is nn.Linear:
                layer = OneDnnLinear(plain.in_features, plain.out_features, device="meta")
                layer.weight, layer.bias = plain.weight, plain.bias
                parent.register_module(name, layer.train(plain.training))


def _halve(model: BioVitaModel, dtype: torch.dtype) -> None:
    """Give the linear layers of every block half-precision weights, and their input the same type."""
    for block in model.modules():
        if not isinstance(block, ClapAudioLayer | ClapAudioPatchMerging | CLIPEncoderLayer):
            continue
        for module in block.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
            elif isinstance(module, nn.LayerNorm):
                module.register_forward_hook(partial(_cast, dtype))
            elif isinstance(module, ClapAudioSelfAttention):
                table = module.relative_position_bias_table
                table.data = table.data.to(dtype)
        if isinstance(block, ClapAudioPatchMerging):  # no sum follows that would bring its output back to float32
            block.reduction.register_forward_hook(partial(_cast, torch.float32))


def _cast(dtype: torch.dtype, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.to(dtype)
