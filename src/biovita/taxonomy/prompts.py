"""The texts of a species: five forms for training, the bare taxon name for evaluation.

Source:
    BioVITA (arXiv 2603.23883): training draws one form uniformly; evaluation embeds the name alone. The taxonomy form
    starts at class, as in the released code (the paper's figure starts at kingdom), so the genus occurs twice.
"""

from typing import Final

from biovita.taxonomy.taxon import Taxon

PROMPTS: Final[tuple[str, ...]] = (
    "common",
    "scientific",
    "taxonomy",
    "scientific_and_common",
    "taxonomy_and_common",
)


def taxonomy_text(taxon: Taxon) -> str:
    """Join class, order, family, genus and scientific name by spaces; empty ranks are skipped."""
    names = (taxon.class_, taxon.order, taxon.family, taxon.genus, taxon.species)
    return " ".join(name for name in names if name)


def training_prompts(taxon: Taxon) -> list[str]:
    """Write the five training texts in the order of `PROMPTS`; a missing common name becomes the scientific one."""
    common, scientific, taxonomy = taxon.common_name or taxon.species, taxon.species, taxonomy_text(taxon)
    return [
        common,
        scientific,
        taxonomy,
        f"{scientific} with common name {common}",
        f"{taxonomy} with common name {common}",
    ]
