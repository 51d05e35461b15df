"""From draws to tensors: read, decode and augment, in this process or ahead in others."""

import atexit
import os
import signal
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import RawValue
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from biovita.errors import BiovitaError, TrainError
from biovita.models.processor import BioVitaProcessor
from biovita.models.vita import FRAMES
from biovita.train.augment import augment_mel, augment_square
from biovita.train.batches import Batch
from biovita.train.recipe import Augment, Recipe
from biovita.train.source import Source

AHEAD = 2  # batches that each worker may have ready
STOPS = (signal.SIGINT, signal.SIGTERM)
PARENT_S = 1.0  # how often a worker looks whether its trainer still lives
STALL_S = 30.0  # one recording or picture takes milliseconds


@dataclass(frozen=True)
class Inputs:
    """What the towers need of a batch.

    Attributes:
        batch: the draws.
        mels: log-mels, dB, float32, shape (n, 1001, 64), of the items with a recording, in order; None without any.
        squares: pictures, uint8, shape (n, side, side, 3), of the items with a picture; None without any.
        tokens: ids and mask of all items, shape (batch, n_tokens), padded to the longest.
        waited_s: how long the trainer waited.
    """

    batch: Batch
    mels: torch.Tensor | None = None
    squares: torch.Tensor | None = None
    tokens: dict[str, torch.Tensor] | None = None
    waited_s: float = 0.0

    def pin_memory(self) -> Self:
        """Copy to memory from which a GPU fetches by itself."""
        return replace(
            self,
            mels=None if self.mels is None else self.mels.pin_memory(),
            squares=None if self.squares is None else self.squares.pin_memory(),
            tokens=self.tokens and {name: tensor.pin_memory() for name, tensor in self.tokens.items()},
        )


