"""Names carry the lineage and the looks, by laws that hold for every species."""

import re
from functools import cache

import pytest

from biovita.taxonomy.rank import RANKS
from biovita.world.colour import colour_name
from biovita.world.names import CLASS, COLOURS, NOUNS, ORDER_ENDING, make_names, n_homonyms
from biovita.world.tree import PLANS, Tree, make_tree


@cache
def world(n_species: int) -> tuple[Tree, dict[str, list[str]]]:
    tree = make_tree(n_species, 1)
    return tree, make_names(tree)


@pytest.mark.parametrize("n_species", [5, 24, 400, 3000])
def test_scientific_names_are_unique_binomials(n_species: int) -> None:
    _, names = world(n_species)
    assert n_homonyms(names["species"]) == 0
    for genus, species in zip(names["genus"], names["species"], strict=True):
        assert re.fullmatch(r"[A-Z][a-z]+ [a-z]+", species)
        assert species.split()[0] == genus


@pytest.mark.parametrize("n_species", [24, 400, 3000])
def test_common_names_are_unique(n_species: int) -> None:
    assert n_homonyms(world(n_species)[1]["common_name"]) == 0


def test_the_same_seed_gives_the_same_names() -> None:
    assert make_names(make_tree(60, 4)) == make_names(make_tree(60, 4))


def test_endings_tell_the_rank_and_the_class() -> None:
    tree, names = world(400)
    for i, plan in enumerate(PLANS[p] for p in tree.plans()):
        assert names["kingdom"][i] == "Animalia"
        assert names["class"][i] == CLASS[plan]
        assert names["order"][i].endswith(ORDER_ENDING[plan])
        assert names["family"][i].endswith("idae")
        assert names["genus"][i].endswith(("a", "ornis", "avis", "ictis", "tettix", "ophryne"))


def test_a_name_at_a_rank_means_one_node() -> None:
    tree, names = world(3000)
    for rank in ("class", "order", "family", "genus"):
        nodes = set(zip(tree.ancestors(rank).tolist(), names[rank], strict=True))
        assert len(nodes) == tree.n_nodes(rank) == len(set(names[rank]))


def test_genera_share_the_stem_of_their_family_and_orders_that_of_one() -> None:
    _, names = world(400)
    for family, genus in zip(names["family"], names["genus"], strict=True):
        assert family.removesuffix("idae").lower() in genus.lower()
    stems = {family.removesuffix("idae") for family in names["family"]}
    for order in set(names["order"]):
        assert any(order.startswith(stem) for stem in stems)


def test_names_say_what_is_seen() -> None:
    tree, names = world(400)
    n_told = 0
    for i, (species, common) in enumerate(zip(names["species"], names["common_name"], strict=True)):
        own = tree.species(i)
        colour = COLOURS[colour_name(own)]
        assert colour[2] in common
        assert common.lower().endswith(NOUNS[own.plan])
        for latin, stem, _ in COLOURS.values():
            epithet = species.split()[1]
            if epithet == latin or (epithet.startswith(stem) and len(stem) > 4):
                n_told += 1
                assert latin == colour[0]
    assert n_told > 50


def test_every_rank_has_a_name_for_every_species() -> None:
    _, names = world(24)
    assert list(names) == [*RANKS, "common_name"]
    assert all(len(column) == 24 and all(column) for column in names.values())
