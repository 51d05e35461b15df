"""Features by hand: no files, any layout of species, recordings and pictures; and batches of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from by_hand import make_batch, read_batch

from biovita.models.vita import FRAMES
from biovita.train.batches import Batch
from biovita.train.engine import Engine
from biovita.train.features import Features
from biovita.train.feed import Inputs
from biovita.train.recipe import Recipe
from biovita.train.step import Step
from biovita.train.trainee import Trainee

SIDE_PX = 64


@pytest.fixture(scope="session")
def make_features() -> Callable[..., Features]:
    """Make features of species with so many (recordings, pictures) each; species differ in sound and colour."""

    def make(
        counts: Sequence[tuple[int, int]],
        *,
        n_frames: int = FRAMES,
        val: int = 0,
        repeats: bool = False,
        shuffle: int | None = None,
    ) -> Features:
        rng = np.random.default_rng(11)
        rows, mels, squares = [], [], []
        for label, (n_audio, n_image) in enumerate(counts):
            for n in range(n_audio):
                rows.append(
                    ("audio", "val" if n < val else "train", f"species {label}", label, len(mels), f"audio {len(mels)}")
                )
                mel = rng.normal(-60, 3, (n_frames, 64)).astype(np.float16)
                mel[:, 3 * label : 3 * label + 6] += 40
                mels.append(mel)
            for n in range(n_image):
                rows.append(
                    (
                        "image",
                        "val" if n < val else "train",
                        f"species {label}",
                        label,
                        len(squares),
                        f"image {len(squares)}",
                    )
                )
                square = rng.integers(0, 60, (SIDE_PX, SIDE_PX, 3))
                square[:, 4 * label : 4 * label + 8] += np.array([180, 90, 15 * label % 190])
                squares.append(square.astype(np.uint8))
        media = pl.DataFrame(rows, ["modality", "split", "species", "label", "row", "media_id"], orient="row")
        media = media.with_columns(sha256="media_id")  # the files' content is what their name says
        return Features(
            media=media if shuffle is None else media.sample(fraction=1, shuffle=True, seed=shuffle),
            species=[f"species {label}" for label in range(len(counts))],
            lineage=np.stack([np.arange(len(counts)), np.arange(len(counts)) // 2], axis=1),
            mels=np.concatenate([np.empty((0, 64), np.float16), *mels]),
            starts=np.cumsum([0, *(len(mel) for mel in mels)]),
            squares=np.stack(squares) if squares else np.empty((0, SIDE_PX, SIDE_PX, 3), np.uint8),
            repeats=repeats,
        )

    return make


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., Batch]:
    """Make a batch by hand."""
    return make_batch


@pytest.fixture(scope="session")
def inputs_of() -> Callable[..., Inputs]:
    """Read what a batch names."""
    return read_batch


@pytest.fixture(scope="session")
def step_of() -> Callable[..., Step]:
    """Make a step of one process on the processor."""

    def make(encoder: Any, features: Features, recipe: Recipe, **more: Any) -> Step:
        accelerator = Engine(cpu=True).start()
        trainee = Trainee(encoder.model, recipe)
        return Step(trainee, encoder.processor, features.lineage, recipe, accelerator, **more)

    return make
