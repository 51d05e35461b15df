"""From draws to tensors: against a plain loop, by any number of workers, and what becomes of these and their errors."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biovita.data.dataset import Dataset
from biovita.errors import MediaError, TrainError
from biovita.models.vita import FRAMES
from biovita.taxonomy.prompts import training_prompts
from biovita.taxonomy.taxon import Taxon
from biovita.train.augment import augment_mel, augment_square
from biovita.train.batches import Batch, Sampler
from biovita.train.features import Features
from biovita.train.feed import Feed, Inputs
from biovita.train.recipe import Augment, Recipe
from biovita.train.source import Originals

PROMPTS = [["bird", "a bird", "a small bird of the woods", "x", "y"], ["frog", "a frog", "a very green frog", "x", "y"]]
ALL_ON = Augment(gain_db=6, background=0.5, mask_frames=100, mask_bands=12, crop=0.5, colour=0.3)


def batch_of(audio: list[int], image: list[int], **others: Any) -> Batch:
    n = len(audio)
    chosen = {
        "label": np.arange(n) % 2,
        "audio": np.array(audio),
        "image": np.array(image),
        "prompt": np.arange(n) % 5,
        "shift": np.linspace(0, 0.99, n),
        "flip": np.arange(n) % 2 == 0,
        "background": np.full(n, -1),
        "seed": np.arange(n).astype(np.uint64) + 2**63,
    }
    return Batch(**{**chosen, **others})


def equal(one: Inputs, other: Inputs) -> bool:
    """Whether two inputs hold the same bytes."""
    pairs = [(getattr(one.batch, field.name), getattr(other.batch, field.name)) for field in fields(Batch)]
    pairs += [(one.mels, other.mels), (one.squares, other.squares)]
    pairs += [
        ((one.tokens or {}).get(name), (other.tokens or {}).get(name)) for name in ("input_ids", "attention_mask")
    ]
    return all((a is b is None) or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs)


@pytest.fixture
def features(make_features: Callable[..., Features]) -> Features:
    return make_features([(4, 3), (3, 4)], n_frames=1300)


@pytest.fixture
def feed(features: Features, encoder: Any) -> Callable[..., Feed]:
    def make(letters: Collection[str] = "ait", source: Any = features, **recipe: Any) -> Feed:
        return Feed(source, encoder.processor, PROMPTS, Recipe(**recipe), letters)

    return make


BATCH = batch_of([0, -1, 3, 6, 3], [-1, 5, 2, -1, 0])


def test_inputs_are_those_of_a_plain_loop(feed: Callable[..., Feed], features: Features, encoder: Any) -> None:
    found = feed().inputs(BATCH)
    assert found.batch is BATCH
    mels, squares, texts = [], [], []
    for n in range(5):
        if BATCH.audio[n] >= 0:
            mels.append(features.mel(BATCH.audio[n], BATCH.shift[n]))
        if BATCH.image[n] >= 0:
            square = features.square(BATCH.image[n])
            squares.append(np.fliplr(square) if BATCH.flip[n] else square)
        texts.append(PROMPTS[BATCH.label[n]][BATCH.prompt[n]])
    assert found.mels is not None
    assert found.squares is not None
    assert found.tokens is not None
    assert found.mels.dtype == torch.float32
    assert found.squares.dtype == torch.uint8
    assert np.array_equal(found.mels, np.stack(mels))
    assert np.array_equal(found.squares, np.stack(squares))
    expected = encoder.processor.tokens(texts)
    assert set(found.tokens) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found.tokens[name], tensor)


def test_names_are_padded_to_the_longest_of_their_batch(feed: Callable[..., Feed], encoder: Any) -> None:
    for label, form in itertools.product(range(2), range(5)):
        tokens = feed("t").inputs(batch_of([0], [0], label=np.array([label]), prompt=np.array([form]))).tokens
        assert tokens is not None
        assert torch.equal(tokens["input_ids"], encoder.processor.tokens([PROMPTS[label][form]])["input_ids"])
        assert tokens["attention_mask"].all()


class Refusing:
    """A source that gives nothing."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


