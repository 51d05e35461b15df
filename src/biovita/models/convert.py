"""Whole models from published weights, and back: BioVITA's release, its training checkpoints, CLAP with BioCLIP 2.

Nothing is guessed: sizes come from the folder's configuration, and a tensor that is missing, unexpected, misshapen or
not finite is an error that names it and its file.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, CLIPConfig

from biovita.errors import ModelError
from biovita.models import open_clip
from biovita.models.moves import Move, Tensors, bring, checked, read_tensors, send
from biovita.models.open_clip import Clip, first_of, read_object
from biovita.models.pickles import write_pickle
from biovita.models.processor import BioVitaProcessor, clap_settings
from biovita.models.vita import FRAMES, INITIAL_TEMPERATURE, BioVitaConfig, BioVitaModel

RELEASE_WEIGHTS = "clap_weights.pth"
CLAP_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# Stage 2 of the released code sets its temperature to this and never trains it; the published files do not hold it.
RELEASED_TEMPERATURE = 0.2

# What of ClapModel is ours; the rest is its text tower with projection, and its two temperatures.
CLAP_OURS = ("audio_model.", "audio_projection.")
CLAP_REST = ("text_model.", "text_projection.", "logit_scale_a", "logit_scale_t")
ADAPTER = "audio_adapter.weight"
TEMPERATURE = "logit_scale"


@dataclass(frozen=True)
class Parts:
    """A whole model before it is one.

    Attributes:
        config: sizes.
        tensors: the state dictionary of BioVitaModel, float32.
        processor: of all three modalities.
        n_left_out: tensors of the source that a BioVITA model has no use for: CLAP's text tower and temperatures.
    """

    config: BioVitaConfig
    tensors: Tensors
    processor: BioVitaProcessor
    n_left_out: int = 0


def is_release(folder: Path) -> bool:
    """Tell whether a folder has the layout of BioVITA's release."""
    return (folder / open_clip.CONFIG).is_file() and (folder / RELEASE_WEIGHTS).is_file()


def read_release(folder: Path, scratch: Path) -> Parts:
    """Read BioVITA's release: towers in open_clip's layout, and clap_weights.pth with CLAP and the adapter.

    The folder's config.json (CLAP's), if there is one, says the sizes of the audio tower; else they are the published.

    Args:
        folder: the release.
        scratch: where pickled weights become safetensors.

    Raises:
        ModelError: see the module.
    """
    clip = open_clip.read_open_clip(folder, scratch)
    path = folder / RELEASE_WEIGHTS
    theirs, n_left_out = _without_rest(read_tensors(path, scratch), "clap_audio.")
    config = _config(_audio_config(folder), clip.config, adapter=ADAPTER in theirs)
    expected = expected_of(config)
    moves = _audio_moves(expected, "clap_audio.")
    if TEMPERATURE in theirs:  # where we wrote the folder
        moves.append(Move(TEMPERATURE, (TEMPERATURE,)))
    tensors = bring(checked(path, theirs, send(expected, moves)), moves)
    return _whole(config, clip, tensors, RELEASED_TEMPERATURE, _clap_settings(folder), n_left_out)


def read_checkpoint(path: Path, scratch: Path, *, clip: Path, clap: Path | None = None) -> Parts:
    """Read a checkpoint of the released training code: one flat dictionary, also in `state_dict` or with `module.`.

    Args:
        path: epochNNN.pth or final.pth.
        scratch: where pickled weights become safetensors.
        clip: the folder whose towers the training started from; sizes and tokenizer come from it, weights do not.
        clap: CLAP's folder, for the sizes of the audio tower; None stands for the published ones.

    Raises:
        ModelError: see the module.
    """
    theirs = read_tensors(path, scratch)
    if any(name.startswith("state_dict.") for name in theirs):  # what stands beside it is the optimiser's
        theirs = {name.removeprefix("state_dict."): t for name, t in theirs.items() if name.startswith("state_dict.")}
    theirs = {name.removeprefix("module."): tensor for name, tensor in theirs.items()}
    theirs, n_left_out = _without_rest(theirs, "clap_audio.")
    clip_config, image_processor, tokenizer = open_clip.read_config(clip)
    config = _config(_audio_config(clap), clip_config, adapter=ADAPTER in theirs)
    expected = expected_of(config)
    moves = [
        *open_clip.moves_of(clip_config, theirs="oc_model.", ours="clip."),
        *_audio_moves(expected, "clap_audio."),
        Move(TEMPERATURE, (TEMPERATURE,)),
    ]
    tensors = bring(checked(path, theirs, send(expected, moves)), moves)
    return Parts(config, tensors, BioVitaProcessor(_clap_settings(clap), image_processor, tokenizer), n_left_out)


