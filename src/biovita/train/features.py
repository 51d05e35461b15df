"""Decoded once, read many times: whole-recording log-mels and picture squares, memory-mapped beside the dataset.

Decoding and the mel spectrogram cost several times what a small network costs, and every epoch and stage needs the same
ones. A recording's log-mel is kept whole (float16), so any 10 s window is a slice; only the frame at a cut differs from
a mel of the cut wave, by the reflection at its edge.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import polars as pl
import torch

from biovita.errors import TrainError
from biovita.files import MANIFEST, sha256_json, write_manifest
from biovita.log import Progress, say
from biovita.media.audio import read_audio
from biovita.media.held import Held
from biovita.media.image import read_image
from biovita.models.encoder import Encoder, in_batches, prefetch
from biovita.models.mel import POWER_FLOOR, LogMel
from biovita.models.vita import FRAMES
from biovita.taxonomy.rank import RANKS

SILENCE_DB = float(10 * np.log10(POWER_FLOOR))
BLOCK = 512  # files that are decoded between two marks from which a later call can go on
FORM = 2  # of what is kept; another form is another folder


class Files(Protocol):
    """What is asked of a `Dataset`, or of `Shards`."""

    @property
    def folder(self) -> Path: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def media(self) -> pl.DataFrame: ...
    @property
    def taxa(self) -> pl.DataFrame: ...

    def path(self, relative: str, /) -> Path | Held:
        """Give what the readers take of a file that `media.path` names."""
        ...


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
        """Cut a window of 1,001 frames out of a recording: float32, shape (1001, 64); see `window_of`."""
        return window_of(self.mels[self.starts[row] : self.starts[row + 1]], shift, repeats=self.repeats)

    def square(self, row: int) -> np.ndarray:
        """Return a picture as the model's square: uint8, shape (side, side, 3), read-only."""
        return self.squares[row]

    def n_frames(self, row: int) -> int:
        """Return the length of a recording in frames of 10 ms."""
        return int(self.starts[row + 1] - self.starts[row])

    def rows(self, modality: str, split: str) -> pl.DataFrame:
        """Media of one modality and split."""
        return rows_of(self.media, modality, split)


def window_of(frames: np.ndarray, shift: float, *, repeats: bool) -> np.ndarray:
    """Bring a log-mel to 1,001 frames: float32, shape (1001, 64).

    Args:
        frames: log-mel of a recording, shape (n_frames, 64).
        shift: in [0, 1); where the window starts. In a longer recording it is the place of the cut, in a shorter one
            the share of the missing time that comes before the sound.
        repeats: whether the rest of the window is the sound again, or silence.
    """
    spare = len(frames) - FRAMES
    if spare >= 0:
        cut = round(shift * spare)
        return frames[cut : cut + FRAMES].astype(np.float32)
    before = round(shift * -spare)
    if repeats:
        return frames[(np.arange(FRAMES) - before) % len(frames)].astype(np.float32)
    window = np.full((FRAMES, frames.shape[1]), SILENCE_DB, np.float32)
    window[before : before + len(frames)] = frames
    return window


def rows_of(media: pl.DataFrame, modality: str, split: str) -> pl.DataFrame:
    """Media of one modality and split."""
    return media.filter((pl.col("modality") == modality) & (pl.col("split") == split))


def prepare(files: Files, encoder: Encoder, *, splits: Sequence[str] = ("train", "val")) -> Features:
    """Decode the media of some splits once, and keep them in `DATASET/.features/` under the hash of what made them.

    Files are decoded one after the other into two long files, so memory does not grow with their number. A call that
    was stopped is gone on with; of several at the same time one decodes, and the others wait for it.

    Raises:
        TrainError: the splits hold no media, or the disk has no room for what becomes of them.
        MediaError: a file of the dataset does not decode any more.
    """
    media, species = labelled(files, splits)
    key = sha256_json([FORM, files.manifest["sha256"], encoder.processor.media_fingerprint(), sorted(splits)])[:16]
    folder = files.folder / ".features" / key
    n_bands = encoder.processor.feature_extractor.feature_size
    side = encoder.processor.image_processor.crop_size["height"]
    mels = _Store(folder / "mels", np.dtype(np.float16), (n_bands,))
    squares = _Store(folder / "squares", np.dtype(np.uint8), (side, 3))
    if not (folder / MANIFEST).is_file():
        with _alone(folder):
            if not (folder / MANIFEST).is_file():
                _decode(files, media, encoder, mels, squares)
                write_manifest(folder, [], key=key)
    return Features(
        media=media,
        species=species,
        lineage=lineage_of(files.taxa, species),
        mels=mels.rows(),
        starts=np.concatenate([[0], np.cumsum(mels.lengths())]),
        squares=squares.rows().reshape(-1, side, side, 3),
        repeats=encoder.processor.repeats,
    )


