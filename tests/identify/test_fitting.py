"""Weights by maximum likelihood, against plain searches and known truths; pairs of sounds and photos."""

import numpy as np
import pytest

from biovita.identify.calibrate import TRAINED, log_linear, softmax
from biovita.identify.fitting import calibration_error, errors_of, fit, fit_weights
from biovita.identify.fusion import BOTH, FEWEST_PAIRS, Sample, mean_scores, samples_of

N_SPECIES, WIDTH = 30, 16


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def drawn(rng: np.random.Generator, probs: np.ndarray) -> np.ndarray:
    """Draw the truth from what is stated, so that the statement is right."""
    return np.array([rng.choice(len(row), p=row) for row in probs])


def test_one_temperature_equals_a_plain_search() -> None:
    rng = np.random.default_rng(1)
    scores = rng.uniform(-1, 1, (60, 7))
    truth = drawn(rng, softmax(4.0 * scores))
    counts = rng.uniform(0.5, 2, 60)

    def loss(weight: float) -> float:
        total = 0.0
        for row, true, count in zip(scores, truth, counts, strict=True):
            odds = [np.exp(weight * score) for score in row]
            total -= count * np.log(odds[true] / sum(odds))
        return total

    (found,) = fit_weights([scores], truth, counts)
    plain = min(np.arange(0, 12, 0.005), key=loss)
    assert found == pytest.approx(plain, abs=0.01)


def test_two_weights_and_an_offset_are_found_again() -> None:
    rng = np.random.default_rng(2)
    sound, photo = rng.normal(size=(2, 6000, 12))
    offset = np.arange(12) % 2.0
    truth = drawn(rng, softmax(1.5 * sound + 0.6 * photo - 0.8 * offset))
    found = fit_weights([sound, photo, offset], truth, np.ones(len(truth)))
    np.testing.assert_allclose(found, [1.5, 0.6, -0.8], atol=0.1)


def test_files_that_are_all_named_right_give_finite_weights() -> None:
    scores = np.eye(5)
    (found,) = fit_weights([scores], np.arange(5), np.ones(5))
    assert np.isfinite(found)
    assert softmax(found * scores).max(1).min() > 0.99


def test_a_modality_that_tells_nothing_or_the_opposite_gets_weight_zero() -> None:
    rng = np.random.default_rng(3)
    labels = unit(rng, N_SPECIES, WIDTH)
    truth = np.arange(N_SPECIES)
    sample = Sample(vectors={"audio": -labels, "image": labels}, truth=truth)
    weights = fit({BOTH: sample}, labels, np.ones(N_SPECIES, bool))[BOTH]
    assert weights["audio"] == 0.0
    assert weights["image"] > 1.0
    assert weights[TRAINED] == 0.0  # nothing without training to compare with
    wrong = fit({"audio": Sample(vectors={"audio": -labels}, truth=truth)}, labels, np.ones(N_SPECIES, bool))
    assert wrong == {"audio": {"audio": 0.0, TRAINED: 0.0}}


