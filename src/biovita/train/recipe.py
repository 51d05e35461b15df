"""Every number of one training stage; imports no torch."""

import math
from dataclasses import dataclass, field
from typing import Literal

from biovita.errors import ConfigError

MOST_SEED = 2**63  # torch takes no larger one


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Changes that make every draw of an item another one; a pure function of (seed, epoch, index). All off."""

    gain_db: float = 0.0
    """Sounds become up to so much louder or softer."""
    background: float = 0.0
    """Share of sounds that another recording is mixed into, as a background."""
    background_snr_db: tuple[float, float] = (0.0, 20.0)
    """How much louder than the background a sound is: between these."""
    mask_frames: int = 0
    """Longest stripe of frames (10 ms) that is blanked, of 1,001 (SpecAugment)."""
    mask_bands: int = 0
    """Widest stripe of mel bands that is blanked, of 64 (SpecAugment)."""
    crop: float = 1.0
    """Smallest share of a picture's area that a random crop keeps, at aspects from 3:4 to 4:3; 1: no crop."""
    colour: float = 0.0
    """Brightness, contrast and saturation change by up to this share."""

    def __post_init__(self) -> None:
        limits = {"gain_db": (0, 60), "background": (0, 1), "mask_frames": (0, 1001), "mask_bands": (0, 64)}
        limits |= {"crop": (0.01, 1), "colour": (0, 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}; it must be from {low} to {high}")
        low, high = self.background_snr_db
        if not -math.inf < low <= high < math.inf:
            raise ConfigError(f"augment.background_snr_db is {low}, {high}; the first must not exceed the second")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The released code's guard of ATC in stage 2, which the paper does not mention; off while `above` is 0."""

    above: float = 0.0
    """AIC and ITC are switched off when the moving mean of ATC lies by this share above its mean before training."""
    below: float = 0.015
    """They return after `patience` steps in a row below this share."""
    patience: int = 20
    """Steps; also the number of batches over which ATC is measured before training."""
    memory: float = 0.8
    """Share of the moving mean that stays at each step."""
    penalty: float = 0.0
    """Times what ATC lies above the first share; added to the loss."""

    def __post_init__(self) -> None:
        check_number("gate.patience", self.patience, 1)
        if not 0 <= self.memory < 1:
            raise ConfigError(f"gate.memory is {self.memory}; it must be at least 0 and below 1")
        for name in ("above", "penalty"):
            check_number(f"gate.{name}", getattr(self, name), 0)
        if not math.isfinite(self.below):
            raise ConfigError(f"gate.below is {self.below}; it must be finite")


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
    ramp_steps: tuple[int, int] = (0, 0)
    """The same in steps, for AIC and ITC each; 0: as `ramp_epochs` says. The released code takes 600 and 300."""
    gate: Gate = field(default_factory=Gate)
    """Switches AIC and ITC off while they harm ATC."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Symmetric InfoNCE, or a yes or no for each pair (SigLIP), whose bias is learned beside the model."""
    trained: tuple[str, ...] = ("audio_model.*", "audio_projection.*", "audio_adapter.*", "logit_scale")
    """Parameters that train, as patterns on their names; everything else is frozen and stays bit for bit the same."""
    epochs: int = 30
    """Passes over the epoch view (see max_per_species)."""
    batch_size: int = 64
    """Pairs or triplets that are compared with each other, over all processes together."""
    accumulate: int = 1
    """Batches whose gradients make one step; they are not compared with each other."""
    micro_batch: int = 0
    """Items that the towers see at once, in the memory of so many; the gradient stays the whole batch's. 0: all."""
    freeze_batch_norm: bool = False
    """Keep the running statistics of HTS-AT's batch norm, and normalise by them; needed by micro_batch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the towers (autocast); weights, vectors and losses stay float32."""
    learning_rate: float = 1e-4
    """Peak rate of AdamW."""
    rates: dict[str, float] = field(default_factory=dict)
    """Peak rates of parameters that match a pattern, the first that does; all others follow `learning_rate`."""
    decays: dict[str, float] = field(default_factory=dict)
    """Weight decays by pattern; on norms, biases and the logit scale as well only if there is a pattern `*`."""
    from_steps: dict[str, int] = field(default_factory=dict)
    """Parameters that match a pattern stay as they are before this step."""
    beta2: float = 0.999
    """AdamW's memory of squared gradients."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Constant, as the paper; or a cosine to zero over the whole stage."""
    warmup_steps: int = 0
    """Steps over which the rate grows linearly from 0."""
    weight_decay: float = 0.05
    """On matrices and filters; never on norms, biases and the logit scale."""
    clip_gradient: float = 1.0
    """Largest norm of the whole gradient."""
    ema: float = 0.0
    """Share of the moving mean of the weights that stays at each step; the mean is validated and kept. 0: none."""
    lora_rank: int = 0
    """Train low-rank additions to the linear layers that `trained` names, and merge them at the end; 0: the layers."""
    logit_scale: float = 0.0
    """Logit scale (1 / temperature) to start with; 0: the model's own."""
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
    distinct_species: bool = False
    """Make batches without two items of one species."""
    hard_negatives: Literal["none", "genus", "family"] = "none"
    """Put items of different species of one genus or family into a batch together, up to `hard_group` of them."""
    hard_group: int = 4
    """How many relatives at once."""
    augment: Augment = field(default_factory=Augment)
    """Changes to sounds and pictures."""
    flip_images: bool = True
    """Mirror half of the pictures; the released code does not."""
    shift_audio: bool = True
    """Place a recording shorter than 10 s anywhere in the window; false puts it at the start, as the release does."""
    validate_every: float = 5.0
    """Epochs between two looks at the validation split."""
    patience: int = 0
    """Stop after so many looks without a better mean top-1; 0: never."""
    keep: Literal["last", "best"] = "last"
    """Which weights the model folder holds: the last, or those of the best look."""
    seed: int = 1
    """Seed of order, pairs, prompts, crops, mirroring and augmentation."""

    def __post_init__(self) -> None:
        if not (self.audio_text or self.audio_image or self.image_text):
            raise ConfigError("audio_text, audio_image and image_text are all 0; a stage needs at least one loss")
        if not self.stage.strip():
            raise ConfigError("recipe.stage is empty; give the stage a name, under which its log and curves stand")
        if self.seed >= MOST_SEED:
            raise ConfigError(f"recipe.seed is {self.seed}; it must be below {MOST_SEED}")
        least = {"seed": 0, "epochs": 1, "batch_size": 1, "max_per_species": 1, "accumulate": 1, "hard_group": 2}
        least |= dict.fromkeys(("audio_text", "audio_image", "image_text", "ramp_epochs", "weight_decay"), 0)
        least |= dict.fromkeys(("micro_batch", "warmup_steps", "patience", "lora_rank", "logit_scale"), 0)
        for name, low in least.items():
            check_number(f"recipe.{name}", getattr(self, name), low)
        above = {"learning_rate": 0, "clip_gradient": 0, "max_logit_scale": 1, "validate_every": 0}
        for name, low in above.items():
            check_number(f"recipe.{name}", getattr(self, name), low, above=True)
        for name in ("rates", "decays", "from_steps"):
            for pattern, value in getattr(self, name).items():
                check_number(f"recipe.{name} of '{pattern}'", value, 0)
        if min(self.ramp_steps) < 0:
            raise ConfigError(f"recipe.ramp_steps is {', '.join(map(str, self.ramp_steps))}; both must be at least 0")
        if self.logit_scale > self.max_logit_scale:
            raise ConfigError(
                f"logit_scale {self.logit_scale:g} is larger than max_logit_scale {self.max_logit_scale:g}"
            )
        if self.micro_batch and not self.freeze_batch_norm and (self.audio_text or self.audio_image):
            raise ConfigError(
                f"micro_batch is {self.micro_batch} and freeze_batch_norm is false: a batch norm would take its "
                "statistics from pieces of the batch; set freeze_batch_norm"
            )
        for name in ("kinship", "ema", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"recipe.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.distinct_species and self.hard_negatives != "none":
            raise ConfigError("distinct_species and hard_negatives exclude each other; same_species masks such pairs")
        if self.min_per_species > self.max_per_species:
            raise ConfigError(
                f"min_per_species {self.min_per_species} is larger than max_per_species {self.max_per_species}"
            )

    @property
    def anchor(self) -> Literal["audio", "image"]:
        """The modality that an epoch walks through; partners are drawn to it."""
        return "audio" if self.audio_text or self.audio_image else "image"


def check_number(name: str, value: float, low: float, *, above: bool = False) -> None:
    """Refuse a number that is too small, or not finite.

    Raises:
        ConfigError: it is.
    """
    if not (low < value if above else low <= value) or value == math.inf:
        least = f"{'more than' if above else 'at least'} {low:g}"
        raise ConfigError(f"{name} is {value}; it must be {least}{', and finite' if value == math.inf else ''}")
