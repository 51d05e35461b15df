"""Which file is for what: train, val, test_seen, or test_unseen for whole species that are withheld.

A pure function of the rows and a seed: the order of rows does not matter, since every choice is ordered by a hash of
seed, purpose and name. What belongs together (the files of one individual) moves as one group.

1. Withheld species come from the rarely recorded, spread over the classes by their share of the species.
2. Of the seen species' files 10 % become test_seen: first recordings, then pictures to fill up. Species are taken in
   hash order and the tenth is rounded along the running sum, so that species with few files pay together.
3. Then 5 % become val in the same way.
4. A group moves only if it leaves every species in train with a file of each modality that it has.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import polars as pl
import polars_hash  # noqa: F401 - gives expressions `chash`

from biovita.errors import DatasetError

SPLITS = ("train", "val", "test_seen", "test_unseen")
TEST_SHARE = 0.1  # BioVITA: a tenth of the recordings of seen species
VAL_SHARE = 0.05
MODALITIES = ("audio", "image")  # recordings choose first
BLOCK = 50_000  # groups that are sifted at once


class Split(NamedTuple):
    """The outcome.

    Attributes:
        of: the split of every row, aligned with the rows that were given, and called `split`.
        withheld: the species of test_unseen, sorted.
    """

    of: pl.Series
    withheld: list[str]


def split(media: pl.DataFrame, *, seed: int, withheld: float) -> Split:
    """Assign every row to a split.

    Args:
        media: rows with `modality`, `class`, `species` and `group` (what must stay together).
        seed: another seed gives another draw.
        withheld: how many species to withhold if 1 or more, else the share of all species.

    Raises:
        DatasetError: there are not enough species that may be withheld.
    """
    # names are looked up once; numbers do the rest
    cells = media.select("species", "modality").unique().sort("species", "modality").with_row_index("cell")
    rows = media.select("species", "modality", number=pl.col("group").rank("dense") - 1)
    rows = rows.join(cells, on=["species", "modality"], how="left", maintain_order="left").select("number", "cell")
    groups = _groups(media["group"], rows["number"])
    entries = _entries(rows, len(cells))
    hidden = choose_withheld(media, _shared(entries, cells), seed=seed, withheld=withheld)
    unseen = entries.join(cells.filter(pl.col("species").is_in(list(hidden))), on="cell", how="semi")
    of_group = np.full(len(groups), SPLITS.index("train"))
    of_group[unseen["number"]] = SPLITS.index("test_unseen")
    for name, share in (("test_seen", TEST_SHARE), ("val", VAL_SHARE)):
        rest = groups.filter(of_group == SPLITS.index("train"))
        of_group[_take(entries, cells, rest, share, seed=seed, purpose=name)] = SPLITS.index(name)
    of = pl.Series("split", SPLITS, pl.String).gather(of_group[rows["number"]])
    return Split(of, sorted(hidden))


def choose_withheld(media: pl.DataFrame, shared: Collection[str], *, seed: int, withheld: float) -> set[str]:
    """Choose the species to withhold; where it can, one has both sounds and pictures, so that it can be tested.

    A species of `shared`, which has a group in common with another, is never withheld, and each class keeps a species
    in training.
    """
    species = media.group_by("class", "species").agg(
        (pl.col("modality") == "audio").sum().alias("n_recordings"), pl.col("modality").n_unique().alias("n_modalities")
    )
    n_wanted = round(withheld * len(species)) if withheld < 1 else round(withheld)
    names = species["species"].unique()
    key = dict(zip(names, _hashes(seed, "withheld", names), strict=True))
    of_class: dict[str, list[str]] = {}
    for (class_,), rows in sorted(species.group_by("class"), key=lambda item: str(item[0])):
        # the rarely recorded half of the testable species comes first, shuffled; then the rest by rarity
        ranked = sorted(
            (row for row in rows.iter_rows(named=True) if row["species"] not in shared),
            key=lambda row: (-row["n_modalities"], row["n_recordings"], key[row["species"]]),
        )
        names = [row["species"] for row in ranked]
        half = (sum(row["n_modalities"] > 1 for row in ranked) + 1) // 2
        names[:half] = sorted(names[:half], key=key.__getitem__)
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


def _groups(names: pl.Series, numbers: pl.Series) -> pl.DataFrame:
    """List each `number` with its `group`."""
    row = np.zeros(numbers.n_unique(), np.int64)
    row[numbers.to_numpy()] = np.arange(len(numbers))
    return pl.DataFrame({"group": names.gather(row)}).with_row_index("number")


def _entries(rows: pl.DataFrame, n_cells: int) -> pl.DataFrame:
    """Count the `n` rows of each `number` and `cell`, sorted by both."""
    keys, n = np.unique(rows["number"].to_numpy() * np.int64(n_cells) + rows["cell"].to_numpy(), return_counts=True)
    return pl.DataFrame({"number": keys // max(1, n_cells), "cell": keys % max(1, n_cells), "n": n})


def _shared(entries: pl.DataFrame, cells: pl.DataFrame) -> set[str]:
    """Name the species that have a group in common with another."""
    number, kind = entries["number"].to_numpy(), cells["species"].rle_id().gather(entries["cell"]).to_numpy()
    one_of = np.zeros(int(number.max(initial=0)) + 1, kind.dtype)
    one_of[number] = kind  # any one of the group's species
    others = kind != one_of[number]
    kinds = np.unique([kind[others], one_of[number][others]])
    return set(cells["species"].unique(maintain_order=True).gather(kinds))


def _take(
    entries: pl.DataFrame, cells: pl.DataFrame, groups: pl.DataFrame, share: float, *, seed: int, purpose: str
) -> np.ndarray:
    """Choose the groups that leave train, and return their numbers.

    Args:
        entries: `n` files of a `cell` in the group of a `number`, sorted by it.
        cells: `species` and `modality` of each cell.
        groups: `number` and name of those that are in train so far.
        share: of the files of each cell.
        seed: of the order, with `purpose`.
        purpose: another word gives another order.
    """
    queue = groups["number"].gather(hash_order(seed, purpose, groups["group"])).to_numpy()
    number, cell, n = (entries[name].to_numpy() for name in ("number", "cell", "n"))
    stop = np.bincount(number, minlength=1).cumsum()
    n_cells = np.diff(stop, prepend=0)[queue]
    place = np.repeat(np.arange(len(queue)), n_cells)
    in_turn = np.arange(len(place)) + np.repeat(stop[queue] - n_cells.cumsum(), n_cells)
    cell, n = cell[in_turn], n[in_turn]
    n_files = np.bincount(cell, weights=n, minlength=len(cells)).astype(np.int64)
    n_taken, taken = np.zeros_like(n_files), np.zeros(len(queue), bool)
    for modality in MODALITIES:
        chooses = (cells["modality"] == modality).to_numpy() & (n_files > 0)
        quota = _quota(cells["species"].filter(chooses), n_files[chooses], share, seed=seed, purpose=purpose)
        room = n_files - n_taken - 1  # a file of each species and modality stays in train
        room[chooses] = np.minimum(room[chooses], quota - n_taken[chooses])
        may = np.zeros_like(taken)
        may[place[chooses[cell]]] = True
        taken |= _fill(room, place, cell, n, may & ~taken)
        n_taken = np.bincount(cell, weights=n * taken[place], minlength=len(cells)).astype(np.int64)
    return queue[taken]


def _fill(room: np.ndarray, place: np.ndarray, cell: np.ndarray, n: np.ndarray, may: np.ndarray) -> np.ndarray:
    """Go through the groups in order and take each that may be taken and finds room in all its cells.

    Room only shrinks, so whole blocks of groups are sifted at once, and few are left to be tried one by one.

    Args:
        room: how many more files each cell can give; changed.
        place: the group of each entry, ascending.
        cell: where it takes its files from.
        n: how many.
        may: whether a group may be taken.
    """
    taken = np.zeros_like(may)
    start = np.searchsorted(place, np.arange(len(may) + 1))
    for low in range(0, len(may), BLOCK):
        starts = start[low : low + BLOCK + 1]
        entries = slice(starts[0], starts[-1])
        fits = np.logical_and.reduceat(n[entries] <= room[cell[entries]], starts[:-1] - starts[0])
        for group in low + np.flatnonzero(fits & may[low : low + BLOCK]):
            own = range(start[group], start[group + 1])
            if all(n[i] <= room[cell[i]] for i in own):
                taken[group] = True
                for i in own:
                    room[cell[i]] -= n[i]
    return taken


def _quota(species: pl.Series, n_files: np.ndarray, share: float, *, seed: int, purpose: str) -> np.ndarray:
    """Round each species' share along the running sum in hash order, so that the whole comes out right."""
    quota = np.zeros_like(n_files)
    due = 0.5
    for i in hash_order(seed, purpose, species):
        due += share * int(n_files[i])
        quota[i] = min(int(due), n_files[i] - 1)
        due -= int(quota[i])
    return quota


