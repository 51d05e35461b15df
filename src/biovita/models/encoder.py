"""A model with its processor: files, arrays and names in, unit vectors out."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args

import numpy as np
import torch
from PIL.Image import Image

from biovita.errors import MediaError, ModelError
from biovita.media.image import read_image, to_rgb
from biovita.models.mel import LogMel
from biovita.models.pieces import Item, Modality, Piece, Sound, Span, Window, name_of, pieces_of
from biovita.models.processor import BioVitaProcessor
from biovita.models.square import near_square
from biovita.models.vita import BioVitaModel

Pool = Literal["mean", "max"]
Picture = Path | str | Image
T = TypeVar("T")
R = TypeVar("R")

BATCH_SIZES: dict[str, dict[Modality, int]] = {
    "cpu": {"audio": 16, "image": 32, "text": 64},
    "gpu": {"audio": 128, "image": 256, "text": 256},
}
BLOCK = 256  # vectors after which a stream makes a cut
BELONGS: dict[Modality, str] = {
    "audio": "paths, or of pairs (wave, sample_rate_hz): mono floats from -1 to 1, a numpy array of shape (n_samples,)",
    "image": "paths or PIL images",
    "text": "strings",
}


class Embedder(Protocol):
    """What embedding files and the benchmark need of a model, ours or a peer.

    Attributes:
        name: for people.
        weights_sha256: of the weights; stored beside every vector.
        modalities: what it can embed.
    """

    @property
    def name(self) -> str: ...
    @property
    def weights_sha256(self) -> str: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...

    def fingerprint(self, window: Window) -> str:
        """Say all that decides what a file or a name becomes, besides the weights."""
        ...

    def embed_audio(
        self, sounds: Sequence[Sound], *, window: Window = "onset", pool: Pool = "mean", batch_size: int | None = None
    ) -> np.ndarray:
        """Embed recordings: float32, shape (n, width), unit rows; MediaError at the first bad one."""
        ...

    def embed_image(self, pictures: Sequence[Picture], *, batch_size: int | None = None) -> np.ndarray:
        """Embed pictures: float32, shape (n, width), unit rows; MediaError at the first bad one."""
        ...

    def embed_text(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Embed names or prompts: float32, shape (n, width), unit rows."""
        ...


class Embedded(NamedTuple):
    """What one recording, picture or name became.

    Attributes:
        modality: what it is.
        vectors: float32, shape (1, width), or (n_windows, width) where windows are not pooled; unit rows.
        spans: of these windows; None for what was embedded as a whole.
    """

    modality: Modality
    vectors: np.ndarray
    spans: list[Span] | None = None


