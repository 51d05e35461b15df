"""Model folders: load by path or hub name, convert published ones on the way, start from a size, save, push."""

import json
import logging
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import HfApi, get_token, is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from biovita.errors import ModelError
from biovita.files import home, sha256_file, sha256_json, write_text
from biovita.models import open_clip
from biovita.models.convert import Parts, is_release, read_checkpoint, read_release, read_start
from biovita.models.encoder import Encoder
from biovita.models.peers import open_peer
from biovita.models.processor import BioVitaProcessor, fit_tokenizer, make_processor
from biovita.models.speed import Precision, prepare
from biovita.models.vita import BioVitaConfig, BioVitaModel

Size = Literal["tiny", "small", "paper"]
FILES = ("config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json")
FETCHED = ("*.json", "*.txt", "*.safetensors", "*.md", "*.csv", "clap_weights.pth")
FETCHED_WITHOUT_SAFETENSORS = ("open_clip_pytorch_model.bin", "pytorch_model.bin")
PUSHED = ("*.json", "*.jsonl", "*.safetensors", "*.md", "*.csv")
LAYOUT = 1  # of what `_converted` writes; another number makes it convert again

transformers_logging.disable_progress_bar()
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def load(
    name: str | Path,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    compiled: bool = False,
    near_pictures: bool = False,
) -> Encoder:
    """Load a model to embed with: one of ours, or a peer, which has fewer modalities.

    Args:
        name: a model folder (docs/models.md lists the layouts), or the `owner/name` of one on the Hugging Face hub.
        device: `cpu`, `cuda`, …; by default a GPU where there is one.
        precision: of the arithmetic, see `speed.prepare`; vectors are float32 in any. Peers have fp32 only.
        compiled: also compile the towers.
        near_pictures: read JPEGs about twice as fast, with 0.3 % of their values 1/255 off.

    Raises:
        ModelError: no such folder or hub id; a file or tensor is missing, unexpected, misshapen, or not finite; the
            device cannot do what is asked.
    """
    check_device(device)
    folder = find_folder(name)
    if is_peer(folder):
        if precision != "fp32" or compiled:
            raise ModelError(f"{name}: another model than BioVITA's runs in fp32 and is not compiled")
        return replace(open_peer(folder, device=device), name=_called(name, folder), near_pictures=near_pictures)
    encoder = _open(folder, name=_called(name, folder), device=device)
    prepare(encoder.model, precision=precision, compiled=compiled)
    return replace(encoder, precision=precision, near_pictures=near_pictures)


def load_encoder(name: str | Path, *, device: str | None = None) -> Encoder:
    """Load a BioVITA model to train, save or convert: all three towers, as they are in the files.

    The published release is converted first; the result is kept in the cache, named by content.

    Args:
        name: see `load`.
        device: see `load`.

    Raises:
        ModelError: see `load`; or the model is no BioVITA model.
    """
    check_device(device)
    folder = find_folder(name)
    return _open(folder, name=_called(name, folder), device=device)


