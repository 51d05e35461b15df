"""Licence texts of many sources to one vocabulary: SPDX ids, two LicenseRefs, or `unknown`.

SPDX has an id only for a Creative Commons licence of a stated version. iNaturalist and others often say just
"CC BY-NC"; inventing a version would be wrong, so those become `LicenseRef-CC-BY-NC` (the SPDX form for a licence that
is not on its list), and works in the public domain become `LicenseRef-Public-Domain`. National ports of a CC licence
keep the version and lose the country. "All rights reserved", silence and anything not understood are `unknown`.
"""

import re

UNKNOWN = "unknown"
PUBLIC_DOMAIN = "LicenseRef-Public-Domain"
CC0 = "CC0-1.0"
FAMILIES = ("cc0", "public-domain", "cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nc-sa", "cc-by-nd", "cc-by-nc-nd")

_CC0 = re.compile(r"\bcc[ -]?(0|zero)\b|publicdomain/zero|\bcc0-1\.0\b")
_PUBLIC_DOMAIN = re.compile(r"public[ -]?domain|no known copyright|\bpdm?\b")
_CC = re.compile(r"(?:\bcc|creative ?commons.*?|licenses/)[ /-]*(by(?:[ /-](?:nc|sa|nd))*)(?:[ /-]*v?(\d)[.-](\d))?")
_WORDS = {
    "attribution": "by",
    "noncommercial": "nc",
    "non-commercial": "nc",
    "sharealike": "sa",
    "share-alike": "sa",
    "share alike": "sa",
    "noderivatives": "nd",
    "noderivs": "nd",
    "no derivatives": "nd",
}


def normalise_licence(text: str | None) -> str:
    """Turn a licence as a source writes it (name, code or URL) into an id of this vocabulary."""
    words = " ".join((text or "").replace("_", "-").lower().split())
    if not words or "all rights reserved" in words:
        return UNKNOWN
    if _CC0.search(words):
        return CC0
    for long, short in _WORDS.items():
        words = words.replace(long, short)
    if found := _CC.search(words):
        parts = re.split("[ /-]", found[1])
        # SPDX orders the parts by, nc, sa or nd
        name = "-".join(["CC", *(part.upper() for part in ("by", "nc", "sa", "nd") if part in parts)])
        return f"{name}-{found[2]}.{found[3]}" if found[2] else f"LicenseRef-{name}"
    if _PUBLIC_DOMAIN.search(words):
        return PUBLIC_DOMAIN
    return UNKNOWN


def licence_family(licence: str) -> str:
    """Reduce an id to the family that policies name: `cc-by-nc` for CC-BY-NC-4.0; `unknown` stays."""
    if licence == CC0:
        return "cc0"
    return re.sub(r"-\d\.\d$", "", licence.removeprefix("LicenseRef-")).lower()