def read_start(clip: Path, clap: Path, scratch: Path, *, seed: int) -> Parts:
    """Put together what stage 1 starts from: published image and text towers, CLAP's audio tower, a new adapter.

    Args:
        clip: a folder in open_clip's layout; BioCLIP 2 in the paper.
        clap: a folder of transformers' ClapModel; laion/clap-htsat-unfused in the paper.
        scratch: where pickled weights become safetensors.
        seed: of the adapter; where CLAP's projection has the joint width already, there is none.

    Raises:
        ModelError: see the module.
    """
    towers = open_clip.read_open_clip(clip, scratch)
    path = first_of(clap, CLAP_WEIGHTS)
    theirs, n_left_out = _without_rest(read_tensors(path, scratch), "")
    audio = _audio_config(clap)
    config = _config(audio, towers.config, adapter=audio.projection_dim != towers.config.projection_dim)
    expected = expected_of(config)
    moves = [move for move in _audio_moves(expected, "") if move.theirs != ADAPTER]
    tensors = bring(checked(path, theirs, send(expected, moves)), moves)
    if ADAPTER in expected:
        noise = torch.randn(expected[ADAPTER].shape, generator=torch.Generator().manual_seed(seed))
        tensors[ADAPTER] = noise * audio.projection_dim**-0.5
    return _whole(config, towers, tensors, INITIAL_TEMPERATURE, _clap_settings(clap), n_left_out)


def write_open_clip(parts: Parts, folder: Path) -> None:
    """Write image and text towers in open_clip's layout; the audio tower has no place in it.

    Raises:
        ModelError: open_clip has no words for these towers.
    """
    save_file(_write_towers(parts, folder), folder / open_clip.WEIGHTS[0], metadata={"format": "pt"})


def write_release(parts: Parts, folder: Path, scratch: Path, *, clap: Path) -> None:
    """Write the layout of BioVITA's release, for the code that reads it.

    That code wants CLAP whole, with its text tower, which a BioVITA model does not have: it is copied from `clap`.
    Beside the two entries of the release stands the joint temperature, where that code does not look.

    Args:
        parts: the model.
        folder: the folder to write.
        scratch: where pickled weights become safetensors.
        clap: a folder of transformers' ClapModel.

    Raises:
        ModelError: the model has no adapter, or one of the folders does not fit.
    """
    if ADAPTER not in parts.tensors:
        raise ModelError(
            "this model projects sounds straight into the joint space; the release's layout has an adapter"
        )
    path = first_of(clap, CLAP_WEIGHTS)
    config = _read_clap_config(clap / "config.json")
    with torch.device("meta"):
        wanted = {name: t for name, t in ClapModel(config).state_dict().items() if name.startswith(CLAP_REST)}
    rest = {name: tensor for name, tensor in read_tensors(path, scratch).items() if name.startswith(CLAP_REST)}
    rest = checked(path, rest, wanted)
    audio: Any = parts.config.audio_config
    whole = ClapConfig(
        audio_config=audio.to_dict(),
        text_config=config.text_config.to_dict(),  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        projection_dim=audio.projection_dim,
    )
    write_pickle(_write_towers(parts, folder), folder / open_clip.WEIGHTS[1])
    clap_audio = {**rest, **{name: tensor for name, tensor in parts.tensors.items() if name.startswith(CLAP_OURS)}}
    content = {
        "clap_audio": clap_audio,
        "audio_adapter": {"weight": parts.tensors[ADAPTER]},
        TEMPERATURE: parts.tensors[TEMPERATURE],
    }
    write_pickle(content, folder / RELEASE_WEIGHTS)
    whole.save_pretrained(folder)
    parts.processor.feature_extractor.save_pretrained(folder)