def labelled(files: Files, splits: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Take the media of some splits, number them and their species; and name the species.

    Raises:
        TrainError: the splits hold no media.
    """
    media = files.media.filter(pl.col("split").is_in(list(splits))).sort("modality", "media_id")
    if media.is_empty():
        raise TrainError(f"{files.folder}: no media in the splits {', '.join(splits)}; there is nothing to train on")
    species = sorted(media["species"].unique())
    labels = pl.col("species").replace_strict(species, range(len(species)), return_dtype=pl.Int64)
    return media.with_columns(label=labels, row=pl.int_range(pl.len()).over("modality")), species


def lineage_of(taxa: pl.DataFrame, species: list[str]) -> np.ndarray:
    """Number the taxa of each rank, shape (n_species, ranks); a rank that a species lacks is shared with none."""
    rows = pl.DataFrame({"species": species}).join(taxa, on="species", how="left", maintain_order="left")
    alone = -1 - pl.int_range(pl.len())
    return rows.select(
        pl.when(pl.col(rank) != "").then(rank).rank("dense").cast(pl.Int64).fill_null(alone) for rank in reversed(RANKS)
    ).to_numpy()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process fills the folder; its lock ends with it, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: another process decodes the media; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class _Store:
    """Arrays of equal rows, one after the other in a file, and the number of rows of each in another.

    A number is written only when its array is safe on the disk; so whoever was stopped in the middle goes on after the
    last number.
    """

    path: Path
    dtype: np.dtype
    row: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.row))

    @property
    def _arrays(self) -> Path:
        return self.path.with_suffix(".bin")

    @property
    def _lengths(self) -> Path:
        return self.path.with_suffix(".lengths")

    def lengths(self) -> np.ndarray:
        """Return the number of rows of each array that is safe; none, if the disk lost one."""
        if not (self._lengths.is_file() and self._arrays.is_file()):
            return np.empty(0, np.int64)
        lengths = np.fromfile(self._lengths, np.int64, self._lengths.stat().st_size // 8)
        return lengths if lengths.sum() * self.row_bytes <= self._arrays.stat().st_size else lengths[:0]

    def rows(self) -> np.ndarray:
        """Map all rows into memory, shape (n_rows, *row), read-only."""
        if not self._arrays.stat().st_size:
            return np.empty((0, *self.row), self.dtype)
        return np.asarray(np.memmap(self._arrays, self.dtype, "r")).reshape(-1, *self.row)

    def fill(self, work: Callable[[str], np.ndarray], paths: Sequence[str], bar: Progress) -> None:
        """Append what becomes of each path, from the first on whose array is not there."""
        lengths = self.lengths()
        with self._arrays.open("ab") as arrays, self._lengths.open("ab") as numbers, bar:
            arrays.truncate(int(lengths.sum()) * self.row_bytes)
            numbers.truncate(lengths.nbytes)
            bar.advance(len(lengths))
            for block in in_batches(paths[len(lengths) :], BLOCK):
                new = []
                for array in prefetch(work, block):
                    arrays.write(array.tobytes())
                    new.append(len(array))
                    bar.advance()
                _sync(arrays)
                numbers.write(np.array(new, np.int64).tobytes())
                _sync(numbers)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _decode(files: Files, media: pl.DataFrame, encoder: Encoder, mels: _Store, squares: _Store) -> None:
    audio, image = (media.filter(pl.col("modality") == name) for name in ("audio", "image"))
    settings = encoder.processor.feature_extractor
    n_frames = audio["duration_s"].sum() * settings.sampling_rate / settings.hop_length
    needed = n_frames * mels.row_bytes + len(image) * squares.row[0] * squares.row_bytes
    needed -= mels.lengths().sum() * mels.row_bytes + squares.lengths().sum() * squares.row_bytes
    if needed > (free := shutil.disk_usage(files.folder).free):
        raise TrainError(
            f"{files.folder}: decoded, its media take {needed / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB are free; "
            "make room, or decode at every draw (--media fresh)"
        )
    mel = LogMel(settings)

    def whole_mel(path: str) -> np.ndarray:
        return mel(torch.from_numpy(read_audio(files.path(path)))[None])[0].numpy().astype(np.float16)

    def square(path: str) -> np.ndarray:
        return encoder.processor.square(read_image(files.path(path)))

    mels.fill(whole_mel, audio["path"].to_list(), Progress("decode recordings", len(audio), "recordings"))
    squares.fill(square, image["path"].to_list(), Progress("decode pictures", len(image), "pictures"))
