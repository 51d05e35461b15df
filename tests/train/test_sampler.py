"""What a batch is made of: a pure function of seed, epoch and index, fair to every species and item."""

import dataclasses
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest

from biovita.errors import TrainError
from biovita.train.batches import Batch, Sampler
from biovita.train.recipe import Augment, Recipe

COUNTS = [(30, 4), (12, 0), (5, 7), (2, 1), (0, 3), (1, 2)]  # (recordings, pictures) of each species
FIRST = np.cumsum([0, *(n for n, _ in COUNTS)])  # first recording of each species
MANY = [(12, 1), (9, 1), (6, 1), (6, 1), (10, 1), (10, 1), (3, 1), (7, 1), (5, 1), (12, 1), (4, 1), (8, 1)]
GENERA, FAMILIES = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "distinct": {"distinct_species": True, "max_per_species": 6},
    "genus": {"hard_negatives": "genus", "hard_group": 3},
    "family": {"hard_negatives": "family"},
}


@pytest.fixture
def make(make_features: Callable[..., Any]) -> Callable[..., Sampler]:
    def sampler(
        counts: list[tuple[int, int]] = COUNTS,
        *,
        shuffle: int | None = None,
        lineage: list[list[int]] | None = None,
        **recipe: Any,
    ) -> Sampler:
        recipe = {"batch_size": 8, "min_per_species": 4, "max_per_species": 10, **recipe}
        features = make_features(counts, n_frames=2, shuffle=shuffle)
        if lineage:
            features = dataclasses.replace(features, lineage=np.stack([np.arange(len(counts)), *lineage], axis=1))
        return Sampler(features, Recipe(**recipe), n_prompts=5)

    return sampler


@pytest.fixture
def make_kin(make: Callable[..., Sampler]) -> Callable[..., Sampler]:
    """Twelve species in six genera and three families."""
    return lambda **recipe: make(MANY, lineage=[GENERA, FAMILIES], **recipe)


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


@pytest.mark.parametrize("kind", ["plain", "genus", "family"])
def test_an_item_does_not_depend_on_the_size_of_batches(make_kin: Callable[..., Sampler], kind: str) -> None:
    four, seven = (joined(list(make_kin(batch_size=n, **KINDS[kind]).epoch(2))) for n in (4, 7))
    n = min(len(four.label), len(seven.label))
    assert n >= 70
    assert equal([four.part(slice(n))], [seven.part(slice(n))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, 1, 5, 99])
def test_an_epoch_goes_on_in_the_middle_as_if_it_had_not_stopped(
    make_kin: Callable[..., Sampler], kind: str, first: int
) -> None:
    sampler = make_kin(batch_size=9, **KINDS[kind])
    assert equal(list(sampler.epoch(1, first=first)), list(sampler.epoch(1))[first:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 5, 7])
def test_every_recording_is_drawn_exactly_once_an_epoch_but_for_a_ragged_rest(
    make_kin: Callable[..., Sampler], kind: str, batch_size: int
) -> None:
    recipe = {"min_per_species": 1, **KINDS[kind], "max_per_species": 12}
    sampler = make_kin(batch_size=batch_size, **recipe)
    n_items = sum(n for n, _ in MANY)
    left_out = []
    for epoch in range(3):
        whole = joined(list(sampler.epoch(epoch)))
        assert len(set(whole.audio.tolist())) == len(whole.audio) == n_items - n_items % batch_size
        left_out.append(frozenset(range(n_items)) - set(whole.audio.tolist()))
    assert (len(set(left_out)) > 1) == (n_items % batch_size > 0)


def test_every_draw_changes_from_epoch_to_epoch_not_only_the_order(make: Callable[..., Sampler]) -> None:
    draws = []
    for epoch in (0, 1):
        whole = joined(list(make(batch_size=999).epoch(epoch)))
        order = np.argsort(whole.audio, kind="stable")
        draws.append([getattr(whole, name)[order] for name in ("audio", "image", "prompt", "shift", "flip", "seed")])
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


