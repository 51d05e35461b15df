"""Where the sounds and pictures of a stage come from: kept decoded, or decoded at every draw."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch

from biovita.data.dataset import Dataset
from biovita.data.shards import Shards
from biovita.errors import MediaError
from biovita.files import read_manifest
from biovita.media.audio import SAMPLE_RATE_HZ, read_audio
from biovita.media.held import Held
from biovita.media.image import read_image
from biovita.media.window import CLIP_S
from biovita.models.encoder import Encoder
from biovita.models.mel import LogMel
from biovita.models.vita import FRAMES
from biovita.train.features import Files, labelled, lineage_of, prepare, rows_of, window_of
from biovita.train.smoke import few as few_of


class Source(Protocol):
    """The media of some splits, ready for the towers.

    Attributes:
        media: their rows, with `label` (index of the species in `species`) and `row` (counted in each modality).
        species: names of the species, sorted.
        lineage: codes of each species' own rank, genus, family, ..., shape (n_species, ranks).
    """

    @property
    def media(self) -> pl.DataFrame: ...
    @property
    def species(self) -> list[str]: ...
    @property
    def lineage(self) -> np.ndarray: ...

    def rows(self, modality: str, split: str) -> pl.DataFrame:
        """Media of one modality and split."""
        ...

    def mel(self, row: int, shift: float) -> np.ndarray:
        """Give the window of a recording that begins at a share of its spare time: float32, shape (1001, 64).

        Raises:
            MediaError: it does not decode any more.
        """
        ...

    def square(self, row: int) -> np.ndarray:
        """Give a picture as the model's square: uint8, shape (side, side, 3).

        Raises:
            MediaError: it does not decode any more.
        """
        ...

    def n_frames(self, row: int) -> int:
        """Return the length of a recording in frames of 10 ms."""
        ...


@dataclass(frozen=True)
class Data:
    """A dataset folder, or a folder of its shards, opened for training.

    Attributes:
        folder: of either.
        manifest: of the folder.
        media: one row a usable file.
        taxa: one row a species.
        path: gives the readers what `media.path` names.
    """

    folder: Path
    manifest: dict[str, Any]
    media: pl.DataFrame
    taxa: pl.DataFrame
    path: Callable[[str], Path | Held]

    @property
    def sha256(self) -> dict[str, str]:
        """Hashes of the files that say what the data are; those of shards follow from their index."""
        return {name: digest for name, digest in self.manifest["sha256"].items() if not name.endswith(".tar")}

    @property
    def made_up(self) -> bool:
        return bool(self.manifest.get("made_up"))


def open_data(folder: Path) -> Data:
    """Open a dataset folder, or a folder of its shards, by its manifest.

    Raises:
        DatasetError: it is neither, or unfinished, or its shards have no index.
    """
    is_shards = read_manifest(folder).get("kind") == "shards"
    found = Shards.open(folder) if is_shards else Dataset.open(folder)
    return Data(found.folder, found.manifest, found.media, found.taxa, found.path)


def open_source(data: Data, encoder: Encoder, *, kept: bool, few: bool = False) -> Source:
    """Open the train and val split.

    Args:
        data: what `open_data` opened.
        encoder: whose processor says what media become.
        kept: decode all media first, and keep them beside the data; otherwise decode at every draw.
        few: only a few files of a few species, which are never kept.
    """
    if few:
        return Originals(replace(data, media=few_of(data.media)), encoder)
    return prepare(data, encoder) if kept else Originals(data, encoder)


class Originals:
    """Media that are decoded at every draw: no time before the first step, no space, any number of them.

    A window has the mel of its own wave, so its first and last frames differ from those of `Features`, which reflect
    nothing there.

    Attributes:
        media, species, lineage: as of a `Source`.
    """

    def __init__(self, files: Files, encoder: Encoder, *, splits: Sequence[str] = ("train", "val")) -> None:
        self.media, self.species = labelled(files, splits)
        self.lineage = lineage_of(files.taxa, self.species)
        self._files, self._processor = files, encoder.processor
        self._mel = LogMel(encoder.processor.feature_extractor)
        self._hop: int = encoder.processor.feature_extractor.hop_length
        # Arrow and numpy, which a forked worker can read; polars has threads that a fork leaves behind.
        audio, image = (self.media.filter(pl.col("modality") == name).sort("row") for name in ("audio", "image"))
        self._names = {"audio": audio["media_id"].to_arrow(), "image": image["media_id"].to_arrow()}
        self._paths = {"audio": audio["path"].to_arrow(), "image": image["path"].to_arrow()}
        self._n_frames = 1 + np.rint(audio["duration_s"].to_numpy() * SAMPLE_RATE_HZ).astype(np.int64) // self._hop

    def rows(self, modality: str, split: str) -> pl.DataFrame:
        """Media of one modality and split."""
        return rows_of(self.media, modality, split)

    def n_frames(self, row: int) -> int:
        """Return the length of a recording in frames of 10 ms."""
        return int(self._n_frames[row])

    def mel(self, row: int, shift: float) -> np.ndarray:
        """Decode one window of a recording: float32, shape (1001, 64); it lies where that of `Features` does.

        Raises:
            MediaError: the recording is missing, was changed, does not decode, or is shorter than the table says.
        """
        cut = round(shift * max(0, self.n_frames(row) - FRAMES))
        with self._named("audio", row):
            wave = read_audio(self._file("audio", row), start_s=cut * self._hop / SAMPLE_RATE_HZ, duration_s=CLIP_S)
            if len(wave) <= self._mel.n_fft // 2:
                raise MediaError("truncated", f"{len(wave)} samples from frame {cut:,} on")
        with one_thread():
            frames = self._mel(torch.from_numpy(wave)[None])[0].numpy()
        return window_of(frames, shift, repeats=self._processor.repeats)

    def square(self, row: int) -> np.ndarray:
        """Decode a picture: uint8, shape (side, side, 3).

        Raises:
            MediaError: the picture is missing, was changed, or does not decode.
        """
        with self._named("image", row):
            return self._processor.square(read_image(self._file("image", row)))

    def _file(self, modality: str, row: int) -> Path | Held:
        return self._files.path(self._paths[modality][row].as_py())

    @contextmanager
    def _named(self, modality: str, row: int) -> Iterator[None]:
        try:
            yield
        except MediaError as error:
            raise MediaError(error.reason, f"{self._names[modality][row]}: {error.detail}") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: a transform is too small to share, and its last digits may depend on who shares it."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