class Feed:
    """Makes a batch's inputs; they depend on the batch alone, not on who makes them, or when.

    Args:
        source: of sounds and pictures.
        processor: of the model.
        prompts: for each species of `source`, its training texts.
        recipe: of the stage.
        letters: which of `a`, `i`, `t` to read.
    """

    def __init__(
        self,
        source: Source,
        processor: BioVitaProcessor,
        prompts: Sequence[Sequence[str]],
        recipe: Recipe,
        letters: Collection[str],
    ) -> None:
        self.source, self.recipe, self.letters = source, recipe, frozenset(letters)
        self.n_read = RawValue("L")  # recordings and pictures, counted by all workers
        if "t" in self.letters:  # all at once: a tokenizer that has been at work does not survive a fork
            self._first = np.cumsum([0, *map(len, prompts)])
            self._tokens = processor.tokens([text for texts in prompts for text in texts])

    def inputs(self, batch: Batch) -> Inputs:
        """Read a batch in this process.

        Raises:
            MediaError: a medium does not decode.
        """
        begun = time.monotonic()
        return replace(self._read(batch), waited_s=time.monotonic() - begun)

    def stream(self, batches: Iterable[Batch], *, workers: int = 0) -> Iterator[Inputs]:
        """Read batches one after the other.

        Args:
            batches: in the order in which they are wanted; taken a little ahead of need.
            workers: processes that read ahead; 0 reads in this one, when asked.

        Raises:
            MediaError: a medium does not decode; it comes when its batch would have.
            TrainError: a worker was ended, or hangs.
        """
        if not workers:
            yield from map(self.inputs, batches)
            return
        loader = DataLoader(
            _Reading(self),
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=AHEAD,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="fork",
            worker_init_fn=_settle,
            generator=torch.Generator(),  # otherwise it draws from the stream that dropout draws from
        )
        read = _begin(loader)
        atexit.register(read._shutdown_workers)
        try:
            while True:
                begun = time.monotonic()
                found = self._next(read)
                if found is None:
                    return
                if isinstance(found, BiovitaError):
                    raise found
                yield replace(found, waited_s=time.monotonic() - begun)
        finally:  # an error's traceback would keep them
            atexit.unregister(read._shutdown_workers)
            read._shutdown_workers()

    def _next(self, read: Any) -> Inputs | BiovitaError | None:
        is_there, is_stalled = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, args=(read._workers, is_there, is_stalled), daemon=True).start()
        try:
            return next(read, None)
        except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
            if is_stalled.is_set():
                raise TrainError(
                    f"the processes that read ahead have read nothing for {STALL_S:.0f} s; does the disk or the "
                    "network that holds the data still answer?"
                ) from error
            if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
                raise  # a fault of ours in a worker
            raise TrainError("a process that reads ahead was ended; is memory short? try fewer workers") from error
        finally:
            is_there.set()

    def _watch(self, workers: list[Any], is_there: threading.Event, is_stalled: threading.Event) -> None:
        """End workers that have read nothing for a while.

        The loader's own timeout does not see one that hangs while it hands a batch over.
        """
        n_read = -1
        while not is_there.wait(STALL_S):
            if n_read == self.n_read.value:
                is_stalled.set()
                for worker in workers:
                    worker.kill()
            n_read = self.n_read.value

    def _read(self, batch: Batch) -> Inputs:
        return Inputs(
            batch,
            mels=self._mels(batch) if "a" in self.letters else None,
            squares=self._squares(batch) if "i" in self.letters else None,
            tokens=self._texts(batch) if "t" in self.letters else None,
        )

    def _mels(self, batch: Batch) -> torch.Tensor | None:
        mels = []
        for n in np.flatnonzero(batch.audio >= 0):
            mel = self._mel(batch.audio[n], batch.shift[n])
            if self.recipe.augment != Augment():
                other = batch.background[n]
                background = self._mel(other, batch.shift[n]) if other >= 0 else None
                mel = augment_mel(mel, _streams(batch.seed[n])[0], self.recipe.augment, background)
            mels.append(mel)
        return torch.from_numpy(np.stack(mels)) if mels else None

    def _mel(self, row: int, shift: float) -> np.ndarray:
        self.n_read.value += 1
        is_placed = self.recipe.shift_audio or self.source.n_frames(row) > FRAMES
        return self.source.mel(row, shift if is_placed else 0.0)

    def _squares(self, batch: Batch) -> torch.Tensor | None:
        squares = []
        for n in np.flatnonzero(batch.image >= 0):
            self.n_read.value += 1
            square = self.source.square(batch.image[n])
            if self.recipe.augment != Augment():
                square = augment_square(square, _streams(batch.seed[n])[1], self.recipe.augment)
            squares.append(square[:, ::-1] if batch.flip[n] else square)
        return torch.from_numpy(np.stack(squares)) if squares else None

    def _texts(self, batch: Batch) -> dict[str, torch.Tensor]:
        rows = torch.from_numpy(self._first[batch.label] + batch.prompt)
        longest = int(self._tokens["attention_mask"][rows].sum(1).max())
        return {name: tensor[rows, :longest] for name, tensor in self._tokens.items()}


def _streams(seed: np.uint64) -> list[np.random.Generator]:
    """Open an item's random streams, one for its sound and one for its picture: neither knows of the other's draws."""
    return np.random.default_rng(int(seed)).spawn(2)


class _Reading(Dataset[Inputs | BiovitaError]):
    """What a worker does. Errors are handed over as they are: torch would make others of them, from their text."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __getitem__(self, batch: Batch) -> Inputs | BiovitaError:
        try:
            return self.feed._read(batch)
        except BiovitaError as error:
            return error


def _begin(loader: DataLoader) -> Any:
    """Start the workers. If one dies, the next batch tells; torch would raise that amid whatever the trainer does.

    Signals to stop wait until a worker has settled, or one that comes while it starts would end it.
    """
    before = signal.getsignal(signal.SIGCHLD)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        read = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return read


def _as_it_is(found: Any) -> Any:
    return found


def _settle(_: int) -> None:
    """Make a worker end with its trainer, and not before: signals to stop are the trainer's business."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    os._exit(1)