def test_what_is_not_asked_for_is_not_read(feed: Callable[..., Feed]) -> None:
    found = feed("t", source=Refusing()).inputs(BATCH)
    assert (found.mels, found.squares) == (None, None)
    assert feed("a").inputs(BATCH).tokens is None
    assert feed((), source=Refusing()).inputs(BATCH).batch is BATCH


def test_a_batch_without_a_modality_has_none_of_it(feed: Callable[..., Feed]) -> None:
    silent, blind = feed().inputs(batch_of([-1, -1], [0, 1])), feed().inputs(batch_of([0, 1], [-1, -1]))
    assert silent.mels is None
    assert blind.squares is None
    assert len(silent.squares) == len(blind.mels) == 2  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("n_frames", [300, FRAMES, 1300])
def test_unshifted_short_recordings_begin_the_window_and_long_ones_are_still_cut_anywhere(
    n_frames: int, make_features: Callable[..., Features], feed: Callable[..., Feed]
) -> None:
    source = make_features([(2, 1)], n_frames=n_frames)
    batch = batch_of([0, 1], [-1, -1], shift=np.array([0.4, 0.8]))
    found = feed("a", source=source, shift_audio=False).inputs(batch).mels
    expected = [source.mel(0, 0.4), source.mel(1, 0.8)] if n_frames > FRAMES else [source.mel(n, 0.0) for n in range(2)]
    assert found is not None
    assert np.array_equal(found, np.stack(expected))
    assert np.array_equal(found, feed("a", source=source).inputs(batch).mels) == (n_frames >= FRAMES)


def test_augmentation_is_that_of_each_items_own_streams(feed: Callable[..., Feed], features: Features) -> None:
    background = np.array([5, -1, -1, 1, 0])
    batch = batch_of([0, -1, 3, 6, 3], [-1, 5, 2, -1, 0], background=background)
    found = feed(augment=ALL_ON).inputs(batch)
    mels, squares = [], []
    for n in range(5):
        sound, picture = np.random.default_rng(int(batch.seed[n])).spawn(2)
        if batch.audio[n] >= 0:
            other = features.mel(background[n], batch.shift[n]) if background[n] >= 0 else None
            mels.append(augment_mel(features.mel(batch.audio[n], batch.shift[n]), sound, ALL_ON, other))
        if batch.image[n] >= 0:
            square = augment_square(features.square(batch.image[n]), picture, ALL_ON)
            squares.append(np.fliplr(square) if batch.flip[n] else square)
    assert np.array_equal(found.mels, np.stack(mels))  # pyright: ignore[reportArgumentType]
    assert np.array_equal(found.squares, np.stack(squares))  # pyright: ignore[reportArgumentType]
    assert not np.array_equal(found.mels, feed().inputs(batch).mels)  # pyright: ignore[reportArgumentType]
    assert not np.array_equal(found.squares, feed().inputs(batch).squares)  # pyright: ignore[reportArgumentType]


def test_to_leave_out_a_letter_changes_none_of_the_others(feed: Callable[..., Feed]) -> None:
    batch = batch_of([0, -1, 3, 6, 3], [-1, 5, 2, -1, 0], background=np.array([5, -1, -1, 1, 0]))
    whole = feed(augment=ALL_ON).inputs(batch)
    assert torch.equal(feed("a", augment=ALL_ON).inputs(batch).mels, whole.mels)  # pyright: ignore[reportArgumentType]
    only = feed("it", augment=ALL_ON).inputs(batch)
    assert torch.equal(only.squares, whole.squares)  # pyright: ignore[reportArgumentType]
    assert only.tokens is not None
    assert whole.tokens is not None
    assert torch.equal(only.tokens["input_ids"], whole.tokens["input_ids"])


