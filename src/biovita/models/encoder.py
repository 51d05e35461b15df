"""A model with its processor: files, arrays and names in, unit vectors out."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL.Image import Image

from biovita.errors import MediaError
from biovita.media.audio import SAMPLE_RATE_HZ, audio_info, read_audio, resample
from biovita.media.image import read_image, to_rgb
from biovita.media.window import CLIP_S, fit, onset_s, windows
from biovita.models.mel import LogMel
from biovita.models.processor import BioVitaProcessor
from biovita.models.vita import BioVitaModel

Window = Literal["onset", "centre", "windows"]
Sound = Path | str | tuple[np.ndarray, int]
Picture = Path | str | Image
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Encoder:
    """What `biovita.load` returns.

    Attributes:
        model: the network, in evaluation mode.
        processor: settings and conversions of its folder.
        name: what it was loaded as.
        weights_sha256: of model.safetensors; stored beside every vector.
        folder: where it was loaded from.
    """

    model: BioVitaModel
    processor: BioVitaProcessor
    name: str
    weights_sha256: str = ""
    folder: Path | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed_audio(self, sounds: Sequence[Sound], *, window: Window = "onset", batch_size: int = 16) -> np.ndarray:
        """Embed recordings.

        Args:
            sounds: paths, or pairs (wave, sample_rate_hz) with a float wave of shape (n_samples,).
            window: which 10 s stand for the recording. `onset`: from 0.2 s before the first sample above 1 % of the
                peak; `centre`: the middle; `windows`: the mean over all windows, back to back, to the end.
            batch_size: clips a forward pass.

        Returns:
            float32, shape (n, 768), unit rows, in the order of `sounds`.

        Raises:
            MediaError: a file does not decode, or a sound has no samples or some that are not finite; it names the
                file. Nothing ever becomes zeros.

        Source:
            BioVITA's released extraction (onset rule, zero padding after the wave).
        """
        vectors, owner = [], []
        mel = LogMel(self.processor.feature_extractor)
        clips = prefetch(partial(self._mels, mel=mel, window=window), sounds)
        rows = ((n, row) for n, per_sound in enumerate(clips) for row in per_sound)
        for batch in in_batches(rows, batch_size):
            owner += [n for n, _ in batch]
            vectors.append(self._forward(self.model.audio_vectors, torch.stack([row for _, row in batch])))
        return _mean_by_owner(vectors, owner, len(sounds), self.model.config.width)

    def embed_image(self, pictures: Sequence[Picture], *, batch_size: int = 32) -> np.ndarray:
        """Embed pictures (paths or PIL images): float32, shape (n, 768), unit rows.

        Raises:
            MediaError: a file does not decode; it names the file.
        """
        squares = prefetch(self.square, pictures)
        vectors = [
            self._forward(self.model.image_vectors, self.processor.pixels(torch.from_numpy(np.stack(batch))))
            for batch in in_batches(squares, batch_size)
        ]
        return _stack(vectors, self.model.config.width)

    def embed_text(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        """Embed names or prompts: float32, shape (n, 768), unit rows. Sorted by length inside, so padding is small."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        vectors = [
            self._forward(self.model.text_vectors, *self.processor.tokens([texts[n] for n in batch]).values())
            for batch in in_batches(order, batch_size)
        ]
        found = np.empty((len(texts), self.model.config.width), np.float32)
        found[order] = _stack(vectors, self.model.config.width)
        return found

    def square(self, picture: Picture) -> np.ndarray:
        """Read a picture and crop it to the model's square: uint8, shape (side, side, 3)."""
        return self.processor.square(to_rgb(picture) if isinstance(picture, Image) else read_image(Path(picture)))

    def _mels(self, sound: Sound, *, mel: LogMel, window: Window) -> torch.Tensor:
        n_samples = self.processor.n_samples
        fill = _repeat if self.processor.repeats else fit
        clips = [clip for clip in clips_of(sound, window=window) if len(clip)]  # an MP3's stated length may be too long
        if not clips or not all(np.isfinite(clip).all() for clip in clips):
            name = "a wave" if isinstance(sound, tuple) else str(sound)
            raise MediaError("non_finite" if clips else "no_samples", name)
        return torch.cat([mel(torch.from_numpy(fill(clip, n_samples)[None])) for clip in clips])

    @torch.inference_mode()
    def _forward(self, tower: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> np.ndarray:
        return tower(*(tensor.to(self.device) for tensor in tensors)).float().cpu().numpy()


def clips_of(sound: Sound, *, window: Window) -> list[np.ndarray]:
    """Cut a recording into the clips that stand for it: float32 waves of at most 10 s."""
    if isinstance(sound, tuple):
        wave = resample(np.asarray(sound[0], np.float32), sound[1])
        length_s, read = len(wave) / SAMPLE_RATE_HZ, partial(_slice, wave)
    else:
        path = Path(sound)
        length_s, read = audio_info(path).duration_s, partial(read_audio, path)
    if window == "windows":
        spans = windows(length_s, hop_s=CLIP_S)
        return [read(start_s=start_s, duration_s=end_s - start_s) for start_s, end_s in spans]
    if window == "centre":
        return [read(start_s=max(0.0, (length_s - CLIP_S) / 2), duration_s=CLIP_S)]
    wave = read()
    start = round(onset_s(wave) * SAMPLE_RATE_HZ)
    return [wave[start : start + round(CLIP_S * SAMPLE_RATE_HZ)]]


def _slice(wave: np.ndarray, start_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    start = round(start_s * SAMPLE_RATE_HZ)
    return wave[start:] if duration_s is None else wave[start : start + round(duration_s * SAMPLE_RATE_HZ)]


def _repeat(wave: np.ndarray, n_samples: int) -> np.ndarray:
    """Fill a clip by saying it again."""
    return np.resize(wave, n_samples)


def prefetch(work: Callable[[T], R], things: Iterable[T], *, n_threads: int | None = None) -> Iterator[R]:
    """Do `work` ahead in threads (decoders release the interpreter), in order, a few things at a time."""
    n_threads = n_threads or os.cpu_count() or 1
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for thing in things:
                waiting.append(pool.submit(work, thing))
                if len(waiting) > 4 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` things, the last one shorter."""
    batch: list[T] = []
    for thing in things:
        batch.append(thing)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _stack(vectors: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate(vectors) if vectors else np.empty((0, width), np.float32)


def _mean_by_owner(vectors: list[np.ndarray], owner: list[int], n: int, width: int) -> np.ndarray:
    """Average the clips of each recording and bring the mean back to unit length."""
    total = np.zeros((n, width), np.float32)
    np.add.at(total, owner, _stack(vectors, width))
    return total / np.linalg.norm(total, axis=1, keepdims=True)
