"""What learns, as distributed training wraps it: one forward pass for all that a batch needs."""

import torch
from torch import nn

from biovita.models.vita import BioVitaModel
from biovita.train.recipe import Recipe

PAIRS = {"at": "audio_text", "ai": "audio_image", "it": "image_text"}  # and their weights in a recipe
TOWERS = {
    "a": ("audio_model", "audio_projection", "audio_adapter"),
    "i": ("clip.vision_model", "clip.visual_projection"),
    "t": ("clip.text_model", "clip.text_projection"),
}
SIGMOID_BIAS = -10.0  # SigLIP (arXiv 2303.15343): nearly all pairs are wrong, and that is known from the start


class Trainee(nn.Module):
    """The model, and what a loss learns beside it.

    Attributes:
        model: the towers; a model folder holds no more than these.
        bias: of the sigmoid loss; None for softmax.
        precision: of the towers' products.
    """

    def __init__(self, model: BioVitaModel, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.precision = recipe.precision
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS, device=model.device)) if recipe.loss == "sigmoid" else None

    def forward(
        self,
        mels: torch.Tensor | None = None,
        pixels: torch.Tensor | None = None,
        tokens: dict[str, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Embed whatever is given.

        Args:
            mels: log-mels, dB, shape (n, 1001, 64).
            pixels: normalised pixels, shape (n, 3, side, side).
            tokens: ids and mask, shape (n, n_tokens).

        Returns:
            `a`, `i` and `t`: float32 unit vectors, shape (n, width), of those given; `scale`: the logit scale; `bias`
            where there is one. Scale and bias pass through here so that their gradients are shared among processes.
        """
        found = {"scale": self.model.logit_scale.exp()}
        if self.bias is not None:
            found["bias"] = self.bias * 1.0
        with autocast(self.model.device, self.precision):
            if mels is not None:
                found["a"] = self.model.audio_vectors(mels)
            if pixels is not None:
                found["i"] = self.model.image_vectors(pixels)
            if tokens is not None:
                found["t"] = self.model.text_vectors(**tokens)
        return found


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Run the towers' products in bf16 where the recipe says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def learns(model: nn.Module, letter: str) -> bool:
    """Tell whether anything in a modality's tower trains."""
    towers = (model.get_submodule(name) for name in TOWERS[letter])
    return any(parameter.requires_grad for tower in towers for parameter in tower.parameters())


def pairs_of(recipe: Recipe) -> list[str]:
    """Return the pairs that the recipe weighs: `at`, `ai`, `it`."""
    return [pair for pair, name in PAIRS.items() if getattr(recipe, name)]


def letters_of(recipe: Recipe) -> list[str]:
    """Return the modalities that these pairs need."""
    return sorted(set("".join(pairs_of(recipe))))