def test_a_part_of_a_batch_gives_a_part_of_its_inputs(feed: Callable[..., Feed]) -> None:
    whole = feed(augment=ALL_ON).inputs(BATCH)
    part = feed(augment=ALL_ON).inputs(BATCH.part(slice(2, 5)))
    assert torch.equal(part.mels, whole.mels[1:])  # pyright: ignore[reportOptionalSubscript, reportArgumentType]
    assert torch.equal(part.squares, whole.squares[1:])  # pyright: ignore[reportOptionalSubscript, reportArgumentType]


@pytest.fixture
def copy(made_up: Path, tmp_path: Path) -> Dataset:
    """The dataset of all tests, to write in."""
    return Dataset.open(shutil.copytree(made_up, tmp_path / "dataset", ignore=shutil.ignore_patterns(".features")))


@pytest.fixture
def of_files(encoder: Any, copy: Dataset) -> tuple[Feed, list[Batch]]:
    """A feed that decodes and augments real media, and an epoch's batches."""
    source = Originals(copy, encoder)
    taxa = {row["species"]: Taxon.from_row(row) for row in copy.taxa.iter_rows(named=True)}
    prompts = [training_prompts(taxa[species]) for species in source.species]
    recipe = Recipe(batch_size=6, audio_image=1, image_text=1, augment=ALL_ON)
    batches = list(Sampler(source, recipe, n_prompts=5).epoch(0))[:7]
    return Feed(source, encoder.processor, prompts, recipe, "ait"), batches


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")  # on two cores
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_gives_the_same_bytes(workers: int, of_files: tuple[Feed, list[Batch]]) -> None:
    feed, batches = of_files
    found = list(feed.stream(batches, workers=workers))
    assert len(found) == len(batches) == 7
    for batch, inputs in zip(batches, found, strict=True):
        assert equal(inputs, feed.inputs(batch))
        assert inputs.mels is not None
        assert inputs.waited_s > 0
    assert not active_children()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_stops_the_stream_at_its_batch_and_is_named(
    workers: int, of_files: tuple[Feed, list[Batch]], copy: Dataset
) -> None:
    feed, batches = of_files
    bad = batches[3].audio[batches[3].audio >= 0][0]
    row = feed.source.media.filter(modality="audio", row=bad).row(0, named=True)
    first = next(n for n, batch in enumerate(batches) if bad in batch.audio or bad in batch.background)
    copy.path(row["path"]).write_bytes(b"<html>" * 100)
    stream = feed.stream(batches, workers=workers)
    for _ in range(first):
        next(stream)
    with pytest.raises(MediaError, match=rf"^corrupt: {row['media_id']}: .*{Path(row['path']).name}") as stopped:
        next(stream)
    assert stopped.value.reason == "corrupt"
    assert not active_children()
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.slow
def test_workers_end_when_the_trainer_wants_no_more(feed: Callable[..., Feed]) -> None:
    stream = feed().stream(itertools.repeat(BATCH), workers=2)
    next(stream)
    assert len(active_children()) == 2
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not active_children()