def test_every_recording_of_a_capped_species_is_drawn_as_often(make: Callable[..., Sampler]) -> None:
    sampler, n_epochs = make(batch_size=999), 600
    drawn = np.concatenate([sampler.view(epoch)[1] for epoch in range(n_epochs)])
    counts = np.bincount(drawn[drawn < 30], minlength=30)
    sigma = np.sqrt(n_epochs * 1 / 3 * 2 / 3)
    assert np.abs(counts - n_epochs / 3).max() < 4.5 * sigma
    assert 0.5 * sigma < counts.std() < 1.5 * sigma  # drawn, not dealt in turn


def test_what_tops_up_a_rare_species_is_drawn_by_chance(make: Callable[..., Sampler]) -> None:
    sampler, n_epochs = make(batch_size=999, min_per_species=5), 400
    times = np.array([np.bincount(sampler.view(epoch)[1], minlength=49)[47] for epoch in range(n_epochs)])
    assert {1, 2, 3, 4} == set(times)  # of two recordings: once each, and three times more by chance
    assert abs(times.mean() - 2.5) < 4 * np.sqrt(3 / 4 / n_epochs)


def test_the_view_is_the_one_of_a_plain_loop_over_species(make: Callable[..., Sampler]) -> None:
    sampler = make(batch_size=999)
    for epoch in range(3):
        rng = np.random.default_rng([1, 1, epoch])
        pools = [list(range(FIRST[label], FIRST[label + 1])) for label in range(len(COUNTS))]
        for n in range(10):
            for pool in pools[:2]:  # the two that have more than ten
                other = n + int(rng.random() * (len(pool) - n))
                pool[n], pool[other] = pool[other], pool[n]
        expected = [pool[:10] for pool in pools]
        for label, pool in enumerate(pools):
            if pool:
                expected[label] += [pool[int(rng.random() * len(pool))] for _ in range(4 - len(pool))]
        label, audio = sampler.view(epoch)
        for species, rows in enumerate(expected):
            assert sorted(audio[label == species]) == sorted(rows)


def test_partners_are_those_of_a_plain_loop(make: Callable[..., Sampler]) -> None:
    whole = make(batch_size=999).draws(2)
    share = np.random.default_rng([1, 3, 2]).random(len(whole.label))
    first = np.cumsum([0, *(n for _, n in COUNTS)])
    pools = [range(first[label], first[label + 1]) for label in range(len(COUNTS))]
    for label, image, where in zip(whole.label, whole.image, share, strict=True):
        pool = pools[label]
        assert image == (pool[int(where * len(pool))] if len(pool) else -1)


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
    with pytest.raises(TrainError, match="walks through audio, and the train split has none; for pictures and"):
        make([(0, 3), (0, 1)])
    with pytest.raises(TrainError, match="walks through image, and the train split has none"):
        make([(3, 0)], audio_text=0.0, image_text=1.0)


def test_every_item_has_a_random_stream_of_its_own(make: Callable[..., Sampler]) -> None:
    seeds = np.concatenate([make(seed=seed).draws(epoch).seed for seed in (1, 2) for epoch in (0, 1)])
    assert seeds.dtype == np.uint64
    assert len(set(seeds.tolist())) == len(seeds) == 4 * 33
    assert 0.3 < (seeds >= 2**63).mean() < 0.7


def test_a_background_is_a_recording_of_another_species_and_every_one_gets_its_turn(
    make: Callable[..., Sampler],
) -> None:
    sampler = make(batch_size=999, augment=Augment(background=0.4))
    whole = joined([sampler.draws(epoch) for epoch in range(300)])
    chosen = whole.background >= 0
    assert abs(chosen.mean() - 0.4) < 4 * np.sqrt(0.24 / len(chosen))
    assert not (whole.background[~chosen] + 1).any()
    species = np.repeat(np.arange(len(COUNTS)), [n for n, _ in COUNTS])
    assert (species[whole.background[chosen]] != whole.label[chosen]).all()
    for label, (n_audio, _) in enumerate(COUNTS):
        found = whole.background[chosen & (whole.label == label)]
        others = np.flatnonzero(species != label)
        if n_audio:
            counts = np.bincount(found, minlength=50)[others]
            assert counts.min() > 0
            assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


