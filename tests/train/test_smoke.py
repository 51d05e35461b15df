"""A stage in seconds: the same switches, a few steps, a few files."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from importlib.resources import files
from typing import Any

import polars as pl
import pytest

from biovita.commands.train import Train
from biovita.config import parse
from biovita.train.batches import Sampler
from biovita.train.recipe import Gate, Recipe
from biovita.train.smoke import few, smoke

LONG = Recipe(
    epochs=30,
    batch_size=512,
    micro_batch=128,
    freeze_batch_norm=True,
    accumulate=16,
    audio_image=0.1,
    ramp_epochs=2.0,
    ramp_steps=(600, 300),
    warmup_steps=1000,
    from_steps={"audio_model.*": 300},
    gate=Gate(above=0.03),
    hard_negatives="genus",
    hard_group=64,
    validate_every=5.0,
    ema=0.999,
)
SHIPPED = [str(path) for path in files("biovita").joinpath("runs").glob("**/*.toml") if "[recipe]" in path.read_text()]


def media_of(counts: list[tuple[int, int]], splits: tuple[str, ...] = ("train", "val")) -> pl.DataFrame:
    rows = [
        (f"{modality}:{species:02}:{split}:{n}", modality, split, f"species {species:02}")
        for split in splits
        for species, each in enumerate(counts)
        for modality, n_files in zip(("audio", "image"), each, strict=True)
        for n in range(n_files)
    ]
    return pl.DataFrame(rows, ["media_id", "modality", "split", "species"], orient="row")


def test_every_switch_is_met_within_four_small_steps() -> None:
    short = smoke(LONG)
    assert (short.epochs, short.batch_size, short.micro_batch, short.accumulate) == (1, 8, 2, 2)
    assert max(short.ramp_steps) < 4 > short.warmup_steps
    assert short.from_steps == {"audio_model.*": 2}
    assert short.gate == Gate(above=0.03, patience=2)
    assert 2 <= short.hard_group <= 8
    assert short.validate_every <= 1
    assert short.ema == 0.5  # the mean of some two steps


def test_what_is_no_matter_of_size_stays_as_it_is() -> None:
    scaled = {
        *("epochs", "batch_size", "micro_batch", "accumulate", "ramp_epochs", "ramp_steps", "gate", "from_steps"),
        *("warmup_steps", "min_per_species", "max_per_species", "hard_group", "validate_every", "ema"),
    }
    short = smoke(LONG)
    for field in fields(Recipe):
        if field.name not in scaled:
            assert getattr(short, field.name) == getattr(LONG, field.name), field.name


@pytest.mark.parametrize("path", SHIPPED)
def test_every_shipped_stage_takes_at_most_four_steps(path: str, make_features: Callable[..., Any]) -> None:
    recipe = smoke(parse(Train, [path, "--data", "d", "--out", "o"], prog="train").recipe)
    features = make_features([(4, 4)] * 8, n_frames=2)
    sampler = Sampler(features, recipe, n_prompts=5)
    assert recipe.batch_size <= 8
    assert 1 <= sampler.steps_per_epoch // recipe.accumulate <= 4


def test_a_stage_that_is_small_already_is_not_made_larger() -> None:
    gate = Gate(patience=1)
    tiny = Recipe(batch_size=4, epochs=1, max_per_species=1, min_per_species=1, validate_every=0.5, gate=gate)
    assert smoke(tiny) == tiny


def test_a_few_files_of_a_few_species_are_kept_of_every_split() -> None:
    kept = few(media_of([(9, 9)] * 20, ("train", "val", "test_seen")))
    for _, rows in kept.group_by("split"):
        assert rows["species"].n_unique() == 8
        assert set(Counter(rows.select("species", "modality").iter_rows()).values()) == {4}


def test_species_with_both_come_first_and_the_same_stand_in_train_and_val() -> None:
    kept = few(media_of([(3, 0), (0, 3)] * 10 + [(2, 2)] * 8))
    both = {f"species {n}" for n in range(20, 28)}
    for split in ("train", "val"):
        assert set(kept.filter(pl.col("split") == split)["species"]) == both


def test_all_is_kept_where_there_is_little() -> None:
    media = media_of([(1, 2), (3, 0), (0, 1), (2, 2)])
    assert few(media).equals(media.sort("media_id"))


def test_the_order_of_the_rows_does_not_matter() -> None:
    media = media_of([(n % 7, 9 - n % 5) for n in range(30)])
    kept = few(media)
    for seed in range(3):
        assert few(media.sample(fraction=1, shuffle=True, seed=seed)).equals(kept)