def _open(folder: Path, *, name: str, device: str | None) -> Encoder:
    if is_release(folder):
        folder = _converted(folder)
    if (folder / open_clip.CONFIG).is_file():
        raise ModelError(f"{folder}: image and text towers alone; `biovita model convert --clap` joins an audio tower")
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing and (folder / "audio.onnx").is_file():
        raise ModelError(
            f"{folder}: holds exported towers, which biovita.models.export.load_exported opens; "
            "here name the model that they came from"
        )
    if missing:
        raise ModelError(f"{folder}: not a whole BioVITA model folder, it lacks {', '.join(missing)}")
    model = _load_weights(folder).eval()
    torch.nn.Module.to(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Encoder(
        model=model,
        processor=_load_processor(folder),
        name=name,
        weights_sha256=sha256_file(folder / "model.safetensors"),
        folder=folder,
    )


def _called(name: str | Path, folder: Path) -> str:
    """Call a model by the folder's own name, or by its name on the hub."""
    return folder.resolve().name if Path(name).is_dir() else str(name)


def check_device(device: str | None) -> None:
    """Refuse a device that this machine has not, before a model is looked for.

    Raises:
        ModelError: torch does not know it, or cannot use it here.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0].split(". ")[0].split(" device type at start")[0]
        raise ModelError(f"device '{device}' cannot be used here ({said}); take cpu, or leave it out") from None


def is_peer(folder: Path) -> bool:
    """Tell whether a folder holds another model than ours: towers of CLIP or open_clip alone, or CLAP alone."""
    if (folder / open_clip.CONFIG).is_file():
        return not is_release(folder)
    if not (folder / "config.json").is_file():
        return False
    return open_clip.read_object(folder / "config.json").get("model_type") != BioVitaConfig.model_type


def find_folder(name: str | Path) -> Path:
    """Return a model folder as it is: itself, or a copy of the hub's in the hub's own cache.

    Raises:
        ModelError: no such folder, and the hub does not give it.
    """
    return Path(name) if Path(name).is_dir() else _fetch(str(name))


def read(source: str, scratch: Path, *, clip: Path | None, clap: Path | None, seed: int) -> Parts:
    """Read a model of any layout, to be written in another.

    Args:
        source: folder, hub name, or a checkpoint of the released training code.
        scratch: where pickled weights become safetensors.
        clip: the towers that a checkpoint started from.
        clap: CLAP's folder: audio tower of a stage-1 start, sizes of a checkpoint.
        seed: of the adapter of a stage-1 start.

    Raises:
        ModelError: it cannot be read, or something more must be named.
    """
    path = Path(source)
    if path.is_file():
        if clip is None:
            raise ModelError(f"{source}: a checkpoint says no sizes; name the towers that it started from with --clip")
        return read_checkpoint(path, scratch, clip=clip, clap=clap)
    if clip:
        raise ModelError(f"{source}: --clip belongs to a checkpoint file; this says its own sizes")
    folder = find_folder(source)
    if is_release(folder):
        return read_release(folder, scratch)
    if (folder / open_clip.CONFIG).is_file():
        if clap is None:
            raise ModelError(f"{source}: holds image and text towers only; name an audio tower with --clap")
        return read_start(folder, clap, scratch, seed=seed)
    encoder = load_encoder(folder, device="cpu")
    return Parts(encoder.model.config, encoder.model.state_dict(), encoder.processor)


def _converted(folder: Path) -> Path:
    """Convert a release into a folder of ours in the cache, or find the one that was made of the same bytes."""
    read = ("*.json", "*.txt", "open_clip_*", "clap_weights.pth")
    content = {path.name: sha256_file(path) for pattern in read for path in folder.glob(pattern)}
    cache = home() / "models" / "converted"
    out = cache / sha256_json([LAYOUT, content])[:32]
    if not out.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".part-") as scratch:
            part = Path(scratch) / "model"
            parts = read_release(folder, Path(scratch))
            write_parts(parts, part, card=card_of(folder.name, str(folder)))
            try:
                part.rename(out)
            except OSError:
                if not out.is_dir():  # else another process was faster
                    raise
    return out


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
    if Path(name).is_file():
        raise ModelError(f"{name}: is a file; name the model folder that it lies in")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"{name}: no such model folder, and not a hub name of the form owner/name")
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FETCHED)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*FETCHED, *FETCHED_WITHOUT_SAFETENSORS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{name}: no such folder, and the model hub did not give it: {str(error).splitlines()[0]}"
        ) from error
    return folder


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
    if encoder.precision != "fp32":
        raise ModelError(f"{encoder.name}: was loaded in {encoder.precision} to embed; load it in fp32 to save it")
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    write_text(folder / "README.md", card)


def write_parts(parts: Parts, folder: Path, *, card: str) -> None:
    """Write a converted model as a folder of ours, without room for a second copy of its weights."""
    with torch.device("meta"):
        model = BioVitaModel(parts.config)
    model.load_state_dict(parts.tensors, assign=True)
    model.save_pretrained(folder)
    parts.processor.save_pretrained(folder)
    write_text(folder / "README.md", card)


def card_of(name: str, source: str) -> str:
    """Write the model card of a converted model."""
    return f"""---
library_name: biovita
tags: [bioacoustics, biodiversity, zero-shot, audio, image, text]
---
# {name}

A BioVITA model: sounds (HTS-AT), pictures and names (CLIP) in one space. Converted from `{source}`, weights unchanged.

    import biovita
    model = biovita.load("{name}")
    model.embed_audio(["call.mp3"]) @ model.embed_text(["Turdus merula"]).T
"""


def push(folder: Path, name: str, *, private: bool) -> str:
    """Upload a model folder to the Hugging Face hub, after loading it as everyone will.

    Args:
        folder: a BioVITA model folder.
        name: `owner/name`; made if it does not exist.
        private: of a repository that is made.

    Returns:
        The address of the repository.

    Raises:
        ModelError: the folder does not verify, there is no token, or the hub refuses.
    """
    load_encoder(folder, device="cpu")
    if not (folder / "README.md").is_file():
        raise ModelError(f"{folder}: lacks README.md; a published model has a card")
    if is_offline_mode():
        raise ModelError(f"{name}: --offline forbids to ask the model hub; leave it out to push")
    if not get_token():
        raise ModelError(f"{name}: no token of the model hub; set HF_TOKEN or log in with `hf auth login`")
    hub = HfApi(library_name="biovita")
    try:
        url = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(PUSHED), commit_message="Add model")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{name}: the model hub refused it: {str(error).splitlines()[0]}") from error
    return str(url)