def test_the_offset_tells_how_much_a_model_prefers_what_it_was_trained_on_not_how_many_files_there_are() -> None:
    rng = np.random.default_rng(4)
    labels = unit(rng, N_SPECIES, WIDTH)
    is_trained = np.arange(N_SPECIES) < 20
    own = drawn(rng, np.full((4000, N_SPECIES), 1 / N_SPECIES))
    vectors = labels[own] + rng.normal(scale=0.4, size=(4000, WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    fair = fit({"audio": Sample(vectors={"audio": vectors}, truth=own)}, labels, is_trained)["audio"]
    few = ~is_trained[own] | (np.arange(4000) % 10 == 0)  # a tenth of the files of trained species
    part = fit({"audio": Sample(vectors={"audio": vectors[few]}, truth=own[few])}, labels, is_trained)["audio"]
    assert fair[TRAINED] == pytest.approx(0, abs=0.15)
    assert part[TRAINED] == pytest.approx(fair[TRAINED], abs=0.3)


def test_probabilities_sum_to_one_and_fusion_equals_a_plain_product() -> None:
    rng = np.random.default_rng(5)
    scores = {"audio": rng.normal(size=(4, 6)).astype(np.float32), "image": rng.normal(size=(4, 6)).astype(np.float32)}
    is_trained = np.array([True, False] * 3)
    weights = {"audio": 3.0, "image": 2.0, TRAINED: -0.5}
    found = log_linear(weights, scores, is_trained)
    np.testing.assert_allclose(found.sum(1), 1)
    for row in range(4):
        odds = [
            np.exp(3.0 * float(scores["audio"][row, n]))
            * np.exp(2.0 * float(scores["image"][row, n]))
            * (0.6065306597126334 if is_trained[n] else 1)
            for n in range(6)
        ]
        np.testing.assert_allclose(found[row], np.array(odds) / sum(odds), rtol=1e-6)


def test_several_files_of_one_animal_count_by_their_mean_score() -> None:
    rng = np.random.default_rng(6)
    vectors, labels = unit(rng, 3, WIDTH), unit(rng, 5, WIDTH)
    plain = [sum(float(vector @ label) for vector in vectors) / 3 for label in labels]
    np.testing.assert_allclose(mean_scores(vectors, labels), plain, rtol=1e-5)


def test_the_calibration_error_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(7)
    probs = softmax(3 * rng.normal(size=(200, 4)))
    truth = rng.integers(0, 4, 200)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, true in zip(probs, truth, strict=True):
        bins.setdefault(min(int(row.max() * 10), 9), []).append((row.max(), row.argmax() == true))
    plain = sum(
        len(rows) / 200 * abs(np.mean([p for p, _ in rows]) - np.mean([r for _, r in rows])) for rows in bins.values()
    )
    assert calibration_error(probs, truth) == pytest.approx(plain)


def test_fitting_lowers_the_calibration_error_on_species_that_it_did_not_see() -> None:
    rng = np.random.default_rng(8)
    labels = unit(rng, N_SPECIES, WIDTH)
    truth = rng.integers(0, N_SPECIES, 600)
    vectors = labels[truth] + rng.normal(scale=0.5, size=(600, WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    sample = Sample(vectors={"image": vectors}, truth=truth)
    errors = errors_of({"image": sample}, labels, np.arange(N_SPECIES) < 20, 100.0)
    assert {key: error["n"] for key, error in errors.items()} == {
        "image, seen": int((truth < 20).sum()),
        "image, unseen": int((truth >= 20).sum()),
    }
    for error in errors.values():
        assert error["after"] < 0.5 * error["before"]


def test_sounds_and_photos_are_paired_by_animal_or_else_by_species() -> None:
    vectors = np.eye(8, dtype=np.float32)
    kinds = ["audio", "image", "image", "audio", "audio", "image", "audio", "image"]
    truth = [0, 0, 0, 1, 1, 1, 2, 3]
    animals = ["a", "a", "a", "b", None, "c", "d", "e"]
    by_species = samples_of(vectors, kinds, truth, animals)
    assert {key: len(sample.truth) for key, sample in by_species.items()} == {"audio": 4, "image": 4, BOTH: 2}
    assert (by_species[BOTH].paired_by, by_species[BOTH].truth.tolist()) == ("species", [0, 1])
    many = FEWEST_PAIRS
    by_animal = samples_of(
        np.tile(vectors, (many, 1)),
        kinds * many,
        truth * many,
        [f"{animal}{n}" if animal else None for n in range(many) for animal in animals],
    )[BOTH]
    assert (by_animal.paired_by, by_animal.truth.tolist()) == ("individual", [0] * many)
    np.testing.assert_array_equal(by_animal.vectors["image"][0], (vectors[1] + vectors[2]) / 2)
    np.testing.assert_array_equal(by_animal.vectors["audio"][0], vectors[0])
    assert BOTH not in samples_of(vectors[:1], kinds[:1], truth[:1], animals[:1])
