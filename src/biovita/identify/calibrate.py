"""Scores to probabilities: a temperature for each modality and an offset for species that the model was trained on.

The logit of a species is `sum of weight x score over the modalities + offset if trained on`; a softmax over the list
gives probabilities (`identify.fitting` finds the weights).

Source:
    Guo et al. 2017, On Calibration of Modern Neural Networks (temperature scaling); Chao et al. 2016, An Empirical
    Study and Analysis of Generalized Zero-Shot Learning (calibrated stacking: the offset).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from biovita.errors import ModelError
from biovita.files import read_json, sha256_json, write_json
from biovita.identify.examples import Part
from biovita.identify.fusion import key_of
from biovita.taxonomy.taxon import Taxon

FILE = "calibration.json"
SCHEMA_VERSION = 1
TRAINED = "trained"  # the weight that is added for species that the model was trained on


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How scores of one model become probabilities; `calibration.json` in its folder.

    Attributes:
        weights_sha256: of the model.
        preprocess: of the vectors that it was fitted on.
        weights: for `audio`, `image` and `audio+image` the factor of each modality's score and the offset `trained`.
        trained: the species that the model was trained on.
        centre: by modality, the mean vector of the files that it was fitted on.
        reach: by modality, the length of an example among names; see `identify.examples`.
        fitted_on: what it was fitted on, for people: data, species, counts, calibration error before and after.
    """

    weights_sha256: str
    preprocess: str
    weights: dict[str, dict[str, float]]
    trained: list[str]
    centre: dict[str, list[float]] = field(default_factory=dict)
    reach: dict[str, float] = field(default_factory=dict)
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, weights_sha256: str, preprocess: str) -> None:
        """Refuse a model that this was not fitted for.

        Raises:
            ModelError: other weights or another preprocessing.
        """
        for what, ours, theirs in (
            ("weights", self.weights_sha256, weights_sha256),
            ("preprocessing", self.preprocess, preprocess),
        ):
            if ours != theirs:
                raise ModelError(
                    f"{name}: {FILE} is for other {what} ({ours[:40]}, not {theirs[:40]}); "
                    "run `biovita model calibrate` again, or remove the file"
                )

    def is_trained(self, taxa: Sequence[Taxon]) -> np.ndarray:
        """Tell which species the model was trained on: bool, shape (species,)."""
        trained = set(self.trained)
        return np.array([taxon.species in trained for taxon in taxa], bool)

    def probabilities(self, scores: Mapping[str, np.ndarray], is_trained: np.ndarray) -> np.ndarray | None:
        """Turn the scores of species into probabilities.

        Args:
            scores: by modality, each of shape (n, species).
            is_trained: shape (species,).

        Returns:
            float64, shape (n, species), rows that sum to one; None where it was not fitted for these modalities.
        """
        weights = self.weights.get(key_of(scores))
        return None if weights is None else log_linear(weights, scores, is_trained)

    @property
    def parts(self) -> dict[str, Part]:
        """Where the files of each modality lie."""
        return {m: Part(centre=np.array(at, np.float32), reach=self.reach[m]) for m, at in self.centre.items()}

    def sha256(self) -> str:
        """Hash all that probabilities depend on."""
        return sha256_json([self.weights_sha256, self.preprocess, self.weights, sorted(self.trained)])


def log_linear(weights: Mapping[str, float], scores: Mapping[str, np.ndarray], is_trained: np.ndarray) -> np.ndarray:
    """Turn the scores of species, (n, species) for each modality, into probabilities."""
    return softmax(sum(np.float64(weights[m]) * values for m, values in scores.items()) + weights[TRAINED] * is_trained)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn each row of logits into probabilities."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write `calibration.json` into a model folder."""
    write_json(folder / FILE, {"schema": SCHEMA_VERSION, **asdict(calibration)})


def read_calibration(folder: Path | None) -> Calibration | None:
    """Read a model folder's calibration; None where it has none.

    Raises:
        ModelError: the file is damaged or of another version.
    """
    path = folder / FILE if folder else None
    if path is None or not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("schema", None) != SCHEMA_VERSION:
        raise ModelError(f"{path}: not a calibration of version {SCHEMA_VERSION}; run `biovita model calibrate` again")
    try:
        return Calibration(**value)
    except TypeError as error:
        raise ModelError(f"{path}: {error}; run `biovita model calibrate` again") from None
