"""The traits follow from the characters, at plausible rates, and some are unknown."""

import numpy as np
import pytest

from biovita.taxonomy.traits import TRAIT_GROUPS, TRAITS
from biovita.world.ecology import make_traits
from biovita.world.tree import PLANS, make_tree

TREE = make_tree(1000, 1)
LABELS = make_traits(TREE)


def test_all_34_labels_are_there_in_order() -> None:
    assert tuple(LABELS) == TRAITS


@pytest.mark.parametrize("n_species", [24, 400, 3000])
def test_each_label_holds_for_some_and_not_for_most(n_species: int) -> None:
    for label, value in make_traits(make_tree(n_species, 2)).items():
        assert 0.03 <= value.data.mean() <= 0.73, label
        assert 0.0 < value.data.mean() < 1.0


def test_some_are_unknown() -> None:
    unknown = np.mean([np.ma.getmaskarray(value) for value in LABELS.values()])
    assert 0.03 < unknown < 0.07


@pytest.mark.parametrize("group", ["trophic_level", "activity_pattern"])
def test_exclusive_groups_have_exactly_one_label(group: str) -> None:
    assert (sum(LABELS[label].data.astype(int) for label in TRAIT_GROUPS[group]) == 1).all()


def test_labels_follow_from_characters() -> None:
    assert np.corrcoef(LABELS["nocturnal"].data, TREE.normal("night"))[0, 1] > 0.6
    assert np.corrcoef(LABELS["carnivore"].data, TREE.normal("meat"))[0, 1] > 0.6
    flying = {PLANS[p] for p in TREE.plans()[LABELS["flies"].data]}
    assert flying <= {"bird", "insect"}


def test_sisters_share_more_labels_than_strangers() -> None:
    value = np.array([LABELS[label].data for label in TRAITS]).T
    genus = TREE.ancestors("genus")
    same = (value[1:] == value[:-1]).mean(axis=1)[genus[1:] == genus[:-1]].mean()
    assert same > (value == np.roll(value, 400, axis=0)).mean() + 0.1
