"""Other people's models behind the same protocol, so that the benchmark can score them: CLAP, CLIP, MTEB's wrappers.

A peer of two towers hears, sees and reads through our own windows, batches and settings; only the network is its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    RobertaTokenizer,
)
from transformers.initialization import no_init_weights
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from biovita.errors import MediaError, ModelError
from biovita.files import sha256_file, sha256_json
from biovita.media.audio import SAMPLE_RATE_HZ, read_audio, resample
from biovita.media.image import read_image, to_rgb
from biovita.media.window import CLIP_S
from biovita.models.encoder import Embedded, Encoder, Item, Modality, Picture, Pool, Sound, Window, listed, name_of
from biovita.models.moves import Tensors, checked, read_tensors
from biovita.models.open_clip import CONFIG as OPEN_CLIP
from biovita.models.open_clip import first_of, read_object, read_open_clip
from biovita.models.processor import BioVitaProcessor, clap_settings, clip_settings

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there
BICUBIC = 3
MTEB_BATCH = 32


def open_peer(folder: Path, *, device: str | None = None) -> "Peer":
    """Open a folder that holds a published model of two towers.

    Args:
        folder: transformers' CLAP (sound and text) or CLIP (picture and text), or picture and text in open_clip's
            layout, as BioCLIP and BioCLIP 2 are published.
        device: `cpu`, `cuda`, …; by default a GPU where there is one.

    Raises:
        ModelError: it is none of these, or a file or tensor is missing, unexpected, misshapen or not finite.
    """
    folder = Path(folder)
    if (folder / OPEN_CLIP).is_file():
        clip = read_open_clip(folder)
        network, weights = _network(CLIPModel, clip.config, clip.tensors, clip.weights), clip.weights
        processor = BioVitaProcessor(clap_settings("pad"), clip.image_processor, clip.tokenizer)
    else:
        table = read_object(folder / "config.json")
        kind = table.get("model_type")
        weights = first_of(folder, WEIGHTS)
        if kind == "clap":
            config = ClapConfig(**table)
            network = _network(ClapModel, config, read_tensors(weights), weights)
            tokenizer = _tokenizer(RobertaTokenizer, folder, config.text_config)
            processor = BioVitaProcessor(_clap_settings(folder, config), clip_settings(224), tokenizer)
        elif kind == "clip":
            config = CLIPConfig(**table)
            network = _network(CLIPModel, config, read_tensors(weights), weights)
            tokenizer = _tokenizer(CLIPTokenizer, folder, config.text_config)
            processor = BioVitaProcessor(clap_settings("pad"), _clip_settings(folder), tokenizer)
        else:
            raise ModelError(
                f"{folder / 'config.json'}: model_type is {kind!r}; "
                "a model folder is BioVITA's, CLAP's, CLIP's or in open_clip's layout"
            )
    towers = Towers(network).eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Peer(
        model=towers,  # pyright: ignore[reportArgumentType]: it has what Encoder uses of a model
        processor=processor,
        name=folder.resolve().name,
        weights_sha256=sha256_file(weights),
        folder=folder,
    )


class Towers(nn.Module):
    """A network of transformers with the methods of BioVitaModel, as far as it has the towers."""

    def __init__(self, network: ClapModel | CLIPModel) -> None:
        super().__init__()
        self.network: Any = network
        self.config = SimpleNamespace(width=network.config.projection_dim)
        self.modalities: tuple[Modality, ...] = ("audio" if isinstance(network, ClapModel) else "image", "text")

    @property
    def device(self) -> torch.device:
        return self.network.device

    def audio_vectors(self, log_mel: torch.Tensor) -> torch.Tensor:
        return _unit(self.network.get_audio_features(input_features=log_mel[:, None]))

    def image_vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        return _unit(self.network.get_image_features(pixel_values=pixels))

    def text_vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return _unit(self.network.get_text_features(input_ids=input_ids, attention_mask=attention_mask))


@dataclass(frozen=True)
class Peer(Encoder):
    """An Encoder of two modalities; the third is a ModelError."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        towers: Any = self.model
        return towers.modalities

    def stream(self, items: Iterable[Item], **how: Any) -> Iterator[list[Embedded | MediaError]]:
        """Embed as Encoder does.

        Raises:
            ModelError: an item of a modality that the model does not have.
        """
        return super().stream((_refuse_other(self, item) for item in items), **how)


