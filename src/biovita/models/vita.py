"""BioVITA's network: HTS-AT for sound, CLIP's towers for picture and name, one space of 768 dimensions."""

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    ClapAudioConfig,
    CLIPConfig,
    CLIPModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.clap.modeling_clap import ClapAudioModel, ClapProjectionLayer

INITIAL_TEMPERATURE = 0.07
FRAMES = 1001  # of 10 s at 48 kHz with hop 480, centred
AudioProjection = Literal["adapter", "direct"]


class BioVitaConfig(PreTrainedConfig):
    """What the model is; how it was trained stands in run.json.

    Args:
        audio_config: HTS-AT, as `ClapAudioConfig`.
        clip_config: image and text towers, as `CLIPConfig`; its `projection_dim` is the width of the joint space.
        audio_projection: `adapter`, CLAP's two-layer projection, unit length, then a linear layer without bias, as
            released; or `direct`, the two-layer projection straight into the joint space, as the paper says.
    """

    model_type = "biovita"
    sub_configs = {  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        "audio_config": ClapAudioConfig,
        "clip_config": CLIPConfig,
    }

    audio_config: dict[str, Any] | ClapAudioConfig | None = None
    clip_config: dict[str, Any] | CLIPConfig | None = None
    audio_projection: str = "adapter"

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.audio_config, ClapAudioConfig):
            self.audio_config = ClapAudioConfig(**(self.audio_config or {}))
        if not isinstance(self.clip_config, CLIPConfig):
            self.clip_config = CLIPConfig(**(self.clip_config or {}))
        super().__post_init__(**kwargs)

    @property
    def width(self) -> int:
        """Dimensions of the joint space."""
        assert isinstance(self.clip_config, CLIPConfig)
        return int(self.clip_config.projection_dim or 0)


class BioVitaModel(PreTrainedModel):
    """The three towers; every `*_vectors` method returns float32 unit vectors of shape (batch, width)."""

    config_class = BioVitaConfig
    config: BioVitaConfig
    base_model_prefix = "biovita"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    def __init__(self, config: BioVitaConfig) -> None:
        super().__init__(config)
        audio, clip = config.audio_config, config.clip_config
        assert isinstance(audio, ClapAudioConfig)
        assert isinstance(clip, CLIPConfig)
        self.audio_model = ClapAudioModel(audio)
        self.audio_projection = ClapProjectionLayer(audio)
        self.audio_adapter = nn.Linear(audio.projection_dim, config.width, bias=False)
        if config.audio_projection == "direct":
            if audio.projection_dim != config.width:
                raise ValueError(
                    f"audio_projection 'direct' needs audio_config.projection_dim {audio.projection_dim} "
                    f"to equal clip_config.projection_dim {config.width}"
                )
            self.audio_adapter = nn.Identity()
        self.clip = CLIPModel(clip)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / INITIAL_TEMPERATURE)))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what is ours; the towers initialise themselves by their own rules."""
        if module is self:
            self.logit_scale.fill_(math.log(1.0 / INITIAL_TEMPERATURE))
        elif module is self.audio_adapter and isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def audio_vectors(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Embed sounds.

        Args:
            log_mel: dB, shape (batch, 1001, 64). Other frame counts are refused: HTS-AT would stretch them in silence.
        """
        if log_mel.shape[1] != FRAMES:
            raise ValueError(f"expected {FRAMES} frames of log-mel (10 s), got {log_mel.shape[1]}")
        vectors = self.audio_projection(_pooled(self.audio_model(input_features=log_mel[:, None])))
        if self.config.audio_projection == "adapter":
            vectors = functional.normalize(vectors.float(), dim=-1)
        return functional.normalize(self.audio_adapter(vectors).float(), dim=-1)

    def image_vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pictures: normalised pixels, shape (batch, 3, side, side)."""
        return functional.normalize(_pooled(self.clip.get_image_features(pixel_values=pixels)).float(), dim=-1)

    def text_vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed names: token ids and mask, shape (batch, n_tokens); trim to the longest, padding costs time only."""
        features = self.clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return functional.normalize(_pooled(features).float(), dim=-1)


def _pooled(output: Any) -> torch.Tensor:
    """Unwrap what transformers 5 returns; before it was the tensor itself."""
    return output.pooler_output


AutoConfig.register(BioVitaConfig.model_type, BioVitaConfig)
AutoModel.register(BioVitaConfig, BioVitaModel)
