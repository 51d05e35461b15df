"""Image and text towers in open_clip's layout, read and written; BioCLIP, BioCLIP 2 and BioVITA are published so."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from biovita.errors import BiovitaError, ModelError
from biovita.files import read_json, write_json
from biovita.models.moves import Move, Tensors, bring, checked, read_tensors, send
from biovita.models.processor import clip_settings, find_tokenizer

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # the first that is there

# Tensors: open_clip's name, and that of transformers' CLIPModel.
ALONE = (
    ("logit_scale", "logit_scale"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
)
TRANSPOSED = (("visual.proj", "visual_projection.weight"), ("text_projection", "text_projection.weight"))
PAIRS = (  # each a weight and a bias
    ("visual.ln_pre", "vision_model.pre_layrnorm"),
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("ln_final", "text_model.final_layer_norm"),
)
BLOCKS = (
    ("visual.transformer.resblocks", "vision_model.encoder.layers"),
    ("transformer.resblocks", "text_model.encoder.layers"),
)
PAIRS_OF_BLOCK = (
    ("ln_1", "layer_norm1"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # one tensor in open_clip

# Keys of the configuration that we honour, values that say what is so anyway, and keys that change nothing here.
KNOWN = {
    "model_cfg": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"},
    "preprocess_cfg": {"size", "mean", "std"},
}
PLAIN = {
    "pool_type": ("tok", "argmax"),
    "pos_embed_type": ("learnable",),
    "proj_type": ("linear",),
    "interpolation": ("bicubic",),
    "resize_mode": ("shortest",),
    "mode": ("RGB",),
}
IDLE = {
    *("patch_dropout", "init_logit_scale", "attn_pooler_queries", "attn_pooler_heads"),
    *("pad_id", "eos_id", "fill_color"),
}
HEAD_WIDTH, MLP_RATIO, EPSILON = 64, 4, 1e-5  # open_clip's, where its configuration is silent


@dataclass(frozen=True)
class Clip:
    """Image and text towers as transformers' CLIPModel has them.

    Attributes:
        config: sizes.
        tensors: the state dictionary of CLIPModel, float32.
        image_processor: side, mean and standard deviation.
        tokenizer: of the text tower.
        weights: the file that they came from.
    """

    config: CLIPConfig
    tensors: Tensors
    image_processor: CLIPImageProcessorPil
    tokenizer: CLIPTokenizer
    weights: Path


def moves_of(config: CLIPConfig, *, theirs: str = "", ours: str = "") -> list[Move]:
    """List the tensors of towers of these sizes, with a prefix on either side.

    Source:
        The names of open_clip's `CLIP` and of transformers' `CLIPModel`.
    """
    moves = [Move(a, (b,)) for a, b in ALONE] + [Move(a, (b,), transposed=True) for a, b in TRANSPOSED]
    pairs = list(PAIRS)
    parts: tuple[Any, ...] = (config.vision_config, config.text_config)
    for (there, here), part in zip(BLOCKS, parts, strict=True):
        for n in range(part.num_hidden_layers):
            pairs += [(f"{there}.{n}.{a}", f"{here}.{n}.{b}") for a, b in PAIRS_OF_BLOCK]
            for kind in ("weight", "bias"):
                projections = tuple(f"{here}.{n}.{name}.{kind}" for name in ATTENTION)
                moves.append(Move(f"{there}.{n}.attn.in_proj_{kind}", projections))
    moves += [Move(f"{a}.{kind}", (f"{b}.{kind}",)) for a, b in pairs for kind in ("weight", "bias")]
    return [Move(theirs + move.theirs, tuple(ours + name for name in move.ours), move.transposed) for move in moves]


def read_open_clip(folder: Path, scratch: Path | None = None) -> Clip:
    """Read image and text towers.

    Args:
        folder: open_clip_config.json, the weights, and mostly a tokenizer.
        scratch: where pickled weights become safetensors, see `read_tensors`.

    Raises:
        ModelError: a file is missing, the architecture is no plain ViT CLIP, or a tensor does not fit.
    """
    config, image_processor, tokenizer = read_config(folder)
    weights = first_of(folder, WEIGHTS)
    moves = moves_of(config)
    with torch.device("meta"):
        expected = send(CLIPModel(config).state_dict(), moves)
    tensors = bring(checked(weights, read_tensors(weights, scratch), expected), moves)
    return Clip(config, tensors, image_processor, tokenizer, weights)


def read_config(folder: Path) -> tuple[CLIPConfig, CLIPImageProcessorPil, CLIPTokenizer]:
    """Read sizes, picture settings and tokenizer.

    Raises:
        ModelError: it is no plain ViT CLIP; the key that says so is named.
    """
    path = folder / CONFIG
    table = read_object(path)
    model = _section(path, table, "model_cfg")
    vision, text = _section(path, model, "vision_cfg"), _section(path, model, "text_cfg")
    pictures: dict[str, Any] = table.get("preprocess_cfg") or {}
    for name, section in {
        "model_cfg": model,
        "vision_cfg": vision,
        "text_cfg": text,
        "preprocess_cfg": pictures,
    }.items():
        for key, value in section.items():
            if key not in KNOWN[name] | IDLE and value and value not in PLAIN.get(key, ()):
                raise ModelError(f"{path}: {name}.{key} is {value!r}; only a plain ViT CLIP can be converted")
    act = "quick_gelu" if model.get("quick_gelu") else "gelu"
    side_px = _whole(path, vision, "image_size")
    if pictures.get("size") not in (None, side_px, [side_px, side_px]):
        raise ModelError(f"{path}: preprocess_cfg.size is {pictures['size']}, vision_cfg.image_size {side_px}")
    n_words, n_tokens = _whole(path, text, "vocab_size"), _whole(path, text, "context_length")
    tokenizer = find_tokenizer(folder, n_words=n_words, n_tokens=n_tokens, named=text.get("hf_tokenizer_name"))
    width, head_width = (_whole(path, {"head_width": HEAD_WIDTH, **vision}, key) for key in ("width", "head_width"))
    config = CLIPConfig(
        projection_dim=_whole(path, model, "embed_dim"),
        vision_config={
            **_tower(path, vision, n_heads=width // head_width, act=act),
            "image_size": side_px,
            "patch_size": _whole(path, vision, "patch_size"),
        },
        text_config={
            **_tower(path, text, n_heads=_whole(path, text, "heads"), act=act),
            "max_position_embeddings": n_tokens,
            "vocab_size": n_words,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    colours = {f"image_{key}": _colour(path, pictures, key) for key in ("mean", "std") if key in pictures}
    return config, clip_settings(side_px, **colours), tokenizer


def write_config(
    folder: Path, config: CLIPConfig, image_processor: CLIPImageProcessorPil, tokenizer: CLIPTokenizer
) -> None:
    """Write sizes and tokenizer; what is open_clip's default is left out, as in its own files.

    Raises:
        ModelError: open_clip has no words for these towers.
    """
    vision: Any = config.vision_config
    text: Any = config.text_config
    if vision.hidden_act != text.hidden_act or vision.hidden_act not in ("gelu", "quick_gelu"):
        raise ModelError(f"open_clip has no towers with the activations {vision.hidden_act} and {text.hidden_act}")
    if {vision.layer_norm_eps, text.layer_norm_eps} != {EPSILON}:
        raise ModelError(f"open_clip normalises with {EPSILON:g}, these towers do not")
    model: dict[str, Any] = {
        "embed_dim": config.projection_dim,
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "patch_size": vision.patch_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
        },
    }
    if vision.hidden_act == "quick_gelu":
        model["quick_gelu"] = True
    if vision.hidden_size != HEAD_WIDTH * vision.num_attention_heads:
        model["vision_cfg"]["head_width"] = vision.hidden_size // vision.num_attention_heads
    for name, part in (("vision_cfg", vision), ("text_cfg", text)):
        if part.intermediate_size != MLP_RATIO * part.hidden_size:
            model[name]["mlp_ratio"] = part.intermediate_size / part.hidden_size
    pictures = {
        "mean": list(image_processor.image_mean),
        "std": list(image_processor.image_std),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": pictures})


def first_of(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first of these files that a folder has."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder}: lacks {' or '.join(names)}")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder."""
    if not path.is_file():
        raise ModelError(f"{path.parent}: lacks {path.name}")
    try:
        table = read_json(path)
    except BiovitaError as error:
        raise ModelError(str(error)) from error
    if not isinstance(table, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return table


def _section(path: Path, table: dict[str, Any], key: str) -> dict[str, Any]:
    section = table.get(key)
    if not isinstance(section, dict):
        raise ModelError(f"{path}: lacks the table {key}")
    return section


def _tower(path: Path, section: dict[str, Any], *, n_heads: int, act: str) -> dict[str, Any]:
    """Say the sizes that both towers have, in transformers' words."""
    width, ratio = _whole(path, section, "width"), section.get("mlp_ratio", MLP_RATIO)
    if not isinstance(ratio, (int, float)) or not n_heads or width % n_heads:
        raise ModelError(f"{path}: a width of {width} with {n_heads} heads and mlp_ratio {ratio!r} makes no tower")
    return {
        "hidden_size": width,
        "intermediate_size": int(width * ratio),
        "num_hidden_layers": _whole(path, section, "layers"),
        "num_attention_heads": n_heads,
        "hidden_act": act,
    }


def _whole(path: Path, table: dict[str, Any], key: str) -> int:
    value = table.get(key)
    if type(value) is not int or value < 1:
        raise ModelError(f"{path}: {key} is {value!r}; a plain ViT CLIP has a whole number there")
    return value


def _colour(path: Path, section: dict[str, Any], key: str) -> list[float]:
    value = section[key]
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(one, (int, float)) for one in value):
        raise ModelError(f"{path}: preprocess_cfg.{key} is {value!r}; three numbers belong there")
    return value