@dataclass(frozen=True)
class MtebPeer:
    """A model of the MTEB package, which cuts, resizes and reads by its own rules.

    Attributes:
        wrapper: what `mteb.get_model(name)` returns.
        task: MTEB's metadata of the task, for wrappers that choose a prompt by it.
    """

    wrapper: Any
    task: Any = None

    @property
    def name(self) -> str:
        return str(self.wrapper.mteb_model_meta.name)

    @property
    def weights_sha256(self) -> str:
        """A hash of name and revision, since the weights stay where the wrapper put them."""
        return sha256_json([self.name, self.wrapper.mteb_model_meta.revision])

    @property
    def modalities(self) -> tuple[Modality, ...]:
        known: tuple[Modality, ...] = ("audio", "image", "text")
        return tuple(modality for modality in known if modality in self.wrapper.mteb_model_meta.modalities)

    def fingerprint(self, window: Window) -> str:
        """Say that the rules are the wrapper's."""
        return f"mteb-{self.weights_sha256[:16]}-{window}"

    def embed_audio(
        self, sounds: Sequence[Sound], *, window: Window = "onset", pool: Pool = "mean", batch_size: int | None = None
    ) -> np.ndarray:
        """Hand whole recordings over, mono at 48 kHz; which seconds count is the wrapper's own rule.

        Raises:
            MediaError: a file does not decode.
            ModelError: the model does not hear, or `window` asks for other seconds than the wrapper's.
        """
        if window != "onset":
            raise ModelError(
                f"{self.name}: an MTEB model chooses its seconds itself; take window 'onset', not '{window}'"
            )
        return self._encode("audio", sounds, batch_size)

    def embed_image(self, pictures: Sequence[Picture], *, batch_size: int | None = None) -> np.ndarray:
        """Hand pictures over, upright and RGB."""
        return self._encode("image", pictures, batch_size)

    def embed_text(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Hand texts over as they are."""
        return self._encode("text", texts, batch_size)

    def _encode(self, modality: Modality, things: Sequence[Any], batch_size: int | None) -> np.ndarray:
        if modality not in self.modalities:
            _refuse(self.name, modality, self.modalities)
        things = listed(modality, things)
        rows = DataLoader(_Rows(modality, things), batch_size=batch_size or MTEB_BATCH, collate_fn=_columns)
        where = {"hf_split": "test", "hf_subset": "default"}
        found = self.wrapper.encode(rows, task_metadata=self.task, **where, show_progress_bar=False)
        vectors = torch.as_tensor(found).detach().float().cpu()
        if len(vectors) != len(things) or not torch.isfinite(vectors).all():
            raise ModelError(
                f"{self.name}: gave {len(vectors)} vectors for {len(things)} items, or some are not finite"
            )
        return functional.normalize(vectors, dim=-1).numpy()


class _Rows(Dataset[dict[str, Any]]):
    """Things of one modality as the rows that MTEB's wrappers read; media are decoded when it is their turn.

    Attributes:
        features: the names of the columns, by which a wrapper knows the modality.
    """

    def __init__(self, modality: Modality, things: Sequence[Any]) -> None:
        self.modality: Modality = modality
        self.things = things
        self.features = {modality: None}

    def __len__(self) -> int:
        return len(self.things)

    def __getitem__(self, n: int) -> dict[str, Any]:
        thing = self.things[n]
        if self.modality == "image":
            thing = read_image(Path(thing)) if isinstance(thing, (str, Path)) else to_rgb(thing)
        elif self.modality == "audio":
            wave = (
                resample(np.asarray(thing[0], np.float32), thing[1]) if isinstance(thing, tuple) else read_audio(thing)
            )
            if not len(wave) or not np.isfinite(wave).all():
                raise MediaError("non_finite" if len(wave) else "no_samples", name_of(thing))
            thing = {"array": wave, "sampling_rate": SAMPLE_RATE_HZ}
        return {self.modality: thing}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _refuse_other(peer: Peer, item: Item) -> Item:
    if not isinstance(item, MediaError) and item[0] not in peer.modalities:
        _refuse(peer.name, item[0], peer.modalities)
    return item


def _refuse(name: str, modality: Modality, modalities: tuple[Modality, ...]) -> NoReturn:
    raise ModelError(f"{name}: has no {modality} tower, only {' and '.join(modalities)}")


def _unit(output: Any) -> torch.Tensor:
    return functional.normalize(output.pooler_output.float(), dim=-1)


def _network(kind: Any, config: Any, tensors: Tensors, path: Path) -> Any:
    """Build a network around published weights; whole numbers, such as positions, follow from the sizes."""
    with no_init_weights():
        network = kind(config)
    wanted, weights = (
        {name: tensor for name, tensor in table.items() if tensor.is_floating_point()}
        for table in (network.state_dict(), tensors)
    )
    network.load_state_dict(checked(path, weights, wanted), strict=False)
    return network


def _tokenizer(kind: Any, folder: Path, text: Any) -> Any:
    """Read a tokenizer that gives the text tower no word and no position that it does not have."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"{folder}: lacks tokenizer.json or vocab.json")
    try:
        tokenizer = kind.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be read: {error}") from error
    if len(tokenizer) > text.vocab_size:
        raise ModelError(f"{folder}: its tokenizer has {len(tokenizer):,} words, the text tower {text.vocab_size:,}")
    tokenizer.model_max_length = min(tokenizer.model_max_length, text.max_position_embeddings)
    return tokenizer


def _settings(kind: Any, folder: Path) -> Any:
    path = folder / "preprocessor_config.json"
    table = {key: value for key, value in read_object(path).items() if not key.endswith(("_type", "_class"))}
    try:
        return kind(**table)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _clap_settings(folder: Path, config: ClapConfig) -> ClapFeatureExtractor:
    """Read the log-mel's settings and what fills a short clip, which are CLAP's own."""
    settings: ClapFeatureExtractor = _settings(ClapFeatureExtractor, folder)
    audio: Any = config.audio_config
    if audio.enable_fusion:
        raise ModelError(f"{folder / 'config.json'}: enable_fusion is true; only the unfused CLAP can be read")
    n_samples = round(CLIP_S * SAMPLE_RATE_HZ)
    if (settings.sampling_rate, settings.nb_max_samples) != (SAMPLE_RATE_HZ, n_samples):
        raise ModelError(
            f"{folder / 'preprocessor_config.json'}: {settings.nb_max_samples} samples at {settings.sampling_rate} Hz; "
            f"sounds are read as {n_samples} at {SAMPLE_RATE_HZ}"
        )
    return settings


def _clip_settings(folder: Path) -> CLIPImageProcessorPil:
    """Read the picture settings, which must be CLIP's: shorter side to the square, bicubic, centre."""
    settings = _settings(CLIPImageProcessorPil, folder)
    side_px = settings.crop_size["height"]
    plain = settings.do_resize and settings.do_center_crop and settings.do_normalize and settings.resample == BICUBIC
    if not plain or settings.size.get("shortest_edge") != side_px or settings.crop_size["width"] != side_px:
        raise ModelError(
            f"{folder / 'preprocessor_config.json'}: pictures are not resized (bicubic) and cut to one square; "
            "only CLIP's own preparation can be read"
        )
    return settings
