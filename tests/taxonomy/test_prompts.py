"""The five forms are those of the paper, and evaluation sees the bare name."""

from biovita.taxonomy.prompts import PROMPTS, training_prompts
from biovita.taxonomy.taxon import Taxon

LYNX = Taxon(
    kingdom="Animalia",
    phylum="Chordata",
    class_="Mammalia",
    order="Carnivora",
    family="Felidae",
    genus="Lynx",
    species="Lynx rufus",
    common_name="Bobcat",
)


def test_the_five_forms_stand_in_paper_order() -> None:
    assert dict(zip(PROMPTS, training_prompts(LYNX), strict=True)) == {
        "common": "Bobcat",
        "scientific": "Lynx rufus",
        "taxonomy": "Mammalia Carnivora Felidae Lynx Lynx rufus",
        "scientific_and_common": "Lynx rufus with common name Bobcat",
        "taxonomy_and_common": "Mammalia Carnivora Felidae Lynx Lynx rufus with common name Bobcat",
    }


def test_empty_ranks_are_skipped_and_a_missing_common_name_falls_back() -> None:
    taxon = Taxon(class_="Mammalia", genus="Lynx", species="Lynx rufus")
    assert training_prompts(taxon)[2] == "Mammalia Lynx Lynx rufus"
    assert training_prompts(taxon)[0] == "Lynx rufus"
    assert training_prompts(taxon)[3] == "Lynx rufus with common name Lynx rufus"
