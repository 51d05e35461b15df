"""Every number of one training stage; imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

from biovita.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stage of L = w_at ATC + ramp(t) (w_ai AIC + w_it ITC).

    Source:
        BioVITA (arXiv 2603.23883), training: stage 1 is ATC alone, stage 2 adds AIC and ITC with one weight λ that
        grows linearly over the first two epochs.
    """

    stage: str = "stage1"
    """What the stage is called in logs, plots and run.json."""
    audio_text: float = 1.0
    """Weight of ATC, the audio-text loss."""
    audio_image: float = 0.0
    """Weight λ of AIC, the audio-image loss, after the ramp."""
    image_text: float = 0.0
    """Weight λ of ITC, the image-text loss, after the ramp."""
    ramp_epochs: float = 0.0
    """Epochs over which the weights of AIC and ITC grow linearly from 0."""
    trained: tuple[str, ...] = ("audio_model.*", "audio_projection.*", "audio_adapter.*", "logit_scale")
    """Parameters that train, as patterns on their names; everything else is frozen and stays bit for bit the same."""
    epochs: int = 30
    """Passes over the epoch view (see max_per_species)."""
    batch_size: int = 64
    """Pairs or triplets a step."""
    micro_batch: int = 0
    """Items that the towers see at once, in the memory of so many; the gradient stays the whole batch's. 0: all."""
    freeze_batch_norm: bool = False
    """Keep the running statistics of HTS-AT's batch norm, and normalise by them; needed by micro_batch."""
    learning_rate: float = 1e-4
    """Peak rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Constant, as the paper; or a cosine to zero over the whole stage."""
    warmup_steps: int = 0
    """Steps over which the rate grows linearly from 0."""
    weight_decay: float = 0.05
    """On matrices and filters; never on norms, biases and the logit scale."""
    clip_gradient: float = 1.0
    """Largest norm of the whole gradient."""
    max_logit_scale: float = 100.0
    """Upper limit of the learnable logit scale (1 / temperature)."""
    same_species: Literal["masked", "positive", "negative"] = "masked"
    """What another item of an item's species is: left out, as right as its partner, or wrong (as in the release)."""
    kinship: float = 0.0
    """How right another species of the genus is, the partner being 1; its square for the family, and so on."""
    min_per_species: int = 5
    """Species with fewer items are topped up to so many draws an epoch."""
    max_per_species: int = 20
    """At most so many items of a species are drawn an epoch."""
    flip_images: bool = True
    """Mirror half of the pictures; the released code does not."""
    shift_audio: bool = True
    """Place a recording shorter than 10 s anywhere in the window; false puts it at the start, as the release does."""
    validate_every: int = 5
    """Epochs between two looks at the validation split."""
    seed: int = 1
    """Seed of order, pairs, prompts, crops and mirroring."""

    def __post_init__(self) -> None:
        if not (self.audio_text or self.audio_image or self.image_text):
            raise ConfigError("audio_text, audio_image and image_text are all 0; a stage needs at least one loss")
        least = {"epochs": 1, "batch_size": 1, "max_per_species": 1, "validate_every": 1, "warmup_steps": 0}
        least |= {"micro_batch": 0}
        least |= dict.fromkeys(("audio_text", "audio_image", "image_text", "ramp_epochs", "weight_decay"), 0)
        for name, low in least.items():
            if not low <= getattr(self, name) < math.inf:
                raise ConfigError(f"recipe.{name} is {getattr(self, name)}; it must be at least {low}")
        for name, low in {"learning_rate": 0.0, "clip_gradient": 0.0, "max_logit_scale": 1.0}.items():
            if not low < getattr(self, name) < math.inf:
                raise ConfigError(f"recipe.{name} is {getattr(self, name)}; it must be more than {low:g}")
        if self.micro_batch and not self.freeze_batch_norm and (self.audio_text or self.audio_image):
            raise ConfigError(
                f"micro_batch is {self.micro_batch} and freeze_batch_norm is false: a batch norm would take its "
                "statistics from pieces of the batch; set freeze_batch_norm"
            )
        if not 0 <= self.kinship < 1:
            raise ConfigError(f"recipe.kinship is {self.kinship}; it must be at least 0 and below 1")
        if self.min_per_species > self.max_per_species:
            raise ConfigError(
                f"min_per_species {self.min_per_species} is larger than max_per_species {self.max_per_species}"
            )

    @property
    def anchor(self) -> Literal["audio", "image"]:
        """The modality that an epoch walks through; partners are drawn to it."""
        return "audio" if self.audio_text or self.audio_image else "image"
