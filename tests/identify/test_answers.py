"""Vectors to answers: ranking, ranks above species, calibration, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biovita.errors import ConfigError, ModelError
from biovita.identify.answer import WINDOW, Answer, Identifier
from biovita.identify.calibrate import FILE, TRAINED, Calibration, read_calibration, write_calibration
from biovita.identify.labels import Labels
from biovita.models.encoder import Encoder
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.taxon import Taxon

GENERA = {"Turdus": ("Aves", "Turdidae"), "Parus": ("Aves", "Paridae"), "Rana": ("Amphibia", "Ranidae")}
NAMES = ("Turdus merula", "Turdus pilaris", "Parus major", "Rana temporaria", "Rana arvalis", "Ignota avis")


def taxa() -> list[Taxon]:
    found = []
    for name in NAMES:
        class_, family = GENERA.get(name.split()[0], ("Aves", ""))
        found.append(
            Taxon(
                kingdom="Animalia",
                class_=class_,
                family=family,
                genus=name.split()[0] if family else "",
                species=name,
                common_name=f"the {name.split()[1]}",
            )
        )
    return found


@pytest.fixture
def labels(encoder: Encoder) -> Labels:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(len(NAMES), encoder.model.config.width)).astype(np.float32)
    return Labels(taxa(), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture
def calibration(encoder: Encoder) -> Calibration:
    weights = {"audio": 8.0, "image": 6.0}
    return Calibration(
        weights_sha256=encoder.weights_sha256,
        preprocess=encoder.fingerprint(WINDOW),
        weights={
            "audio": {"audio": 8.0, TRAINED: 0.0},
            "image": {"image": 6.0, TRAINED: -1.0},
            "audio+image": {**weights, TRAINED: -0.5},
        },
        trained=[*NAMES[:3]],
    )


@pytest.fixture
def queries(labels: Labels) -> np.ndarray:
    rng = np.random.default_rng(2)
    vectors = labels.vectors[[0, 3, 5]] + 0.05 * rng.normal(size=(3, labels.vectors.shape[1])).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_species_are_ranked_as_by_a_plain_loop(encoder: Encoder, labels: Labels, queries: np.ndarray) -> None:
    for vector, answer in zip(queries, Identifier(encoder, labels).answers(queries, "audio", k=4), strict=True):
        scores = {taxon.species: float(vector @ own) for taxon, own in zip(labels.taxa, labels.vectors, strict=True)}
        plain = sorted(NAMES, key=lambda name: -scores[name])[:4]
        assert [one.name for one in answer.taxa] == plain
        assert [one.score for one in answer.taxa] == pytest.approx([scores[name] for name in plain], abs=1e-6)
        assert answer.taxa[0].common_name == f"the {plain[0].split()[1]}"


@pytest.mark.parametrize("rank", RANKS)
def test_a_list_shorter_than_k_gives_all_of_it_at_any_rank(
    encoder: Encoder, labels: Labels, queries: np.ndarray, calibration: Calibration, rank: Any
) -> None:
    known = {taxon.at(rank) for taxon in labels.taxa} - {""}
    for one in (None, calibration):
        for answer in Identifier(encoder, labels, calibration=one).answers(queries, "image", k=1000, rank=rank):
            assert {found.name for found in answer.taxa} == known
            assert {found.rank for found in answer.taxa} <= {rank}
            assert all("" not in found.lineage.values() for found in answer.taxa)


def test_a_taxon_scores_as_its_best_species_and_is_as_probable_as_all_of_them(
    encoder: Encoder, labels: Labels, queries: np.ndarray, calibration: Calibration
) -> None:
    identifier = Identifier(encoder, labels, calibration=calibration)
    species = identifier.answers(queries, "audio", k=9)
    for answer, of in zip(identifier.answers(queries, "audio", k=9, rank="genus"), species, strict=True):
        for genus in answer.taxa:
            own = [one for one in of.taxa if one.lineage.get("genus") == genus.name]
            assert genus.score == max(one.score for one in own)
            assert genus.prob == pytest.approx(sum(one.prob or 0.0 for one in own))
        assert sum(one.prob or 0.0 for one in of.taxa) == pytest.approx(1)
        probs = [one.prob for one in answer.taxa]
        assert probs == sorted(probs, reverse=True)  # pyright: ignore[reportArgumentType]


def test_without_calibration_there_is_no_probability_and_nothing_is_sure(
    encoder: Encoder, labels: Labels, queries: np.ndarray, calibration: Calibration
) -> None:
    part = replace(calibration, weights={"image": calibration.weights["image"]})
    for one in (None, part):  # none at all, and none for this modality
        for answer in Identifier(encoder, labels, calibration=one).answers(queries, "audio", confidence=0.01):
            assert answer.sure is None
            assert {found.prob for found in answer.taxa} == {None}


@pytest.mark.parametrize("k", [1, 2, 5, 6, 9])
def test_equal_scores_keep_the_order_of_the_list(
    encoder: Encoder, labels: Labels, calibration: Calibration, k: int
) -> None:
    same = Labels(labels.taxa, np.repeat(labels.vectors[:1], len(labels), axis=0))
    for one in (None, replace(calibration, trained=[])):
        (answer,) = Identifier(encoder, same, calibration=one).answers(labels.vectors[1:2], "audio", k=k)
        assert [found.name for found in answer.taxa] == list(NAMES[:k])


def test_what_is_below_the_least_score_is_left_out(
    encoder: Encoder, labels: Labels, queries: np.ndarray, calibration: Calibration
) -> None:
    identifier = Identifier(encoder, labels, calibration=calibration)
    first = identifier.answers(queries, "audio", k=9, confidence=0.5)
    border = np.median([one.score for answer in first for one in answer.taxa])
    for answer, part in zip(first, identifier.answers(queries, "audio", k=9, min_score=float(border)), strict=True):
        assert part.taxa == [one for one in answer.taxa if one.score >= border]
    assert identifier.answers(queries, "audio", min_score=1.1, confidence=0.01) == [Answer(taxa=[], sure=None)] * 3


def test_an_answer_does_not_depend_on_the_others_of_its_block(
    encoder: Encoder, labels: Labels, queries: np.ndarray, calibration: Calibration
) -> None:
    identifier = Identifier(encoder, labels, calibration=calibration)
    many = identifier.answers(np.tile(queries, (100, 1)), "audio")
    assert len(many) == 300
    assert identifier.answers(queries[:0], "audio") == []
    for one, other in zip(many, identifier.answers(queries, "audio") * 100, strict=True):
        assert [found.name for found in one.taxa] == [found.name for found in other.taxa]
        assert one.taxa[0].prob == pytest.approx(other.taxa[0].prob, rel=1e-5)


def test_together_is_the_log_linear_pool_of_mean_scores(
    encoder: Encoder, labels: Labels, queries: np.ndarray, calibration: Calibration
) -> None:
    identifier = Identifier(encoder, labels, calibration=calibration)
    sounds, photos = queries[:2], queries[1:]
    found = identifier.together({"audio": sounds, "image": photos}, k=9)
    odds = {}
    for taxon, label in zip(labels.taxa, labels.vectors, strict=True):
        sound, photo = np.mean([row @ label for row in sounds]), np.mean([row @ label for row in photos])
        odds[taxon.species] = np.exp(8 * sound + 6 * photo - 0.5 * (taxon.species in NAMES[:3]))
    for one in found.taxa:
        assert one.prob == pytest.approx(odds[one.name] / sum(odds.values()), rel=1e-4)
    alone = identifier.together({"audio": sounds[:1], "image": photos[:0]}, k=9)
    assert [one.name for one in alone.taxa] == [
        one.name for one in identifier.answers(sounds[:1], "audio", k=9)[0].taxa
    ]
    with pytest.raises(ConfigError, match="no picture and no recording"):
        identifier.together({"audio": sounds[:0]})


def test_a_calibration_comes_back_from_its_file(calibration: Calibration, tmp_path: Path) -> None:
    whole = replace(calibration, centre={"audio": [0.5, -0.25]}, reach={"audio": 0.5}, fitted_on={"run": {"seed": 1}})
    write_calibration(tmp_path, whole)
    assert read_calibration(tmp_path) == whole
    assert read_calibration(tmp_path / "nowhere") is None
    assert read_calibration(None) is None


@pytest.mark.parametrize("content", ["{}", '{"schema": 99}', '{"schema": 1, "surprise": 2}', "[1]", "no json"])
def test_a_damaged_calibration_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(Exception, match=FILE) as caught:
        read_calibration(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["weights_sha256", "preprocess"])
def test_a_calibration_of_another_model_or_preprocessing_is_refused(
    encoder: Encoder, labels: Labels, calibration: Calibration, what: str
) -> None:
    other = replace(calibration, **{what: "other"})
    with pytest.raises(ModelError, match="run `biovita model calibrate` again"):
        Identifier(encoder, labels, calibration=other)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"confidence": 0.0}, {"confidence": 1.5}, {"rank": "tribe"}])
def test_what_cannot_be_asked_is_refused(
    encoder: Encoder, labels: Labels, queries: np.ndarray, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Identifier(encoder, labels).answers(queries, "audio", **wrong)


def test_facts_tell_two_lists_and_two_calibrations_apart(
    encoder: Encoder, labels: Labels, calibration: Calibration
) -> None:
    plain = Identifier(encoder, labels).facts
    part = Identifier(encoder, labels.only(np.arange(3))).facts
    marked = Identifier(encoder, replace(labels, expected=np.arange(len(labels)) < 2)).facts
    assert plain["weights_sha256"] == encoder.weights_sha256
    assert len({plain["labels"], part["labels"], marked["labels"]}) == 3
    hotter = replace(calibration, weights={"audio": {"audio": 9.0, TRAINED: 0.0}})
    hashes = {Identifier(encoder, labels, calibration=one).facts["calibration"] for one in (None, calibration, hotter)}
    assert len(hashes) == 3


def test_what_is_expected_is_marked_at_every_rank(encoder: Encoder, labels: Labels, queries: np.ndarray) -> None:
    marked = replace(labels, expected=np.array([name == "Rana arvalis" for name in NAMES]))
    for answer in Identifier(encoder, marked).answers(queries, "audio", k=9):
        assert [one.name for one in answer.taxa if one.expected] == ["Rana arvalis"]
    for answer in Identifier(encoder, marked).answers(queries, "audio", k=9, rank="genus"):
        assert [one.name for one in answer.taxa if one.expected] == ["Rana"]
    assert Identifier(encoder, labels).answers(queries, "audio")[0].taxa[0].expected is None
