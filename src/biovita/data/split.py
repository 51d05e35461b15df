"""Which file is for what: train, val, test_seen, or test_unseen for whole species that are withheld.

A pure function of the rows and a seed: the order of rows does not matter, since every choice is ordered by a hash of
seed, purpose and name. What belongs together (the files of one individual) moves as one group.

1. Withheld species come from the rarely recorded, spread over the classes by their share of the species.
2. Of the seen species' files 10 % become test_seen: first recordings, then pictures to fill up. Species are taken in
   hash order and the tenth is rounded along the running sum, so that species with few files pay together.
3. Then 5 % become val in the same way.
4. A group moves only if it leaves every species in train with a file of each modality that it has.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import polars as pl

from biovita.errors import DatasetError

SPLITS = ("train", "val", "test_seen", "test_unseen")
TEST_SHARE = 0.1  # BioVITA: a tenth of the recordings of seen species
VAL_SHARE = 0.05
MODALITIES = ("audio", "image")  # recordings choose first

Cell = tuple[str, str]  # species, modality


class Split(NamedTuple):
    """The outcome: a split for every media_id, and the species that are withheld."""

    of: dict[str, str]
    withheld: list[str]


def split(media: pl.DataFrame, *, seed: int, withheld: float) -> Split:
    """Assign every row to a split.

    Args:
        media: rows with `media_id`, `modality`, `class`, `species` and `group` (what must stay together).
        seed: another seed gives another draw.
        withheld: how many species to withhold if 1 or more, else the share of all species.

    Raises:
        DatasetError: there are not enough species that may be withheld.
    """
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in media.select("media_id", "modality", "species", "group").sort("media_id").iter_rows(named=True):
        groups[row["group"]].append(row)
    hidden = choose_withheld(media, groups, seed=seed, withheld=withheld)
    of = {row["media_id"]: "test_unseen" for rows in groups.values() for row in rows if row["species"] in hidden}
    seen = {name: rows for name, rows in groups.items() if rows[0]["media_id"] not in of}
    left = Counter(cell for rows in seen.values() for cell in _cells(rows))
    for name, share in (("test_seen", TEST_SHARE), ("val", VAL_SHARE)):
        taken = _take(seen, left, share, seed=seed, purpose=name)
        of |= {row["media_id"]: name for group in taken for row in seen.pop(group)}
    of |= {row["media_id"]: "train" for rows in seen.values() for row in rows}
    return Split(of, sorted(hidden))


def choose_withheld(
    media: pl.DataFrame, groups: Mapping[str, list[dict[str, str]]], *, seed: int, withheld: float
) -> set[str]:
    """Choose the species to withhold; where it can, one has both sounds and pictures, so that it can be tested.

    A species that shares an individual with another is never withheld, and each class keeps a species in training.
    """
    species = media.group_by("class", "species").agg(
        (pl.col("modality") == "audio").sum().alias("n_recordings"), pl.col("modality").n_unique().alias("n_modalities")
    )
    n_wanted = round(withheld * len(species)) if withheld < 1 else round(withheld)
    shared = {row["species"] for rows in groups.values() if len({r["species"] for r in rows}) > 1 for row in rows}
    of_class: dict[str, list[str]] = {}
    for (class_,), rows in sorted(species.group_by("class"), key=lambda item: str(item[0])):
        # the rarely recorded half of the testable species comes first, shuffled; then the rest by rarity
        ranked = sorted(
            (row for row in rows.iter_rows(named=True) if row["species"] not in shared),
            key=lambda row: (-row["n_modalities"], row["n_recordings"], _hash(seed, "withheld", row["species"])),
        )
        names = [row["species"] for row in ranked]
        half = (sum(row["n_modalities"] > 1 for row in ranked) + 1) // 2
        names[:half] = sorted(names[:half], key=lambda name: _hash(seed, "withheld", name))
        of_class[str(class_)] = names[: len(rows) - 1]
    n_possible = sum(map(len, of_class.values()))
    if n_wanted > n_possible:
        raise DatasetError(
            f"--withheld {withheld:g} asks for {n_wanted} species, but only {n_possible} of {len(species)} can be "
            "withheld if every class keeps one; ask for fewer"
        )
    # highest averages (Sainte-Lague): the next species comes from the class that is furthest behind its share
    size = dict(species.group_by("class").len().iter_rows())
    quota = dict.fromkeys(of_class, 0)
    for _ in range(n_wanted):
        open_ = [class_ for class_, names in of_class.items() if quota[class_] < len(names)]
        quota[max(open_, key=lambda class_: (size[class_] / (2 * quota[class_] + 1), class_))] += 1
    return {name for class_, names in of_class.items() for name in names[: quota[class_]]}


def _take(
    groups: Mapping[str, list[dict[str, str]]], left: Counter[Cell], share: float, *, seed: int, purpose: str
) -> set[str]:
    """Choose the groups that leave train; `left` counts what stays there and is brought up to date."""
    order = sorted(groups, key=lambda name: _hash(seed, purpose, name))
    cells_of = {name: Counter(_cells(groups[name])) for name in order}
    taken: set[str] = set()
    n_taken: Counter[Cell] = Counter()
    for modality in MODALITIES:
        quota = _quota(left, n_taken, modality, share, seed=seed, purpose=purpose)
        for name in order:
            cells = cells_of[name]
            wanted = [cell for cell in cells if cell[1] == modality]
            if name in taken or not wanted or any(n_taken[cell] + cells[cell] > quota[cell] for cell in wanted):
                continue
            if all(left[cell] > n for cell, n in cells.items()):
                taken.add(name)
                n_taken.update(cells)
                left.subtract(cells)
    return taken


def _quota(
    left: Counter[Cell], n_taken: Counter[Cell], modality: str, share: float, *, seed: int, purpose: str
) -> dict[Cell, int]:
    """Round each species' share along the running sum, so that the whole comes out right."""
    quota: dict[Cell, int] = {}
    due = 0.5
    for cell in sorted((c for c in left if c[1] == modality), key=lambda c: _hash(seed, purpose, c[0])):
        n_files = left[cell] + n_taken[cell]
        due += share * n_files
        quota[cell] = min(int(due), n_files - 1)
        due -= quota[cell]
    return quota


def _cells(rows: Iterable[Mapping[str, str]]) -> Iterable[Cell]:
    return ((row["species"], row["modality"]) for row in rows)


def _hash(seed: int, purpose: str, name: Hashable) -> bytes:
    return hashlib.sha256(f"{seed}:{purpose}:{name}".encode()).digest()