@dataclass(frozen=True)
class Encoder:
    """What `biovita.load` returns.

    Attributes:
        model: the network, in evaluation mode.
        processor: settings and conversions of its folder.
        name: what it was loaded as.
        weights_sha256: of model.safetensors; stored beside every vector.
        folder: where it was loaded from.
        precision: of the weights and the arithmetic; vectors are float32 whatever it is.
        near_pictures: whether JPEGs are read by `square.near_square`, about twice as fast and 1/255 off here and there.
        room: most items that a forward pass may take of a modality, once the device's memory has run out.
    """

    model: BioVitaModel
    processor: BioVitaProcessor
    name: str
    weights_sha256: str = ""
    folder: Path | None = None
    precision: str = "fp32"
    near_pictures: bool = False
    room: dict[Modality, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def _is_on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return ("audio", "image", "text")

    def fingerprint(self, window: Window) -> str:
        """Say all that decides what a file or a name becomes, besides the weights."""
        precision = "" if self.precision == "fp32" else f"-{self.precision}"
        near = "-near" if self.near_pictures else ""
        return f"{self.processor.fingerprint()}-{window}{precision}{near}"

    def embed_audio(
        self, sounds: Sequence[Sound], *, window: Window = "onset", pool: Pool = "mean", batch_size: int | None = None
    ) -> np.ndarray:
        """Embed recordings.

        Args:
            sounds: paths, or pairs (wave, sample_rate_hz) with a float wave of shape (n_samples,).
            window: which 10 s stand for the recording. `onset`: from 0.2 s before the first sample above 1 % of the
                peak, the reference rule; `centre`: the middle; `windows`: all windows, back to back, to the end, which
                is what identification uses.
            pool: of the windows' vectors: their mean, or the largest value in each dimension.
            batch_size: clips a forward pass; by default what suits the device.

        Returns:
            float32, shape (n, 768), unit rows, in the order of `sounds`.

        Raises:
            MediaError: a file does not decode, or a sound has no samples or some that are not finite; it names the
                file. Nothing ever becomes zeros.
            TypeError, ValueError: what is given is no list of sounds, or a setting is none of those above.

        Source:
            BioVITA's released extraction (onset rule, zero padding after the wave).
        """
        refuse_unknown("pool", pool, get_args(Pool))
        return self._all("audio", sounds, window=window, pool=pool, batch_size=batch_size)

    def embed_image(self, pictures: Sequence[Picture], *, batch_size: int | None = None) -> np.ndarray:
        """Embed pictures (paths or PIL images): float32, shape (n, 768), unit rows.

        Raises:
            MediaError: a file does not decode; it names the file.
            TypeError: what is given is no list of paths or PIL images.
        """
        return self._all("image", pictures, batch_size=batch_size)

    def embed_text(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Embed names or prompts: float32, shape (n, 768), unit rows. Sorted by length inside, so padding is small."""
        texts = listed("text", texts)
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        found = np.empty((len(texts), self.model.config.width), np.float32)
        found[order] = self._all("text", [texts[n] for n in order], batch_size=batch_size)
        return found

    def _all(self, modality: Modality, things: Sequence[Any], **how: Any) -> np.ndarray:
        parts = [np.empty((0, self.model.config.width), np.float32)]
        for block in self.stream([(modality, thing) for thing in listed(modality, things)], **how):
            for item in block:
                if isinstance(item, MediaError):
                    raise item
                parts.append(item.vectors)
        return np.concatenate(parts)

    def stream(
        self,
        items: Iterable[Item],
        *,
        window: Window = "onset",
        pool: Pool | None = "mean",
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[list[Embedded | MediaError]]:
        """Embed any number of things in constant memory; a bad one gives its reason and stops nothing.

        Workers decode ahead while the model runs. Batches are cut at the borders of the blocks that come back, and a
        block depends on its own things alone: who begins again at a block gets the same bits.

        Args:
            items: pairs of modality and thing (a sound, a picture, a text); a MediaError is handed through.
            window: which 10 s stand for a recording, as for `embed_audio`.
            pool: of the windows' vectors; None keeps every window's own.
            batch_size: of all modalities; by default what suits each on the device.
            workers: threads that decode; by default one a core.

        Yields:
            blocks of results, in the order of `items`.

        Raises:
            ValueError: `window`, `pool` or `batch_size` is none that there is.
        """
        refuse_unknown("window", window, get_args(Window))
        refuse_unknown("pool", pool, (*get_args(Pool), None))
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: give at least 1, or leave it out")
        mel = LogMel(self.processor.feature_extractor).to(self.device if self._is_on_gpu else "cpu")
        waiting: dict[Modality, list[tuple[_Parts, Any]]] = {modality: [] for modality in self.modalities}
        block: list[_Parts] = []
        n_rows = 0

        def run(modality: Modality, fewest: int) -> None:
            """Run batches as long as so many rows wait."""
            rows = waiting[modality]
            while len(rows) >= fewest:
                size = self._batch_size(modality, batch_size)
                batch, rows[:] = rows[:size], rows[size:]
                vectors = self._forward(modality, [row for _, row in batch], mel)
                for (parts, _), vector in zip(batch, vectors, strict=True):
                    parts.vectors.append(vector)

        def cut() -> list[Embedded | MediaError]:
            waiting["text"].sort(key=lambda row: len(row[1]))  # so that padding is small
            for modality in waiting:
                run(modality, 1)
            return [parts.result(pool) for parts in block]

        pieces = chain.from_iterable(pieces_of(item, window) for item in items)
        for piece, rows, error in prefetch(partial(self._read, mel=mel), pieces, n_threads=workers):
            if piece.begins:
                block.append(_Parts(piece.modality, name_of(piece.thing)))
            parts = block[-1]
            parts.error = parts.error or error
            n_rows += max(1, len(rows))
            if not parts.error:
                parts.spans += piece.spans[: len(rows)]
                waiting[piece.modality] += [(parts, row) for row in rows]
                if piece.modality != "text":
                    run(piece.modality, self._batch_size(piece.modality, batch_size))
            if piece.ends and n_rows >= BLOCK:
                yield cut()
                block, n_rows = [], 0
        if block:
            yield cut()

    def square(self, picture: Picture) -> np.ndarray:
        """Read a picture and crop it to the model's square: uint8, shape (side, side, 3)."""
        if isinstance(picture, Image):
            if not all(picture.size):
                raise MediaError("too_small", f"a picture of {picture.width} x {picture.height} pixels")
            return self.processor.square(to_rgb(picture))
        if self.near_pictures:
            return near_square(Path(picture), self.processor.image_processor.crop_size["height"])
        return self.processor.square(read_image(Path(picture)))

    def _read(self, piece: Piece, *, mel: LogMel) -> tuple[Piece, list[Any], MediaError | None]:
        """Do what a worker does: decode, and compute the log-mel unless that is the GPU's work."""
        try:
            if isinstance(piece.thing, MediaError):
                raise piece.thing
            if piece.modality == "text":
                return piece, [piece.thing], None
            if piece.modality == "image":
                return piece, [self._tensor(self.square(piece.thing))], None
            waves = [self._tensor(self.processor.fill(clip)) for clip in piece.clips()]
            return piece, waves if self._is_on_gpu else [mel(wave[None])[0] for wave in waves], None
        except MediaError as error:
            return piece, [], error

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device if self._is_on_gpu else "cpu")

    def _batch_size(self, modality: Modality, asked: int | None) -> int:
        size = asked or BATCH_SIZES["gpu" if self._is_on_gpu else "cpu"][modality]
        return min(size, self.room.get(modality, size))

    def _forward(self, modality: Modality, rows: list[Any], mel: LogMel) -> np.ndarray:
        """Run a tower; where the device has no room for so many rows, run halves and remember."""
        try:
            return self._vectors(modality, rows, mel)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise ModelError(
                    f"{self.name}: {self.device} has no room for a single {modality} item; use --device cpu"
                ) from error
        half = len(rows) // 2  # outside the except block, which holds on to the tensors that did not fit
        self.room[modality] = half
        return np.concatenate([self._forward(modality, part, mel) for part in (rows[:half], rows[half:])])

    @torch.inference_mode()
    def _vectors(self, modality: Modality, rows: list[Any], mel: LogMel) -> np.ndarray:
        if modality == "audio":
            clips = torch.stack(rows).to(self.device)
            vectors = self.model.audio_vectors(mel(clips) if self._is_on_gpu else clips)
        elif modality == "image":
            squares = torch.stack(rows).to(self.device)
            vectors = self.model.image_vectors(self.processor.pixels(squares))
        else:
            tokens = self.processor.tokens(rows)
            vectors = self.model.text_vectors(*(tensor.to(self.device) for tensor in tokens.values()))
        return vectors.float().cpu().numpy()


@dataclass
class _Parts:
    """The vectors of one thing while they come in."""

    modality: Modality
    name: str
    vectors: list[np.ndarray] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    error: MediaError | None = None

    def result(self, pool: Pool | None) -> Embedded | MediaError:
        """Pool the windows' vectors."""
        if self.error:
            return self.error
        if not self.vectors:
            return MediaError("no_samples", self.name)
        vectors = np.stack(self.vectors)
        if not np.isfinite(vectors).all():
            return MediaError("non_finite", f"{self.name}: the model's vector; is --precision fp32 better?")
        if pool is None:
            return Embedded(self.modality, vectors, self.spans or None)
        if len(vectors) > 1:
            pooled = vectors.mean(0) if pool == "mean" else vectors.max(0)
            vectors = (pooled / np.linalg.norm(pooled))[None]
        return Embedded(self.modality, vectors)


def prefetch(work: Callable[[T], R], things: Iterable[T], *, n_threads: int | None = None) -> Iterator[R]:
    """Do `work` ahead in threads (decoders release the interpreter), in order, a few things at a time."""
    n_threads = n_threads or os.cpu_count() or 1
    waiting: deque[Future[R]] = deque()
    # One torch thread a worker: with more, two workers slow each other down many times over.
    with ThreadPoolExecutor(n_threads, initializer=partial(torch.set_num_threads, 1)) as pool:
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


def refuse_unknown(name: str, value: object, known: Sequence[object]) -> None:
    """Refuse a setting that would be taken for another one.

    Raises:
        ValueError: it is none of the known ones.
    """
    if value not in known:
        raise ValueError(f"{name} {value!r}: unknown; it is one of {', '.join(map(repr, known))}")


def listed(modality: Modality, things: Iterable[Any]) -> list[Any]:
    """List sounds, pictures or texts, and refuse what would become the vector of something else.

    A text alone would be taken letter by letter, whole numbers as a sound thousands of times too loud.

    Raises:
        TypeError: it is no list, or holds something else; it says at which place.
    """
    wanted = f"embed_{modality} takes a list of {BELONGS[modality]}"
    if isinstance(things, (str, bytes, os.PathLike)):
        raise TypeError(f"{things!r} stands alone; give a list, [{things!r}]")
    if not isinstance(things, Iterable):
        raise TypeError(f"{_described(things)} stands alone; {wanted}")
    found = list(things)
    for n, thing in enumerate(found):
        if not _belongs(modality, thing):
            raise TypeError(f"number {n} is {_described(thing)}; {wanted}")
    return found


def _belongs(modality: Modality, thing: Any) -> bool:
    if modality == "text":
        return isinstance(thing, str)
    if isinstance(thing, (str, os.PathLike)) or modality == "image":
        return isinstance(thing, (str, os.PathLike, Image))
    if not isinstance(thing, tuple) or len(thing) != 2:
        return False
    wave, rate_hz = thing
    is_wave = isinstance(wave, np.ndarray) and wave.ndim == 1 and wave.dtype in (np.float32, np.float64)
    return is_wave and isinstance(rate_hz, (int, np.integer)) and bool(rate_hz > 0)


def _described(thing: Any) -> str:
    """Say what was given instead, without its content, which may be long."""
    if isinstance(thing, tuple):
        return f"({', '.join(map(_described, thing[:3]))})"
    if isinstance(thing, np.ndarray):
        return f"{thing.dtype} array of shape {thing.shape}"
    return repr(thing) if thing is None or isinstance(thing, (int, float)) else type(thing).__name__


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