def expected_of(config: BioVitaConfig) -> Tensors:
    """Return the state dictionary of a model of these sizes, with shapes and types but no numbers."""
    with torch.device("meta"):
        return BioVitaModel(config).state_dict()


def _audio_moves(expected: Iterable[str], clap: str) -> list[Move]:
    """List what is ours of CLAP, under the same names behind a prefix, and the adapter if the model has one."""
    moves = [Move(clap + name, (name,)) for name in expected if name.startswith(CLAP_OURS)]
    return moves + [Move(name, (name,)) for name in expected if name == ADAPTER]


def _without_rest(theirs: Tensors, prefix: str) -> tuple[Tensors, int]:
    """Leave out what of CLAP is not the audio tower, by exact prefix, and count it."""
    rest = tuple(prefix + name for name in CLAP_REST)
    kept = {name: tensor for name, tensor in theirs.items() if not name.startswith(rest)}
    return kept, len(theirs) - len(kept)


def _whole(
    config: BioVitaConfig,
    clip: Clip,
    audio: Tensors,
    temperature: float,
    settings: ClapFeatureExtractor,
    n_left_out: int,
) -> Parts:
    towers = {f"clip.{name}": tensor for name, tensor in clip.tensors.items()}
    tensors = {TEMPERATURE: torch.tensor(math.log(1 / temperature)), **audio, **towers}
    return Parts(config, tensors, BioVitaProcessor(settings, clip.image_processor, clip.tokenizer), n_left_out)


def _write_towers(parts: Parts, folder: Path) -> Tensors:
    """Write the towers' configuration and tokenizer, and return their tensors under open_clip's names."""
    config = parts.config.clip_config
    assert isinstance(config, CLIPConfig)
    open_clip.write_config(folder, config, parts.processor.image_processor, parts.processor.tokenizer)
    return send(parts.tensors, open_clip.moves_of(config, ours="clip."))


def _config(audio: ClapAudioConfig, clip: CLIPConfig, *, adapter: bool) -> BioVitaConfig:
    """Decide how sounds are projected: without an adapter only where the widths agree, as in the released code."""
    direct = not adapter and audio.projection_dim == clip.projection_dim
    return BioVitaConfig(audio_config=audio, clip_config=clip, audio_projection="direct" if direct else "adapter")


def _read_clap_config(path: Path) -> ClapConfig:
    table = read_object(path)
    if table.get("model_type") != ClapConfig.model_type:
        raise ModelError(f"{path}: model_type is {table.get('model_type')!r}, not '{ClapConfig.model_type}'")
    try:
        return ClapConfig(**table)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as CLAP's configuration: {error}") from error


def _audio_config(folder: Path | None) -> ClapAudioConfig:
    """Read the sizes of the audio tower; where no config.json says them, they are those of the published checkpoint."""
    if folder is None or not (folder / "config.json").is_file():
        paper = json.loads((package_files("biovita.models") / "sizes" / "paper.json").read_text())
        return ClapAudioConfig(**paper["audio_config"])
    audio = _read_clap_config(folder / "config.json").audio_config
    assert isinstance(audio, ClapAudioConfig)
    if audio.enable_fusion:
        raise ModelError(f"{folder / 'config.json'}: enable_fusion is true; BioVITA has CLAP's unfused audio tower")
    return audio


def _clap_settings(folder: Path | None) -> ClapFeatureExtractor:
    """Read the log-mel's settings; what a folder does not say is as published.

    A clip shorter than 10 s is filled with zeros, whatever CLAP's own folders say, because the release does so before
    CLAP sees it. Only `repeat`, which no published folder has, means what it says (docs/decisions/0007).
    """
    path = folder and folder / "preprocessor_config.json"
    if not path or not path.is_file():
        return clap_settings("pad")
    table = {key: value for key, value in read_object(path).items() if not key.endswith(("_type", "_class"))}
    settings = ClapFeatureExtractor(**table)
    settings.padding = "repeat" if settings.padding == "repeat" else "pad"
    frames = settings.nb_max_samples // settings.hop_length + 1
    if (frames, settings.sampling_rate) != (FRAMES, 48_000):
        raise ModelError(f"{path}: {frames} frames at {settings.sampling_rate} Hz; BioVITA has {FRAMES} at 48000 Hz")
    return settings
