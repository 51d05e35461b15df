"""A taxon keeps its lineage through rows and normal forms."""

import math

import pytest

from biovita.errors import TaxonomyError
from biovita.taxonomy.rank import LEVELS, RANKS
from biovita.taxonomy.taxon import Taxon, normal_name

ROW = {
    "kingdom": "Animalia",
    "phylum": "Chordata",
    "class": "Aves",
    "order": "Passeriformes",
    "family": "Icteridae",
    "genus": "Agelaius",
    "species": "Agelaius phoeniceus",
    "common_name": "Red-winged Blackbird",
}


def test_a_row_makes_the_round_trip() -> None:
    assert Taxon.from_row(ROW | {"split": "train"}).row() == ROW
    assert list(Taxon.from_row(ROW).row()) == list(LEVELS)


def test_every_rank_can_be_asked_for() -> None:
    taxon = Taxon.from_row(ROW)
    assert [taxon.at(rank) for rank in RANKS] == [ROW[rank] for rank in RANKS]
    assert taxon.at("common_name") == "Red-winged Blackbird"


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("  Rana \t temporaria\n", "Rana temporaria"),
        ("Tho\u0301rshavn", "Th\u00f3rshavn"),
        ("Rana\u200b temporaria\x00", "Rana temporaria"),
        ("\u200b Rana", "Rana"),
        ("Rana \u200b temporaria", "Rana temporaria"),
        (None, ""),
        (math.nan, ""),
    ],
)
def test_names_have_one_normal_form(given: object, normal: str) -> None:
    assert normal_name(given) == normal
    assert normal_name(normal_name(given)) == normal


def test_null_ranks_become_empty() -> None:
    assert Taxon.from_row(ROW | {"order": None, "common_name": math.nan}).order == ""


def test_a_taxon_without_a_scientific_name_is_refused() -> None:
    with pytest.raises(TaxonomyError, match="scientific name"):
        Taxon(genus="Rana", species=" ")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(TaxonomyError, match="common_name"):
        Taxon.from_row({k: v for k, v in ROW.items() if k != "common_name"})
