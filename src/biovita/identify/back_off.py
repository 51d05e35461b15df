"""Species summed up the tree: how sure is the genus, the family, the order; the deepest taxon that is sure enough."""

from collections.abc import Sequence

import numpy as np

from biovita.taxonomy.rank import RANKS, Rank
from biovita.taxonomy.taxon import Taxon


class Tree:
    """The taxa of a list of species at every rank.

    A taxon is a name with all ranks above it, so that two genera of one name in two families stay apart, and no taxon
    is ever more probable than the one that holds it. A species whose rank is empty belongs to no taxon of that rank:
    what it weighs is missing there, and counts again at the next rank that is known.

    Attributes:
        first: of each rank, the place in the list of the first species of each taxon, which tells its name.
    """

    def __init__(self, taxa: Sequence[Taxon]) -> None:
        self.first: dict[Rank, np.ndarray] = {}
        self._order: dict[Rank, np.ndarray] = {}  # species, those of one taxon side by side
        self._starts: dict[Rank, np.ndarray] = {}  # where each taxon begins among them
        for rank in RANKS:
            members: dict[tuple[str, ...], list[int]] = {}
            for n, taxon in enumerate(taxa):
                if taxon.at(rank):
                    members.setdefault(tuple(taxon.at(r) for r in RANKS[: RANKS.index(rank) + 1]), []).append(n)
            sizes = [len(group) for group in members.values()]
            self.first[rank] = np.array([group[0] for group in members.values()], np.intp)
            self._order[rank] = np.array([n for group in members.values() for n in group], np.intp)
            self._starts[rank] = np.cumsum([0, *sizes[:-1]]) if sizes else np.empty(0, np.intp)
        self._n_species = len(taxa)
        whole = np.arange(len(taxa))
        self._is_in_order = {rank: np.array_equal(order, whole) for rank, order in self._order.items()}

    def sums(self, rank: Rank, values: np.ndarray) -> np.ndarray:
        """Add up the species of each taxon: (n, species) to (n, taxa of the rank)."""
        return self._reduced(np.add, rank, values)

    def best(self, rank: Rank, values: np.ndarray) -> np.ndarray:
        """Take the best species of each taxon: (n, species) to (n, taxa of the rank)."""
        return self._reduced(np.maximum, rank, values)

    def tells(self, rank: Rank) -> bool:
        """Whether a taxon of this rank says anything: not where one taxon holds the whole list."""
        return len(self.first[rank]) > 1 or (len(self.first[rank]) == 1 and len(self._order[rank]) < self._n_species)

    def _reduced(self, how: np.ufunc, rank: Rank, values: np.ndarray) -> np.ndarray:
        if not len(self.first[rank]):
            return np.empty((len(values), 0), values.dtype)
        order = self._order[rank]
        if not self._is_in_order[rank]:  # else they lie side by side already, as in a sorted list
            values = values[:, order]
        return how.reduceat(values, self._starts[rank], axis=1)


def deepest(tree: Tree, probabilities: np.ndarray, confidence: float) -> list[tuple[Rank, int] | None]:
    """Find the deepest rank whose best taxon is as probable as asked.

    A taxon that holds every species of the list is no answer.

    Args:
        tree: of the list.
        probabilities: of the species, shape (n, species).
        confidence: asked, in (0, 1].

    Returns:
        for each row the rank and the taxon's number there; None where no rank is sure enough: unknown.
    """
    found: list[tuple[Rank, int] | None] = [None] * len(probabilities)
    for rank in RANKS:  # from the root: a deeper rank that is sure replaces it
        if not tree.tells(rank):
            continue
        sums = tree.sums(rank, probabilities)
        best = sums.argmax(1)
        for row in np.flatnonzero(sums[np.arange(len(sums)), best] >= confidence):
            found[row] = (rank, int(best[row]))
    return found
