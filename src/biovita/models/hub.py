"""Model folders: load by path or hub name, start from a size, save."""

import json
import logging
from collections.abc import Iterable
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from biovita.errors import ModelError
from biovita.files import sha256_file, write_text
from biovita.models.encoder import Encoder
from biovita.models.processor import BioVitaProcessor, fit_tokenizer, make_processor
from biovita.models.vita import BioVitaConfig, BioVitaModel

Size = Literal["tiny", "small", "paper"]
FILES = ("config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json")

transformers_logging.disable_progress_bar()
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def load(name: str | Path, *, device: str | None = None) -> Encoder:
    """Load a model: a folder, or the id of one on the Hugging Face hub.

    Args:
        name: a model folder (docs: system contracts, section 5) or `owner/name`.
        device: `cpu`, `cuda`, …; by default a GPU where there is one.

    Raises:
        ModelError: no such folder or hub id; a file or tensor is missing, unexpected, misshapen, or not finite.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _fetch(str(name))
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise ModelError(f"{folder}: not a whole BioVITA model folder, it lacks {', '.join(missing)}")
    model = _load_weights(folder).eval()
    torch.nn.Module.to(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Encoder(
        model=model,
        processor=_load_processor(folder),
        name=folder.resolve().name if Path(name).is_dir() else str(name),
        weights_sha256=sha256_file(folder / "model.safetensors"),
        folder=folder,
    )


def _load_weights(folder: Path) -> BioVitaModel:
    try:
        config = BioVitaConfig.from_pretrained(folder)
        if config.model_type != BioVitaConfig.model_type:
            raise ModelError(f"{folder / 'config.json'}: model_type is {config.model_type!r}, not 'biovita'")
        loaded: Any = BioVitaModel.from_pretrained(
            folder, config=config, output_loading_info=True, use_safetensors=True, dtype=torch.float32,
            local_files_only=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{folder}: cannot be read as a BioVITA model: {error}") from error
    model, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(key) for key in info[kind]):
            raise ModelError(f"{folder / 'model.safetensors'}: {kind.replace('_', ' ')}: {', '.join(names[:5])}")
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{folder / 'model.safetensors'}: {key} holds values that are not finite")
    return model


def _load_processor(folder: Path) -> BioVitaProcessor:
    try:
        return BioVitaProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: its processor or tokenizer cannot be read: {error}") from error


def _fetch(name: str) -> Path:
    """Download a hub repository into the hub's own cache and return the folder."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"{name}: no such model folder, and not a hub name of the form owner/name")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.md", "*.csv"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{name}: no such folder, and the model hub did not give it: {str(error).splitlines()[0]}"
        ) from error


def start(size: Size, names: Iterable[str], *, seed: int) -> Encoder:
    """Make an untrained model of a size, with a tokenizer fitted to the names that training may see."""
    if size not in get_args(Size):
        raise ModelError(f"'{size}' is neither a model folder nor one of the sizes {', '.join(get_args(Size))}")
    shape: dict[str, Any] = json.loads((package_files("biovita.models") / "sizes" / f"{size}.json").read_text())
    tokenizer = fit_tokenizer(names, vocab_size=shape["vocab_size"])
    clip = shape["clip_config"]
    clip["text_config"] |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = BioVitaConfig(
        audio_config=shape["audio_config"], clip_config=clip, audio_projection=shape["audio_projection"]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BioVitaModel(config)
    processor = make_processor(
        tokenizer, image_size_px=clip["vision_config"]["image_size"], audio_padding=shape["audio_padding"]
    )
    return Encoder(model=model.eval(), processor=processor, name=size)


def save(encoder: Encoder, folder: Path, *, card: str) -> None:
    """Write a model folder: configuration, safetensors, processor, tokenizer, model card."""
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    write_text(folder / "README.md", card)