def hash_order(seed: int, purpose: str, names: pl.Series) -> np.ndarray:
    """Shuffle names, and return their places: an order that depends on seed, purpose and the names alone."""
    first = hash_numbers(seed, purpose, names).to_numpy()
    order = np.argsort(first)
    if (first[order[1:]] == first[order[:-1]]).any():  # equal in 60 bits: the other 196 decide
        return _hashes(seed, purpose, names).arg_sort().to_numpy()
    return order


def hash_numbers(seed: int, purpose: str, names: pl.Series) -> pl.Series:
    """Turn each name into a number of 60 bits that depends on seed, purpose and the name alone."""
    return _each(names, _hash(seed, purpose).str.head(15).str.to_integer(base=16))


def _hashes(seed: int, purpose: str, names: pl.Series) -> pl.Series:
    return _each(names, _hash(seed, purpose))


def _hash(seed: int, purpose: str) -> pl.Expr:
    """Hash `seed:purpose:name` by SHA-256, as hexadecimal text."""
    text = pl.lit(f"{seed}:{purpose}:") + pl.col("name")
    return text.chash.sha2_256()  # pyright: ignore[reportAttributeAccessIssue]


def _each(names: pl.Series, value: pl.Expr) -> pl.Series:
    """Work out an expression of each `name`, on all cores."""
    return names.alias("name").to_frame().lazy().select(value).collect(engine="streaming").to_series()
