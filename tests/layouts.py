"""Folders in the layouts in which weights are published: transformers' own classes, small, with random weights.

open_clip is no dependency, so its names are spelled out here one by one, without the table that is under test.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, CLIPConfig, CLIPModel

from biovita.models.processor import fit_tokenizer

WIDTH, N_TEXT, N_IMAGE = 48, 2, 3  # of the joint space; layers
WORDS = ("Turdus merula", "Common Blackbird", "Rana temporaria", "frog", "owl") * 20
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def shake(model: nn.Module, seed: int) -> Any:
    """Make every tensor different from its neighbours: initial norms are ones, initial biases zeros."""
    noise = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.02 * torch.rand(tensor.shape, generator=noise)
    return model.eval()


def clip_model(n_words: int, *, act: str = "gelu", seed: int = 1) -> CLIPModel:
    sizes = {"intermediate_size": 256, "num_attention_heads": 1, "hidden_size": 64, "hidden_act": act}
    ends = {"bos_token_id": n_words - 2, "eos_token_id": n_words - 1, "pad_token_id": n_words - 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CLIPConfig(
            projection_dim=WIDTH,
            text_config={**sizes, **ends, "vocab_size": n_words, "num_hidden_layers": N_TEXT},
            vision_config={**sizes, "num_hidden_layers": N_IMAGE, "image_size": 32, "patch_size": 8},
        )
        return shake(CLIPModel(config), seed)


def clap_model(*, projection_dim: int = 32, seed: int = 2) -> ClapModel:
    audio = {
        **{"patch_size": 16, "patch_stride": [16, 16], "patch_embeds_hidden_size": 32},
        **{"depths": [2, 2], "num_attention_heads": [2, 4], "hidden_size": 64, "hidden_dropout_prob": 0.0},
    }
    text = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = ClapConfig(audio_config=audio, text_config=text, projection_dim=projection_dim)
        return shake(ClapModel(config), seed)


def open_clip_tensors(model: CLIPModel) -> dict[str, torch.Tensor]:
    """Name a CLIPModel's tensors as open_clip does."""
    here, there = model.state_dict(), {}
    there["logit_scale"] = here["logit_scale"]
    there["visual.class_embedding"] = here["vision_model.embeddings.class_embedding"]
    there["visual.conv1.weight"] = here["vision_model.embeddings.patch_embedding.weight"]
    there["visual.positional_embedding"] = here["vision_model.embeddings.position_embedding.weight"]
    there["visual.proj"] = here["visual_projection.weight"].T.contiguous()
    there["text_projection"] = here["text_projection.weight"].T.contiguous()
    there["token_embedding.weight"] = here["text_model.embeddings.token_embedding.weight"]
    there["positional_embedding"] = here["text_model.embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        there[f"visual.ln_pre.{kind}"] = here[f"vision_model.pre_layrnorm.{kind}"]
        there[f"visual.ln_post.{kind}"] = here[f"vision_model.post_layernorm.{kind}"]
        there[f"ln_final.{kind}"] = here[f"text_model.final_layer_norm.{kind}"]
        for n in range(N_IMAGE + N_TEXT):
            a = f"visual.transformer.resblocks.{n}" if n < N_IMAGE else f"transformer.resblocks.{n - N_IMAGE}"
            b = f"vision_model.encoder.layers.{n}" if n < N_IMAGE else f"text_model.encoder.layers.{n - N_IMAGE}"
            there[f"{a}.ln_1.{kind}"] = here[f"{b}.layer_norm1.{kind}"]
            there[f"{a}.ln_2.{kind}"] = here[f"{b}.layer_norm2.{kind}"]
            there[f"{a}.attn.in_proj_{kind}"] = torch.cat([here[f"{b}.self_attn.{x}_proj.{kind}"] for x in "qkv"])
            there[f"{a}.attn.out_proj.{kind}"] = here[f"{b}.self_attn.out_proj.{kind}"]
            there[f"{a}.mlp.c_fc.{kind}"] = here[f"{b}.mlp.fc1.{kind}"]
            there[f"{a}.mlp.c_proj.{kind}"] = here[f"{b}.mlp.fc2.{kind}"]
    return there


def open_clip_config(n_words: int, *, quick_gelu: bool = False) -> dict[str, Any]:
    model: dict[str, Any] = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 32, "layers": N_IMAGE, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": n_words, "width": 64, "heads": 1, "layers": N_TEXT},
    }
    pictures = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {"model_cfg": {**model, **({"quick_gelu": True} if quick_gelu else {})}, "preprocess_cfg": pictures}


def write_open_clip(folder: Path, *, quick_gelu: bool = False, pickled: bool = False) -> CLIPModel:
    """Write what `hf-hub:imageomics/bioclip-2` holds: configuration, weights, tokenizer."""
    folder.mkdir(parents=True)
    tokenizer = fit_tokenizer(WORDS, vocab_size=560)
    tokenizer.save_pretrained(folder)
    model = clip_model(len(tokenizer), act="quick_gelu" if quick_gelu else "gelu")
    config = open_clip_config(len(tokenizer), quick_gelu=quick_gelu)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if pickled:
        torch.save(open_clip_tensors(model), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(open_clip_tensors(model), folder / "open_clip_model.safetensors")
    return model


def write_clap(folder: Path, *, projection_dim: int = 32) -> ClapModel:
    """Write what `laion/clap-htsat-unfused` holds, but for its tokenizer."""
    model = clap_model(projection_dim=projection_dim)
    model.save_pretrained(folder)
    ClapFeatureExtractor(frequency_min=50, padding="repeatpad", truncation="rand_trunc").save_pretrained(folder)
    return model


@dataclass(frozen=True)
class Release:
    """What a release was made of."""

    clip: CLIPModel
    clap: ClapModel
    adapter: torch.Tensor

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """Name everything as the released training code saves it."""
        return {
            **{f"oc_model.{name}": tensor for name, tensor in open_clip_tensors(self.clip).items()},
            **{f"clap_audio.{name}": tensor for name, tensor in self.clap.state_dict().items()},
            "audio_adapter.weight": self.adapter,
            "logit_scale": torch.tensor(1.25),
        }


def write_release(folder: Path) -> Release:
    """Write what `risashinoda/BioVITA` holds, and the sizes of its audio tower, which there are the published ones."""
    clip = write_open_clip(folder, pickled=True)
    clap = clap_model()
    adapter = torch.randn(WIDTH, 32, generator=torch.Generator().manual_seed(3)) / 6
    content = {"clap_audio": clap.state_dict(), "audio_adapter": {"weight": adapter}}
    torch.save(content, folder / "clap_weights.pth")
    clap.config.save_pretrained(folder)
    return Release(clip, clap, adapter)
