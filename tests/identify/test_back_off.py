"""Species summed up the tree: plain twins, the laws of probabilities, ragged ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biovita.identify.back_off import Tree, deepest
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.taxon import Taxon


def taxon(species: str, **ranks: str) -> Taxon:
    return Taxon(**{"kingdom": "Animalia", **ranks}, species=species)


THRUSHES = [
    taxon("Turdus merula", class_="Aves", family="Turdidae", genus="Turdus"),
    taxon("Turdus pilaris", class_="Aves", family="Turdidae", genus="Turdus"),
    taxon("Catharus minimus", class_="Aves", family="Turdidae", genus="Catharus"),
    taxon("Parus major", class_="Aves", family="Paridae", genus="Parus"),
    taxon("Rana temporaria", class_="Amphibia", family="Ranidae", genus="Rana"),
]


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[Taxon], np.ndarray]:
    """Any tree, with gaps and with one name in several places, and probabilities of three animals."""
    n = draw(st.integers(1, 12))
    names = st.sampled_from(["", "A", "B", "C"])
    taxa = [
        Taxon(**{"class_" if r == "class" else r: draw(names) for r in RANKS[:-1]}, species=f"S s{i}") for i in range(n)
    ]
    weights = np.array(draw(st.lists(st.lists(st.floats(0.01, 1), min_size=n, max_size=n), min_size=3, max_size=3)))
    return taxa, weights / weights.sum(1, keepdims=True)


def path(one: Taxon, rank: str) -> tuple[str, ...]:
    return tuple(one.at(r) for r in RANKS[: RANKS.index(rank) + 1])  # pyright: ignore[reportArgumentType]


@settings(max_examples=60, deadline=None)
@given(lists())
def test_sums_and_bests_equal_a_plain_loop(case: tuple[list[Taxon], np.ndarray]) -> None:
    taxa, probs = case
    tree = Tree(taxa)
    for rank in RANKS:
        sums, best = tree.sums(rank, probs), tree.best(rank, probs)
        paths = list(dict.fromkeys(path(one, rank) for one in taxa if one.at(rank)))
        assert [path(taxa[n], rank) for n in tree.first[rank]] == paths
        for row in range(len(probs)):
            for n, where in enumerate(paths):
                own = [probs[row, i] for i, one in enumerate(taxa) if path(one, rank) == where]
                assert sums[row, n] == pytest.approx(sum(own))
                assert best[row, n] == max(own)


@settings(max_examples=60, deadline=None)
@given(lists(), st.floats(0.05, 1))
def test_the_deepest_sure_taxon_equals_a_plain_walk(case: tuple[list[Taxon], np.ndarray], confidence: float) -> None:
    taxa, probs = case
    tree = Tree(taxa)
    for row, found in enumerate(deepest(tree, probs, confidence)):
        plain = None
        for rank in reversed(RANKS):
            totals: dict[tuple[str, ...], float] = {}
            for i, one in enumerate(taxa):
                if one.at(rank):
                    totals[path(one, rank)] = totals.get(path(one, rank), 0.0) + probs[row, i]
            holds_all = any(all(path(one, rank) == where for one in taxa) for where in totals)
            top = max(totals.values(), default=0.0)
            if not holds_all and top >= confidence + 1e-12:
                plain = (rank, top)
                break
            if not holds_all and top >= confidence - 1e-12:
                return  # on the border, where the order of adding up decides
        assert (found is None) == (plain is None)
        if found and plain:
            assert found[0] == plain[0]
            assert tree.sums(found[0], probs)[row, found[1]] == pytest.approx(plain[1])


@settings(max_examples=60, deadline=None)
@given(lists())
def test_no_taxon_is_more_probable_than_what_holds_it_and_each_rank_sums_to_what_is_known(
    case: tuple[list[Taxon], np.ndarray],
) -> None:
    taxa, probs = case
    tree = Tree(taxa)
    for rank in RANKS:
        known = np.array([bool(one.at(rank)) for one in taxa])
        np.testing.assert_allclose(tree.sums(rank, probs).sum(1), probs[:, known].sum(1))
        for above in RANKS[: RANKS.index(rank)]:
            for n, first in enumerate(tree.first[rank]):
                if taxa[first].at(above):
                    holder = [path(taxa[m], above) for m in tree.first[above]].index(path(taxa[first], above))
                    assert (tree.sums(rank, probs)[:, n] <= tree.sums(above, probs)[:, holder] + 1e-12).all()


@pytest.mark.parametrize(
    ("probs", "confidence", "answer"),
    [
        ([0.9, 0.1, 0.0, 0.0, 0.0], 0.8, ("species", "Turdus merula")),
        ([0.5, 0.4, 0.1, 0.0, 0.0], 0.8, ("genus", "Turdus")),
        ([0.4, 0.2, 0.3, 0.1, 0.0], 0.8, ("family", "Turdidae")),
        ([0.3, 0.2, 0.2, 0.2, 0.1], 0.8, ("class", "Aves")),
        ([0.2, 0.2, 0.1, 0.1, 0.4], 0.8, None),
        ([0.5, 0.5, 0.0, 0.0, 0.0], 0.5, ("species", "Turdus merula")),
    ],
)
def test_some_thrush_is_a_family(probs: list[float], confidence: float, answer: tuple[str, str] | None) -> None:
    tree = Tree(THRUSHES)
    (found,) = deepest(tree, np.array([probs]), confidence)
    assert (found and (found[0], THRUSHES[tree.first[found[0]][found[1]]].at(found[0]))) == answer


def test_a_taxon_that_holds_the_whole_list_is_no_answer() -> None:
    assert deepest(Tree(THRUSHES[:2]), np.array([[0.5, 0.5]]), 0.8) == [None]
    assert deepest(Tree(THRUSHES[:1]), np.array([[1.0]]), 0.8) == [None]


def test_a_species_without_family_counts_for_its_class_alone() -> None:
    taxa = [*THRUSHES[:3], taxon("Avis ignota", class_="Aves"), THRUSHES[4]]
    tree = Tree(taxa)
    probs = np.array([[0.2, 0.2, 0.2, 0.35, 0.05]])
    assert tree.sums("family", probs).sum() == pytest.approx(0.65)
    (found,) = deepest(tree, probs, 0.8)
    assert found
    assert (found[0], taxa[tree.first["class"][found[1]]].class_) == ("class", "Aves")


def test_two_genera_of_one_name_stay_apart() -> None:
    taxa = [
        taxon("Prunella modularis", class_="Aves", family="Prunellidae", genus="Prunella"),
        taxon("Prunella vulgaris", class_="Magnolia", family="Lamiaceae", genus="Prunella"),
    ]
    assert Tree(taxa).sums("genus", np.array([[0.6, 0.4]])).tolist() == [[0.6, 0.4]]