@pytest.mark.slow
def test_the_trainers_random_numbers_are_left_alone(feed: Callable[..., Feed]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(feed().stream([BATCH], workers=1))
    assert torch.equal(torch.rand(3), expected)


class Slow:
    """A source that takes its time."""

    def __init__(self, source: Features, seconds: float) -> None:
        self.source, self.seconds = source, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def mel(self, row: int, shift: float) -> np.ndarray:
        time.sleep(self.seconds)
        return self.source.mel(row, shift)


@pytest.mark.slow
def test_the_wait_is_what_the_trainer_waits_and_not_what_workers_work(
    feed: Callable[..., Feed], features: Features
) -> None:
    batch = batch_of([0], [0])
    slow = feed("a", source=Slow(features, 0.2))
    assert slow.inputs(batch).waited_s >= 0.2
    assert all(inputs.waited_s >= 0.2 for inputs in slow.stream([batch] * 2))
    waits = []
    for inputs in slow.stream([batch] * 5, workers=1):
        waits.append(inputs.waited_s)
        time.sleep(0.4)  # a step, in which the worker reads the next
    assert waits[0] >= 0.2
    assert max(waits[1:]) < 0.15


@pytest.mark.slow
def test_signals_to_stop_are_the_trainers_business(feed: Callable[..., Feed]) -> None:
    stream = feed().stream(itertools.repeat(BATCH, 30), workers=2)
    next(stream)
    for worker, number in itertools.product(active_children(), (signal.SIGTERM, signal.SIGINT)):
        os.kill(worker.pid or 0, number)
    assert sum(1 for _ in stream) == 29


@pytest.mark.slow
def test_a_worker_that_was_killed_is_an_error_and_no_hang(feed: Callable[..., Feed]) -> None:
    stream = feed().stream(itertools.repeat(BATCH), workers=2)
    next(stream)
    os.kill(active_children()[0].pid or 0, signal.SIGKILL)
    time.sleep(0.5)  # a step, which nothing may interrupt
    with pytest.raises(TrainError, match="a process that reads ahead was ended"):
        for _ in stream:
            pass
    assert not active_children()


@pytest.mark.slow
def test_a_worker_that_hangs_is_an_error_and_slow_ones_are_none(
    feed: Callable[..., Feed], features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biovita.train.feed.STALL_S", 2.0)
    slow = feed("a", source=Slow(features, 0.8)).stream(itertools.repeat(batch_of([0] * 5, [0] * 5), 2), workers=1)
    assert [len(inputs.batch.audio) for inputs in slow] == [5, 5]  # of which each takes 4 s
    stream = feed().stream(itertools.repeat(BATCH), workers=2)
    next(stream)
    os.kill(active_children()[0].pid or 0, signal.SIGSTOP)
    with pytest.raises(TrainError, match="have read nothing for 2 s; does the disk"):
        for _ in stream:
            pass
    assert not active_children()


class Broken:
    """A source with a fault."""

    def n_frames(self, row: int) -> int:
        return 1 // int(row)


@pytest.mark.slow
def test_a_fault_of_ours_in_a_worker_stays_a_fault(feed: Callable[..., Feed]) -> None:
    with pytest.raises(ZeroDivisionError, match="in DataLoader worker process 0"):
        next(feed("a", source=Broken(), shift_audio=False).stream([BATCH], workers=1))
    assert not active_children()


TRAINER = """
import itertools, multiprocessing, sys, time
import numpy as np
from biovita.train.batches import Batch
from biovita.train.feed import Feed
from biovita.train.recipe import Recipe
rows = np.zeros(int(sys.argv[1]), np.int64)
batch = Batch(rows, rows - 1, rows - 1, rows, rows * 0.0, rows > 0, rows - 1, rows.astype(np.uint64))
stream = Feed(None, None, [], Recipe(), ()).stream(itertools.repeat(batch), workers=2)
next(stream)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
time.sleep(float(sys.argv[2]))
raise SystemError("a fault of ours")
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def killed_trainer() -> Iterator[list[int]]:
    """The workers of a trainer that got kill -9 while they had more to hand over than a pipe holds."""
    line = [sys.executable, "-c", TRAINER, "20000", "100"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        workers = [int(word) for word in trainer.stdout.readline().split()]
        time.sleep(0.5)
        trainer.kill()
    yield workers
    for pid in filter(is_alive, workers):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_no_worker_outlives_a_trainer_that_was_killed(killed_trainer: list[int]) -> None:
    assert len(killed_trainer) == 2
    deadline = time.monotonic() + 15
    while any(map(is_alive, killed_trainer)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, killed_trainer))


@pytest.mark.slow
def test_a_trainer_that_fails_takes_its_workers_along() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINER, "20000", "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "SystemError: a fault of ours" in done.stderr
    assert not any(map(is_alive, map(int, done.stdout.split())))
