"""The trait vocabulary is the published contract: 34 labels, nine groups."""

from biovita.taxonomy.traits import TRAIT_GROUPS, TRAITS


def test_there_are_34_labels_in_nine_groups() -> None:
    assert [len(labels) for labels in TRAIT_GROUPS.values()] == [8, 3, 3, 4, 4, 6, 3, 1, 2]
    assert len(TRAITS) == len(set(TRAITS)) == 34


def test_labels_stand_in_group_order() -> None:
    assert TRAITS[0] == "eats_invertebrates"
    assert TRAITS[-1] == "migratory"
    assert all(label.isidentifier() for label in TRAITS)
