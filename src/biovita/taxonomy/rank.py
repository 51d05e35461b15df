"""The seven ranks of a lineage, from the root to the leaf, and the levels that a text can name."""

from typing import Final, Literal, get_args

Rank = Literal["kingdom", "phylum", "class", "order", "family", "genus", "species"]
Level = Literal["kingdom", "phylum", "class", "order", "family", "genus", "species", "common_name"]

RANKS: Final[tuple[Rank, ...]] = get_args(Rank)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
