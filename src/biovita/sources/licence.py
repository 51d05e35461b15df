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

_CC0 = re.compile(r"\bcc[ -]?(0|zero)\b|creative commons zero|publicdomain/zero|\bcc0-1\.0\b")
_PUBLIC_DOMAIN = re.compile(r"public[ -]?domain|no known copyright|\bpdm?\b")
_DASHES = re.compile("[_\u2010-\u2015\u2212]")  # as word processors write a hyphen
_WORDS = {  # the long form of a part, as a pattern
    r"\battribution": "by",
    r"non?[ -]?comm?ercial(?: use)?": "nc",
    r"share[ -]?alike": "sa",
    r"no[ -]?deriv(?:ative)?s?(?:[ -]?works?)?": "nd",
}
_CC = re.compile(
    r"(?:\bcc|licen[cs]es/|creative ?commons(?:[^a-z]|licen[cs]ed?|org|cc|under|the|international)*?)"
    r"[^a-z0-9]*(by(?:[^a-z0-9]*(?:nc|sa|nd))*)(?![a-z])(?:[ /-]*v?(\d)[.-](\d))?"
)
_PART = re.compile(r"(?<![a-z])(?:nc|sa|nd)(?![a-z])")
# words that take something back; those of the second kind say nothing new beside NC or ND
_DOUBT = re.compile(r"\bnot\b(?! (?:required|needed|necessary))|\b(?:without|except|prohibit|request)")
_TERMS = re.compile(r"\b(?:permission|commerc|deriv)")
MAX_CHARS = 2_000  # nobody writes more of a licence's name


def normalise_licence(text: str | None) -> str:
    """Turn a licence as a source writes it (name, code or URL) into an id of this vocabulary.

    A restriction that stands behind the rest (`CC BY 4.0, no derivatives`) makes it `unknown`: it is never dropped.
    """
    if not text or len(text) > MAX_CHARS:
        return UNKNOWN
    words = " ".join(_DASHES.sub("-", text).lower().split())
    if not words or "all rights reserved" in words:
        return UNKNOWN
    for long, short in _WORDS.items():
        words = re.sub(long, short, words)
    if _DOUBT.search(words):
        return UNKNOWN
    is_restricted = _PART.search(words) or _TERMS.search(words)
    if _CC0.search(words):
        return UNKNOWN if is_restricted else CC0
    if found := _CC.search(words):
        parts = re.findall("by|nc|sa|nd", found[1])
        restricts = "nc" in parts or "nd" in parts
        if not set(parts).issuperset(_PART.findall(words, found.end())) or (_TERMS.search(words) and not restricts):
            return UNKNOWN
        # SPDX orders the parts by, nc, sa or nd
        name = "-".join(["CC", *(part.upper() for part in ("by", "nc", "sa", "nd") if part in parts)])
        return f"{name}-{found[2]}.{found[3]}" if found[2] else f"LicenseRef-{name}"
    return PUBLIC_DOMAIN if _PUBLIC_DOMAIN.search(words) and not is_restricted else UNKNOWN


def licence_family(licence: str) -> str:
    """Reduce an id to the family that policies name: `cc-by-nc` for CC-BY-NC-4.0; `unknown` stays."""
    if licence == CC0:
        return "cc0"
    return re.sub(r"-\d\.\d$", "", licence.removeprefix("LicenseRef-")).lower()
