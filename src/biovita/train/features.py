"""Decoded once, read many times: whole-recording log-mels and picture squares, memory-mapped beside the dataset.

Decoding and the mel spectrogram cost several times what a small network costs, and every epoch and stage needs the same
ones. A recording's log-mel is kept whole (float16), so any 10 s window is a slice; only the frame at a cut differs from
a mel of the cut wave, by the reflection at its edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from biovita.data.dataset import Dataset
from biovita.errors import TrainError
from biovita.files import MANIFEST, atomic_path, read_json, sha256_json, write_manifest
from biovita.log import Progress
from biovita.media.audio import read_audio
from biovita.models.encoder import Encoder, prefetch
from biovita.models.mel import POWER_FLOOR, LogMel
from biovita.models.vita import FRAMES
from biovita.taxonomy.rank import RANKS

SILENCE_DB = float(10 * np.log10(POWER_FLOOR))


@dataclass(frozen=True)
class Features:
    """The usable media of some splits, ready for the towers.

    Attributes:
        media: rows of media.parquet, with `label` (index of the species in `species`) and `row` (index into the
            arrays of its modality).
        species: names of the species, sorted.
        lineage: codes of each species' own rank, genus, family, ..., shape (n_species, ranks).
        mels: log-mel frames of all recordings, float16, shape (n_frames, n_bands), one after the other.
        starts: first frame of each recording, and the end of the last.
        squares: pictures, uint8, shape (n_pictures, side, side, 3).
        repeats: whether the rest of a short window is the sound again, or silence.
    """

    media: pl.DataFrame
    species: list[str]
    lineage: np.ndarray
    mels: np.ndarray
    starts: np.ndarray
    squares: np.ndarray
    repeats: bool

    def mel(self, row: int, shift: float) -> np.ndarray:
        """Cut a window of 1,001 frames out of a recording: float32, shape (1001, 64).

        Args:
            row: the recording's `row`.
            shift: in [0, 1); where the window starts. In a longer recording it is the place of the cut, in a shorter
                one the share of the missing time that comes before the sound.
        """
        whole = self.mels[self.starts[row] : self.starts[row + 1]]
        spare = len(whole) - FRAMES
        if spare >= 0:
            cut = round(shift * spare)
            return whole[cut : cut + FRAMES].astype(np.float32)
        before = round(shift * -spare)
        if self.repeats:
            return whole[(np.arange(FRAMES) - before) % len(whole)].astype(np.float32)
        window = np.full((FRAMES, whole.shape[1]), SILENCE_DB, np.float32)
        window[before : before + len(whole)] = whole
        return window

    def rows(self, modality: str, split: str) -> pl.DataFrame:
        """Media of one modality and split."""
        return self.media.filter((pl.col("modality") == modality) & (pl.col("split") == split))


def prepare(dataset: Dataset, encoder: Encoder, *, splits: Sequence[str] = ("train", "val")) -> Features:
    """Decode the media of some splits once, and keep them in `DATASET/.features/` under the hash of what made them.

    Raises:
        TrainError: the splits hold no media.
        MediaError: a file of the dataset does not decode any more.
    """
    media = dataset.media.filter(pl.col("split").is_in(list(splits))).sort("modality", "media_id")
    if media.is_empty():
        raise TrainError(f"{dataset.folder}: no media in the splits {', '.join(splits)}; there is nothing to train on")
    species = sorted(media["species"].unique())
    media = media.with_columns(
        label=pl.col("species").replace_strict(species, range(len(species)), return_dtype=pl.Int64),
        row=pl.int_range(pl.len()).over("modality"),
    )
    key = sha256_json([dataset.manifest["sha256"], encoder.processor.media_fingerprint(), sorted(splits)])[:16]
    folder = dataset.folder / ".features" / key
    if not (folder / MANIFEST).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _decode_audio(dataset, media.filter(pl.col("modality") == "audio"), encoder, folder)
        _decode_images(dataset, media.filter(pl.col("modality") == "image"), encoder, folder)
        write_manifest(folder, [], key=key, n_bands=encoder.processor.feature_extractor.feature_size)
    n_bands = read_json(folder / MANIFEST)["n_bands"]
    mels = np.load(folder / "mels.npy", mmap_mode="r")
    return Features(
        media=media,
        species=species,
        lineage=_lineage(dataset.taxa, species),
        mels=mels.reshape(-1, n_bands),
        starts=np.load(folder / "starts.npy"),
        squares=np.load(folder / "squares.npy", mmap_mode="r"),
        repeats=encoder.processor.repeats,
    )


def _lineage(taxa: pl.DataFrame, species: list[str]) -> np.ndarray:
    """Number the taxa of each rank; a rank that a species lacks is shared with none."""
    rows = pl.DataFrame({"species": species}).join(taxa, on="species", how="left", maintain_order="left")
    alone = -1 - pl.int_range(pl.len())
    return rows.select(
        pl.col(rank).rank("dense").cast(pl.Int64).fill_null(alone) for rank in reversed(RANKS)
    ).to_numpy()


def _decode_audio(dataset: Dataset, rows: pl.DataFrame, encoder: Encoder, folder: Path) -> None:
    mel = LogMel(encoder.processor.feature_extractor)
    starts, parts = [0], []
    with Progress("decode recordings", len(rows), "recordings") as bar:
        for whole in prefetch(partial(_whole_mel, mel=mel), [dataset.path(path) for path in rows["path"]]):
            parts.append(whole)
            starts.append(starts[-1] + len(whole))
            bar.advance()
    empty = np.empty((0, encoder.processor.feature_extractor.feature_size), np.float16)
    _save(folder / "mels.npy", np.concatenate([empty, *parts]))
    _save(folder / "starts.npy", np.array(starts))


def _whole_mel(path: Path, *, mel: LogMel) -> np.ndarray:
    return mel(torch.from_numpy(read_audio(path))[None])[0].numpy().astype(np.float16)


def _decode_images(dataset: Dataset, rows: pl.DataFrame, encoder: Encoder, folder: Path) -> None:
    side = encoder.processor.image_processor.crop_size["height"]
    squares = np.empty((len(rows), side, side, 3), np.uint8)
    with Progress("decode pictures", len(rows), "pictures") as bar:
        for n, square in enumerate(prefetch(encoder.square, [dataset.path(path) for path in rows["path"]])):
            squares[n] = square
            bar.advance()
    _save(folder / "squares.npy", squares)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, array)
