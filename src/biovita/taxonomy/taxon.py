"""A species with its lineage and common name: the thing that a sound, a picture and a text have in common."""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from biovita.errors import TaxonomyError
from biovita.taxonomy.rank import LEVELS, Level


def normal_name(text: object) -> str:
    """Bring a name to its normal form: NFC, no control characters, single spaces; null and NaN become empty."""
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return ""
    name = str(text)
    if not (name.isascii() and name.isprintable()):
        visible = (c for c in name if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
        name = unicodedata.normalize("NFC", "".join(visible))
    return " ".join(name.split())


@dataclass(frozen=True, kw_only=True)
class Taxon:
    """One species; `species` is the binomial. A rank that is not known is an empty string.

    Raises:
        TaxonomyError: there is no scientific name.
    """

    kingdom: str = ""
    phylum: str = ""
    class_: str = ""
    order: str = ""
    family: str = ""
    genus: str = ""
    species: str
    common_name: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, normal_name(getattr(self, field.name)))
        if not self.species:
            raise TaxonomyError(f"a taxon of genus {self.genus!r} has no species; give its scientific name")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Make a taxon from a table row with the columns of `LEVELS`; other columns are left alone.

        Raises:
            TaxonomyError: a column is missing (an empty value is allowed above species).
        """
        missing = [level for level in LEVELS if level not in row]
        if missing:
            raise TaxonomyError(f"a taxon needs the column(s) {', '.join(missing)}; the row has {', '.join(row)}")
        return cls(**{_field(level): row[level] for level in LEVELS})

    def row(self) -> dict[str, str]:
        """Return the taxon as a table row, from kingdom to common name."""
        return {level: self.at(level) for level in LEVELS}

    def at(self, rank: Level) -> str:
        """Return the name at a rank (or the common name); empty where it is not known."""
        return getattr(self, _field(rank))


def _field(level: str) -> str:
    return "class_" if level == "class" else level
