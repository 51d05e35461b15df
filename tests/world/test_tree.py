"""The tree branches unevenly, its characters drift, and what is heard follows from what is seen."""

import numpy as np
import pytest

from biovita.errors import WorldError
from biovita.world.tree import HABITATS, PATTERNS, PLANS, make_tree

TREE = make_tree(400, 1)


def distance_by_shared_rank(value: np.ndarray) -> list[float]:
    """Mean distance between species that share nothing, a class, an order, a family, a genus."""
    first, second = np.triu_indices(TREE.n_species, 1)
    shared = sum(
        (TREE.ancestors(r)[first] == TREE.ancestors(r)[second]) * 1 for r in ("class", "order", "family", "genus")
    )
    distance = np.linalg.norm(value[first] - value[second], axis=1)
    return [float(distance[shared == k].mean()) for k in range(5)]


def test_the_same_seed_grows_the_same_tree_and_another_seed_another() -> None:
    again, other = make_tree(400, 1), make_tree(400, 2)
    assert np.array_equal(TREE.value, again.value)
    assert TREE.species(7) == again.species(7)
    assert TREE.species(7) != other.species(7)


@pytest.mark.parametrize("n_species", [5, 6, 24, 400, 2000])
def test_every_size_has_the_ranks_it_asks_for(n_species: int) -> None:
    tree = make_tree(n_species, 3)
    assert tree.n_species == n_species
    counts = [tree.n_nodes(rank) for rank in ("class", "order", "family", "genus", "species")]
    assert counts[0] == len(PLANS)
    assert counts == sorted(counts)
    for rank in ("class", "order", "family", "genus"):
        assert set(tree.ancestors(rank).tolist()) == set(range(tree.n_nodes(rank)))


def test_too_few_species_are_refused() -> None:
    with pytest.raises(WorldError, match="at least 5"):
        make_tree(4, 1)


def test_genera_are_of_uneven_size() -> None:
    sizes = np.bincount(TREE.parents["species"])
    assert (sizes == 1).sum() > 10
    assert sizes.max() >= 8


def test_relatives_are_alike() -> None:
    steps = distance_by_shared_rank(TREE.value)
    assert steps == sorted(steps, reverse=True)


def test_characters_fill_their_range() -> None:
    tree = make_tree(3000, 1)
    assert ((tree.value > 0) & (tree.value < 1)).all()
    assert (np.quantile(tree.value, 0.1, axis=0) < 0.3).all()
    assert (np.quantile(tree.value, 0.9, axis=0) > 0.7).all()
    assert set(tree.taste.argmax(axis=1).tolist()) == set(range(len(HABITATS)))
    assert set(tree.pattern.tolist()) == set(range(len(PATTERNS)))


def test_large_animals_have_low_voices() -> None:
    tree = make_tree(3000, 1)
    assert np.corrcoef(tree.normal("size"), tree.normal("pitch"))[0, 1] < -0.6
