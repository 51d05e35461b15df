"""What the benchmark asks: 6 directions x 3 levels x seen and unseen, and one such task in memory.

A new direction, level or split is a value in a tuple here; files, tables and loops follow.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

Direction = Literal["a2t", "t2a", "a2i", "i2a", "i2t", "t2i"]
Level = Literal["species", "genus", "family"]
Modality = Literal["audio", "image", "text"]
Ties = Literal["against", "order"]
Missing = Literal["error", "skip", "zero"]
Protocol = Literal["any", "other-species"]
Distractors = Literal["uniform", "hard"]
Balance = Literal["none", "class"]

DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
SPLITS: Final = ("seen", "unseen")
_BY_LETTER: Final[dict[str, Modality]] = {name[0]: name for name in MODALITIES}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What may differ between two benchmarks of one dataset; the defaults are those of the release.

    Attributes:
        protocol: at genus and family level, `any` species of the taxon is a match, the query's own among them; with
            `other-species` its own is not, so a taxon of one species asks nothing. Text queries are of the first
            species that leaves a match.
        distractors: `uniform`, or `hard`: all of the taxon's family first, then of its order, then any; where they are
            too many they are drawn.
        balance: `class` draws as many queries of every class as the rarest has; a query of unknown class is left out.
    """

    protocol: Protocol = "any"
    distractors: Distractors = "uniform"
    balance: Balance = "none"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One of the 36 questions: which modality asks, which answers, at which level, over which species."""

    direction: Direction
    level: Level
    split: str

    @property
    def query(self) -> Modality:
        """The modality of the queries."""
        return _BY_LETTER[self.direction[0]]

    @property
    def target(self) -> Modality:
        """The modality of the ranked samples."""
        return _BY_LETTER[self.direction[2]]

    @property
    def file(self) -> str:
        """The task file inside a split's folder, as the release names it."""
        return f"{self.level}/test_{self.query}_to_{self.target}.csv"

    def __str__(self) -> str:
        return f"{self.split}/{self.level}/{self.direction}"


def scenarios(split: str) -> list[Scenario]:
    """List the 18 scenarios of one split, level by level."""
    return [Scenario(direction=direction, level=level, split=split) for level in LEVELS for direction in DIRECTIONS]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One task file, as arrays. Pools may be ragged: `taxon` and `group` are -1 beyond a query's pool.

    Attributes:
        query_id, payload_id: strings, one a query; the payload is an id of the index of the query modality.
        correct: index into `taxa`, int32 (query,).
        taxon: candidate taxa in the file's order as indices into `taxa`, int32 (query, width); distinct within a row.
        group: which group of samples stands for the candidate, int32 (query, width).
        taxa: names.
        group_start, group_item: group g holds items `group_item[group_start[g]:group_start[g + 1]]`.
        items: ids of the index of the target modality.
        taxon_class: class of each taxon, or None where it is not known; aligned with `taxa`.
    """

    scenario: Scenario
    query_id: list[str]
    payload_id: list[str]
    correct: np.ndarray
    taxon: np.ndarray
    group: np.ndarray
    taxa: list[str]
    group_start: np.ndarray
    group_item: np.ndarray
    items: list[str]
    taxon_class: list[str | None]

    def __len__(self) -> int:
        return len(self.query_id)

    @property
    def n_candidates(self) -> np.ndarray:
        """The pool size of each query."""
        return (self.taxon >= 0).sum(axis=1)
