"""The rules of names, where they are quicker than they look; what they decide is in test_checklist.py."""

import difflib
import random

import pytest

from biovita.taxonomy.decide import ALMOST_ALIKE, _almost_alike, agreement
from biovita.taxonomy.rank import RANKS

BIRD = {**dict(zip(RANKS, ("Animalia", "Chordata", "Aves", "Passeriformes", "Turdidae"), strict=False)), "species": "-"}


def test_the_name_that_is_almost_alike_is_the_one_that_difflib_finds() -> None:
    rng = random.Random(1)
    n_found = 0
    for _ in range(400):
        genus = rng.choice(("Ab", "Abacad", "Abacadabras"))
        epithets = ["".join(rng.choices("abcd", k=rng.randint(2, 9))) for _ in range(12)]
        name, *others = (f"{genus} {epithet}" for epithet in epithets)
        found = next(iter(difflib.get_close_matches(name, others, n=1, cutoff=ALMOST_ALIKE)), "")
        assert _almost_alike(name, set(others)) == found
        n_found += bool(found)
    assert 50 < n_found < 350


@pytest.mark.parametrize(
    ("given", "depth", "differs"),
    [
        ({}, 0, ""),
        ({"genus": "Corvus", "common_name": "Raven"}, 0, ""),
        ({"kingdom": "Animalia"}, 1, ""),
        ({"kingdom": "Metazoa", "family": "Turdidae"}, 5, ""),
        ({"class": "Aves", "family": "Corvidae"}, 3, "family Corvidae is Turdidae here"),
        ({"phylum": "Mollusca", "family": "Turdidae"}, None, "phylum Mollusca is Chordata here"),
        ({"kingdom": "Animalia", "class": "Insecta"}, None, "class Insecta is Aves here"),
        ({"class": "", "order": "Passeriformes"}, 4, ""),
    ],
)
def test_lineages_agree_to_a_depth_or_are_of_two_animals(
    given: dict[str, str], depth: int | None, differs: str
) -> None:
    assert agreement(given, BIRD) == (depth, differs)