def test_backgrounds_change_nothing_else(make: Callable[..., Sampler]) -> None:
    without, with_some = (make(augment=Augment(background=share)).draws(1) for share in (0.0, 0.5))
    assert (without.background == -1).all()
    assert (with_some.background >= 0).any()
    assert equal([dataclasses.replace(with_some, background=without.background)], [without])


def test_no_background_without_sound_or_without_another_species(make: Callable[..., Sampler]) -> None:
    always = Augment(background=1.0)
    whole = make(image_text=0.5, augment=always).draws(0)
    assert ((whole.background >= 0) == (whole.audio >= 0)).all()
    assert (whole.audio < 0).any()
    assert (make([(9, 1), (0, 2)], augment=always).draws(0).background == -1).all()
    pictures = make([(0, 9), (0, 2)], audio_text=0.0, image_text=1.0, augment=always).draws(0)
    assert (pictures.background == -1).all()


def test_a_background_is_never_of_the_validation_split(make_features: Callable[..., Any]) -> None:
    features = make_features([(4, 4), (3, 3), (5, 0)], n_frames=2, val=2)
    sampler = Sampler(features, Recipe(augment=Augment(background=1.0)), n_prompts=5)
    found = {row for epoch in range(20) for row in sampler.draws(epoch).background.tolist()}
    assert found == set(features.rows("audio", "train")["row"])


@pytest.mark.parametrize("batch_size", [1, 3, 9, 10, 11])
def test_no_species_comes_twice_in_a_batch(make_kin: Callable[..., Sampler], batch_size: int) -> None:
    sampler = make_kin(batch_size=batch_size, **KINDS["distinct"])
    together = Counter()
    for epoch in range(40):
        batches = list(sampler.epoch(epoch))
        assert len(batches) == sampler.steps_per_epoch
        for batch in batches:
            assert len(set(batch.label.tolist())) == len(batch.label) == batch_size
            together.update(combinations(sorted(batch.label.tolist()), 2))
    if batch_size > 1:
        assert len(together) == 12 * 11 / 2  # every two species meet


@pytest.mark.parametrize("kind", ["distinct", "family"])
def test_batches_that_were_composed_have_no_order_inside(make_kin: Callable[..., Sampler], kind: str) -> None:
    sampler = make_kin(batch_size=10, **KINDS[kind])
    for epoch in range(5):
        before = Counter(pair for batch in sampler.epoch(epoch) for pair in set(combinations(batch.label.tolist(), 2)))
        assert sum((other, one) in before for one, other in before if one < other) > 20


def test_species_without_a_recording_may_share_a_batch_without_two_of_one(make: Callable[..., Sampler]) -> None:
    sampler = make(batch_size=3, image_text=0.5, distinct_species=True, max_per_species=5)
    for batch in sampler.epoch(0):
        assert len(set(batch.label.tolist())) == 3


def test_too_few_batches_for_a_common_species_is_an_error_that_says_what_fits(make: Callable[..., Sampler]) -> None:
    message = r"species 0 is drawn 10 times an epoch, which has 8 batches; set batch_size to 3 at most"
    with pytest.raises(TrainError, match=message):
        make(batch_size=4, distinct_species=True)
    assert len(list(make(batch_size=3, distinct_species=True).epoch(0))) == 11
    with pytest.raises(
        TrainError, match="species 0 is drawn 4 times an epoch, which has 3 batches; set batch_size to 3"
    ):
        make([(4, 1)] * 3, batch_size=4, distinct_species=True)
    assert len(list(make([(4, 1)] * 3, batch_size=3, distinct_species=True).epoch(0))) == 4
    with pytest.raises(TrainError, match="1 batches"):
        make(batch_size=999, distinct_species=True)
    one_each = make(batch_size=999, distinct_species=True, min_per_species=1, max_per_species=1)
    assert [len(batch.label) for batch in one_each.epoch(0)] == [5]


