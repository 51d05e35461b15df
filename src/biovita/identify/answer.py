"""Vectors to answers: ranked taxa with scores and, where the model is calibrated, probabilities and back-off."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from biovita.errors import ConfigError
from biovita.identify.back_off import Tree, deepest
from biovita.identify.calibrate import Calibration
from biovita.identify.fusion import mean_scores
from biovita.identify.labels import Labels
from biovita.models.encoder import Encoder, Window
from biovita.taxonomy.rank import RANKS, Rank

WINDOW: Window = "windows"  # what stands for a recording wherever animals are named
BLOCK = 256  # vectors that are ranked in one go, so that memory does not grow with their number


@dataclass(frozen=True, kw_only=True)
class Named:
    """One taxon of an answer.

    Attributes:
        rank: of the taxon.
        name: scientific, at that rank.
        common_name: of a species; empty where there is none, and for higher ranks.
        lineage: the names from kingdom down to `rank`; ranks that are not known are left out.
        score: cosine of its best species, in [-1, 1]; of several files their mean; on that scale where the user's
            examples stand for a species.
        prob: calibrated probability in [0, 1] that the animal is of this taxon, if it is on the list at all; None
            where the model is not calibrated.
        expected: whether one of its species is on the list of what lives here and now; None without such a list.
    """

    rank: Rank
    name: str
    common_name: str
    lineage: dict[str, str]
    score: float
    prob: float | None
    expected: bool | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one picture, recording or window is.

    Attributes:
        taxa: the best taxa at the asked rank, best first.
        sure: the deepest taxon that reaches the asked confidence; None: unknown, or the model is not calibrated.
    """

    taxa: list[Named]
    sure: Named | None


class Identifier:
    """Names animals from a fixed list of species.

    Attributes:
        facts: where every answer comes from: model, weights, preprocessing, and hashes of labels and calibration.
    """

    def __init__(self, encoder: Encoder, labels: Labels, *, calibration: Calibration | None = None) -> None:
        if calibration:
            calibration.check(encoder.name, encoder.weights_sha256, encoder.fingerprint(WINDOW))
        self.encoder, self.labels, self.calibration = encoder, labels, calibration
        self._tree = Tree(labels.taxa)
        self._is_trained = calibration.is_trained(labels.taxa) if calibration else np.zeros(len(labels), bool)
        listed = None if labels.expected is None else labels.expected[None]
        self._is_expected = {r: None if listed is None else self._tree.best(r, listed)[0] for r in RANKS}
        self.facts: dict[str, str | None] = {
            "model": encoder.name,
            "weights_sha256": encoder.weights_sha256,
            "preprocess": encoder.fingerprint(WINDOW),
            "labels": labels.sha256(),
            "calibration": calibration.sha256() if calibration else None,
        }

    def answers(
        self,
        vectors: np.ndarray,
        modality: str,
        *,
        k: int = 5,
        rank: Rank = "species",
        confidence: float = 0.8,
        min_score: float | None = None,
    ) -> list[Answer]:
        """Name each of many pictures, recordings or windows.

        Args:
            vectors: float32, shape (n, width), unit rows.
            modality: audio or image, of all of them.
            k: most taxa in an answer; a list that is shorter gives all of it.
            rank: of the taxa.
            confidence: in (0, 1], asked of `Answer.sure`.
            min_score: taxa below it are left out.

        Returns:
            one answer a vector. Equal taxa keep the order of the list.
        """
        labels = self.labels.of(modality)
        found = []
        for start in range(0, len(vectors), BLOCK):
            scores = {modality: vectors[start : start + BLOCK].astype(np.float32, copy=False) @ labels.T}
            found += self._answers(scores, k=k, rank=rank, confidence=confidence, min_score=min_score)
        return found

    def together(
        self,
        vectors: Mapping[str, np.ndarray],
        *,
        k: int = 5,
        rank: Rank = "species",
        confidence: float = 0.8,
        min_score: float | None = None,
    ) -> Answer:
        """Name one animal from all its pictures and recordings.

        Args:
            vectors: by modality, each of shape (n files, width).
            k: as for `answers`, and so are the others.
            rank: of the taxa.
            confidence: asked of `Answer.sure`.
            min_score: taxa below it are left out.

        Raises:
            ConfigError: there are no vectors.
        """
        scores = {m: mean_scores(rows, self.labels.of(m))[None] for m, rows in vectors.items() if len(rows)}
        if not scores:
            raise ConfigError("no picture and no recording to name together; give at least one")
        return self._answers(scores, k=k, rank=rank, confidence=confidence, min_score=min_score)[0]

    def _answers(
        self, scores: Mapping[str, np.ndarray], *, k: int, rank: Rank, confidence: float, min_score: float | None
    ) -> list[Answer]:
        """Rank the taxa of each row; `scores` has (n, species) for each modality that there is."""
        if k < 1:
            raise ConfigError(f"k {k}: give at least 1")
        if not 0 < confidence <= 1:
            raise ConfigError(f"confidence {confidence}: give more than 0 and at most 1")
        if rank not in RANKS:
            raise ConfigError(f"rank '{rank}': give one of {', '.join(RANKS)}")
        score = np.stack([*scores.values()]).mean(0, dtype=np.float32)
        probs = self.calibration.probabilities(scores, self._is_trained) if self.calibration else None
        best = self._tree.best(rank, score)
        ranked_by = best if probs is None else self._tree.sums(rank, probs)
        sure = [None] * len(score) if probs is None else self._sure(score, probs, confidence)
        found = []
        for row in range(len(score)):
            ranked = _first(k, ranked_by[row], best[row], min_score)
            prob = None if probs is None else ranked_by[row]
            taxa = [self._named(rank, n, best[row, n], None if prob is None else prob[n]) for n in ranked]
            at = sure[row]
            found.append(Answer(taxa=taxa, sure=at if at and (min_score is None or at.score >= min_score) else None))
        return found

    def _sure(self, score: np.ndarray, probs: np.ndarray, confidence: float) -> list[Named | None]:
        """Describe the deepest taxon of each row that is sure enough."""
        found = []
        for row, place in enumerate(deepest(self._tree, probs, confidence)):
            if place is None:
                found.append(None)
                continue
            rank, n = place
            one = slice(row, row + 1)
            best, total = self._tree.best(rank, score[one])[0, n], self._tree.sums(rank, probs[one])[0, n]
            found.append(self._named(rank, n, best, total))
        return found

    def _named(self, rank: Rank, n: int, score: float, prob: float | None) -> Named:
        taxon = self.labels.taxa[self._tree.first[rank][n]]
        above = RANKS[: RANKS.index(rank) + 1]
        is_expected = self._is_expected[rank]
        return Named(
            rank=rank,
            name=taxon.at(rank),
            common_name=taxon.common_name if rank == "species" else "",
            lineage={r: taxon.at(r) for r in above if taxon.at(r)},
            score=float(score),
            prob=None if prob is None else float(prob),
            expected=None if is_expected is None else bool(is_expected[n]),
        )


def _first(k: int, ranked_by: np.ndarray, best: np.ndarray, min_score: float | None) -> np.ndarray:
    """Find the best taxa of one row, of equal ones the better-scored and then the earlier; without sorting all."""
    some = np.arange(len(best)) if min_score is None else np.flatnonzero(best >= min_score)
    if len(some) > k:
        least = np.partition(ranked_by[some], len(some) - k)[len(some) - k]
        some = some[ranked_by[some] >= least]
    return some[np.lexsort((-best[some], -ranked_by[some]))][:k]
