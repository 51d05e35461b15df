"""What a batch is made of: a pure function of seed, epoch and step, fair to every species and item."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from biovita.errors import TrainError
from biovita.train.batches import Batch, Sampler
from biovita.train.recipe import Recipe

COUNTS = [(30, 4), (12, 0), (5, 7), (2, 1), (0, 3), (1, 2)]  # (recordings, pictures) of each species


@pytest.fixture
def make(make_features: Callable[..., Any]) -> Callable[..., Sampler]:
    def sampler(counts: list[tuple[int, int]] = COUNTS, *, shuffle: int | None = None, **recipe: Any) -> Sampler:
        recipe = {"batch_size": 8, "min_per_species": 4, "max_per_species": 10, **recipe}
        return Sampler(make_features(counts, n_frames=2, shuffle=shuffle), Recipe(**recipe), n_prompts=5)

    return sampler


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(getattr(x, field.name), getattr(y, field.name))
        for x, y in zip(one, other, strict=True)
        for field in dataclasses.fields(Batch)
    )


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        **{
            field.name: np.concatenate([getattr(batch, field.name) for batch in batches])
            for field in dataclasses.fields(Batch)
        }
    )


def test_an_epoch_is_a_function_of_seed_and_number_alone(make: Callable[..., Sampler]) -> None:
    sampler = make()
    later = list(sampler.epoch(3))
    assert equal(list(sampler.epoch(3)), later)
    assert equal(list(make().epoch(3)), later)
    assert equal(list(make(shuffle=5).epoch(3)), later)
    assert not equal(list(sampler.epoch(2)), later)
    assert not equal(list(make(seed=2).epoch(3)), later)


def test_every_draw_changes_from_epoch_to_epoch_not_only_the_order(make: Callable[..., Sampler]) -> None:
    draws = []
    for epoch in (0, 1):
        whole = joined(list(make(batch_size=999).epoch(epoch)))
        order = np.argsort(whole.audio, kind="stable")
        draws.append([getattr(whole, name)[order] for name in ("audio", "image", "prompt", "shift", "flip")])
    for one, other in zip(*draws, strict=True):
        assert not np.array_equal(one, other)


def test_large_species_are_capped_small_ones_topped_up_and_silent_ones_sit_out(make: Callable[..., Sampler]) -> None:
    sampler = make(batch_size=999)
    labels = Counter(joined(list(sampler.epoch(0))).label.tolist())
    assert labels == {0: 10, 1: 10, 2: 5, 3: 4, 5: 4}
    assert sampler.n_draws == 33
    assert sampler.steps_per_epoch == 1


def test_every_item_of_a_species_below_the_cap_is_drawn(make: Callable[..., Sampler]) -> None:
    for epoch in range(4):
        whole = joined(list(make(batch_size=999).epoch(epoch)))
        for label, (first, n) in {2: (42, 5), 3: (47, 2), 5: (49, 1)}.items():
            assert set(whole.audio[whole.label == label]) == set(range(first, first + n))


def test_a_capped_species_repeats_nothing_in_an_epoch_and_shows_all_in_time(make: Callable[..., Sampler]) -> None:
    sampler, seen = make(batch_size=999), set()
    for epoch in range(20):
        whole = joined(list(sampler.epoch(epoch)))
        drawn = whole.audio[whole.label == 0].tolist()
        assert len(set(drawn)) == len(drawn) == 10
        seen |= set(drawn)
    assert seen == set(range(30))


def test_partners_are_of_the_same_species_and_every_one_gets_its_turn(make: Callable[..., Sampler]) -> None:
    sampler = make(batch_size=999)
    whole = joined([batch for epoch in range(30) for batch in sampler.epoch(epoch)])
    first = np.cumsum([0, *(n for _, n in COUNTS)])
    for label, (n_audio, n_image) in enumerate(COUNTS):
        if n_audio:
            pictures = set(whole.image[whole.label == label].tolist())
            assert pictures == (set(range(first[label], first[label + 1])) if n_image else {-1})


def test_draws_stay_in_their_ranges_and_spread_over_them(make: Callable[..., Sampler]) -> None:
    whole = joined([batch for epoch in range(40) for batch in make(batch_size=3).epoch(epoch)])
    n = len(whole.label)
    assert set(whole.prompt.tolist()) == set(range(5))
    assert ((whole.shift >= 0) & (whole.shift < 1)).all()
    assert abs(whole.shift.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)
    assert abs(whole.flip.mean() - 0.5) < 4 * np.sqrt(1 / 4 / n)


def test_pictures_are_not_mirrored_when_the_recipe_says_so(make: Callable[..., Sampler]) -> None:
    assert not joined(list(make(flip_images=False).epoch(0))).flip.any()


def test_silent_species_still_train_picture_and_name_where_the_stage_has_that_loss(
    make: Callable[..., Sampler],
) -> None:
    sampler = make(batch_size=999, image_text=0.5)
    whole = joined(list(sampler.epoch(0)))
    assert Counter(whole.label.tolist()) == {0: 10, 1: 10, 2: 5, 3: 4, 4: 4, 5: 4}
    silent = whole.label == 4
    assert (whole.audio[silent] == -1).all()
    assert (whole.audio[~silent] >= 0).all()
    first = sum(n for _, n in COUNTS[:4])
    pictures = [joined(list(sampler.epoch(epoch))) for epoch in range(8)]
    assert {row for one in pictures for row in one.image[one.label == 4]} == {first, first + 1, first + 2}


def test_a_stage_without_sound_walks_through_the_pictures(make: Callable[..., Sampler]) -> None:
    sampler = make(batch_size=999, audio_text=0.0, image_text=1.0)
    whole = joined(list(sampler.epoch(0)))
    assert Counter(whole.label.tolist()) == {0: 4, 2: 7, 3: 4, 4: 4, 5: 4}
    assert (whole.image >= 0).all()
    assert (whole.audio[whole.label == 4] == -1).all()
    assert set(whole.image[whole.label == 2]) == set(range(4, 11))


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(2, [2] * 16), (8, [8] * 4), (11, [11] * 3), (17, [17]), (33, [33]), (34, [33]), (64, [33])],
)
def test_a_ragged_rest_is_dropped_unless_it_is_all_there_is(
    make: Callable[..., Sampler], batch_size: int, sizes: list[int]
) -> None:
    sampler = make(batch_size=batch_size)
    assert [len(batch.label) for batch in sampler.epoch(1)] == sizes
    assert sampler.steps_per_epoch == len(sizes)


def test_the_validation_split_is_never_drawn(make_features: Callable[..., Any]) -> None:
    features = make_features([(4, 4), (3, 3)], n_frames=2, val=2)
    sampler = Sampler(features, Recipe(batch_size=999), n_prompts=5)
    whole = joined([batch for epoch in range(5) for batch in sampler.epoch(epoch)])
    assert set(whole.audio) == set(features.rows("audio", "train")["row"]) == {2, 3, 6}
    assert set(whole.image) == set(features.rows("image", "train")["row"]) == {2, 3, 6}


def test_a_stage_with_nothing_to_walk_through_says_so(make: Callable[..., Sampler]) -> None:
    with pytest.raises(TrainError, match="walks through audio, and the train split has none"):
        make([(0, 3), (0, 1)])
    with pytest.raises(TrainError, match="walks through image, and the train split has none"):
        make([(3, 0)], audio_text=0.0, image_text=1.0)