def relatives(sampler: Sampler, kinship: list[int]) -> tuple[float, float]:
    """Share of the pairs in a batch that are of two species of one taxon, and of one species."""
    kin = same = n_pairs = 0
    for epoch in range(20):
        for batch in sampler.epoch(epoch):
            for one, other in combinations(batch.label.tolist(), 2):
                n_pairs += 1
                kin += kinship[one] == kinship[other] and one != other
                same += one == other
    return kin / n_pairs, same / n_pairs


@pytest.mark.parametrize(("level", "kinship"), [("genus", GENERA), ("family", FAMILIES)])
def test_hard_negatives_put_more_relatives_into_a_batch_and_no_more_of_one_species(
    make_kin: Callable[..., Sampler], level: str, kinship: list[int]
) -> None:
    usual, usual_same = relatives(make_kin(), kinship)
    hard, hard_same = relatives(make_kin(hard_negatives=level, hard_group=4), kinship)
    assert hard > 1.25 * usual
    assert hard_same < usual_same


@pytest.mark.parametrize("level", ["genus", "family"])
def test_relatives_come_in_piles_of_different_species(make: Callable[..., Sampler], level: str) -> None:
    alone = [-1 - n for n in range(100)]
    lineage = [[0, 0, 0, 0, *alone]] if level == "genus" else [list(range(104)), [0, 0, 0, 0, *alone]]
    sampler = make([(6, 1)] * 4 + [(4, 1)] * 100, lineage=lineage, hard_negatives=level, hard_group=3)
    for epoch in range(5):
        label = sampler.view(epoch)[0]
        places = np.flatnonzero(label < 4)  # 24 draws of four relatives among 400 others: eight piles
        piles = places.reshape(8, 3)
        assert (np.diff(piles, axis=1) == 1).all()
        assert all(len(set(label[pile])) == 3 for pile in piles)
        assert (np.diff(piles[:, 0]) > 3).sum() > 4  # and the piles lie apart


def test_a_genus_with_one_common_species_shares_what_relatives_it_has(make: Callable[..., Sampler]) -> None:
    alone = [-1 - n for n in range(100)]
    sampler = make([(10, 1), (4, 1)] + [(4, 1)] * 100, lineage=[[0, 0, *alone]], hard_negatives="genus")
    label = sampler.view(0)[0]
    assert Counter(label.tolist())[0] == 10
    for place in np.flatnonzero(label == 1):  # each of the four beside another of the ten
        assert 0 in label[max(0, place - 1) : place + 2]


def test_species_that_lack_a_rank_have_no_relatives_in_it(make: Callable[..., Sampler]) -> None:
    alone = [[-1 - n for n in range(len(COUNTS))]]
    usual = relatives(make(lineage=alone), [0] * len(COUNTS))
    lonely = relatives(make(lineage=alone, hard_negatives="genus"), [0] * len(COUNTS))
    assert lonely == pytest.approx(usual, abs=0.03)


def test_an_epoch_takes_memory_for_its_draws_and_one_number_an_item(make_features: Callable[..., Any]) -> None:
    features = make_features([(1, 1)], n_frames=1)
    n_species, n_each = 500, 400
    label = np.repeat(np.arange(n_species), n_each)
    media = pl.DataFrame({"label": label, "row": np.arange(len(label)), "modality": "audio", "split": "train"})
    species = [f"species {n}" for n in range(n_species)]
    features = dataclasses.replace(features, media=media, species=species, lineage=np.empty((n_species, 1), int))
    sampler = Sampler(features, Recipe(batch_size=64), n_prompts=5)
    tracemalloc.start()
    n_bytes = sum(getattr(sampler.draws(0), field.name).nbytes for field in dataclasses.fields(Batch))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_bytes == sampler.n_draws * 57
    assert peak < 8 * len(label) + 4 * n_bytes
