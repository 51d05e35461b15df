"""Sounds and pictures: sound values, variation among individuals, likeness among relatives."""

from collections.abc import Callable

import numpy as np
import pytest

from biovita.world.look import draw
from biovita.world.tree import HABITATS, PLANS, Habitat, Species, make_tree
from biovita.world.voice import GEAR, Gear, Place, render

TREE = make_tree(90, 1)
NEAR = 0.1


def place_of(species: Species) -> Place:
    return Place(habitat=species.habitat, is_night=False, vigour=0.0)


def first_of(plan: str) -> Species:
    return TREE.species(int(np.flatnonzero(TREE.plans() == PLANS.index(plan))[0]))


@pytest.mark.parametrize("gear", GEAR, ids=lambda gear: gear.name)
@pytest.mark.parametrize("plan", PLANS)
def test_a_recording_is_finite_and_fits_its_gear(plan: str, gear: Gear) -> None:
    wave = render(first_of(plan), place_of(first_of(plan)), gear, 0.5, np.random.default_rng(0))
    assert wave.dtype == np.float32
    assert wave.shape[1:] == ((2,) if gear.n_channels == 2 else ())
    assert 2.0 <= len(wave) / gear.sample_rate_hz <= 5.0
    assert np.isfinite(wave).all()
    assert 0.1 < np.abs(wave).max() <= 1.0


@pytest.mark.parametrize("habitat", HABITATS)
@pytest.mark.parametrize("is_night", [False, True])
def test_every_habitat_can_be_heard_and_seen(habitat: Habitat, is_night: bool) -> None:
    place = Place(habitat=habitat, is_night=is_night, vigour=1.0)
    wave = render(TREE.species(0), place, GEAR[0], 1.0, np.random.default_rng(0))
    assert np.isfinite(wave).all()
    assert np.asarray(draw(TREE.species(0), place, np.random.default_rng(0))).std() > 10


def test_all_characters_at_their_ends_still_sing_and_show() -> None:
    for plan in PLANS:
        own = first_of(plan)
        for end in (1e-6, 1 - 1e-6):
            changed = {name: end for name, value in vars(own).items() if isinstance(value, float)}
            extreme = type(own)(**(vars(own) | changed))
            wave = render(extreme, place_of(own), GEAR[3], 1.0, np.random.default_rng(1))
            assert np.isfinite(wave).all()
            draw(extreme, place_of(own), np.random.default_rng(1))


def test_a_picture_has_the_promised_size_and_repeats_itself() -> None:
    for seed in range(12):
        one, two = (draw(TREE.species(seed), place_of(TREE.species(seed)), np.random.default_rng(seed)) for _ in "ab")
        assert one.mode == "RGB"
        assert 288 <= max(one.size) <= 384
        assert min(one.size) >= 160
        assert one.tobytes() == two.tobytes()


def test_individuals_differ() -> None:
    own = TREE.species(0)
    waves = [render(own, place_of(own), GEAR[0], NEAR, np.random.default_rng(seed))[:96000] for seed in (1, 2)]
    assert not np.array_equal(*waves)
    pictures = [draw(own, place_of(own), np.random.default_rng(seed)).tobytes() for seed in (1, 2)]
    assert pictures[0] != pictures[1]


def heard(species: Species, rng: np.random.Generator) -> np.ndarray:
    """Spectrum in 40 bands, in decibels above the background."""
    wave = render(species, place_of(species), GEAR[0], NEAR, rng)
    frames = np.lib.stride_tricks.sliding_window_view(wave, 1024)[::512] * np.hanning(1024)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    bands = np.add.reduceat(power, np.unique(np.geomspace(2, 400, 48).astype(int)), axis=1)
    level = 10 * np.log10(bands + 1e-9)
    return (level - np.median(level, axis=0)).clip(0).mean(axis=0)


def seen(species: Species, rng: np.random.Generator) -> np.ndarray:
    """The middle of the picture in 8 x 8 colours, made symmetrical."""
    picture = draw(species, place_of(species), rng)
    left, top = picture.width // 4, picture.height // 4
    small = np.asarray(picture.crop((left, top, 3 * left, 3 * top)).resize((8, 8)), float)
    return np.concatenate([(small + small[:, ::-1]).ravel(), np.asarray(picture.resize((6, 6)), float).ravel()])


@pytest.mark.parametrize("sense", [heard, seen])
def test_relatives_sound_and_look_alike(sense: Callable[[Species, np.random.Generator], np.ndarray]) -> None:
    n_each = 2
    own = np.repeat(np.arange(TREE.n_species), n_each)
    value = np.array([sense(TREE.species(int(s)), np.random.default_rng([i])) for i, s in enumerate(own)])
    value = (value - value.mean(axis=0)) / value.std(axis=0)
    value /= np.linalg.norm(value, axis=1, keepdims=True)
    first, second = np.triu_indices(len(own), 1)
    nodes = [TREE.ancestors(rank)[own] for rank in ("class", "family", "species")]
    shared = sum((node[first] == node[second]).astype(int) for node in nodes)
    score = (value @ value.T)[first, second]
    steps = [float(score[shared == k].mean()) for k in range(4)]
    assert steps == sorted(steps)
    assert steps[3] > steps[0] + 0.2
