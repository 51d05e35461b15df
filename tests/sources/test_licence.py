"""Licence texts as sources write them, and the ids that they mean."""

import pytest

from biovita.sources.licence import licence_family, normalise_licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("cc-by-nc", "LicenseRef-CC-BY-NC"),
        ("CC BY-NC", "LicenseRef-CC-BY-NC"),
        ("CC BY 2.0", "CC-BY-2.0"),
        ("CC-BY 4.0", "CC-BY-4.0"),
        ("CC BY-SA 3.0", "CC-BY-SA-3.0"),
        ("CC_BY_NC_4_0", "CC-BY-NC-4.0"),
        ("CC0", "CC0-1.0"),
        ("no rights reserved (CC0)", "CC0-1.0"),
        ("CC Zero", "CC0-1.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/legalcode", "CC0-1.0"),
        ("//creativecommons.org/licenses/by-nc-nd/2.5/", "CC-BY-NC-ND-2.5"),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", "CC-BY-NC-SA-4.0"),
        ("https://creativecommons.org/licenses/by-sa/3.0/de/", "CC-BY-SA-3.0"),
        ("Creative Commons Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
        ("© X, some rights reserved (CC BY)", "LicenseRef-CC-BY"),
        ("Public domain (NPS)", "LicenseRef-Public-Domain"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "LicenseRef-Public-Domain"),
        ("Creative Commons Attribution Non Commercial 4.0", "CC-BY-NC-4.0"),
        ("Creative Commons Attribution - Non-Commercial - No Derivative Works 3.0", "CC-BY-NC-ND-3.0"),
        ("Creative Commons Attribution (Share Alike), Version 4.0", "LicenseRef-CC-BY-SA"),
        ("CC BY\u2013NC 4.0", "CC-BY-NC-4.0"),
        ("CC\u2011BY\u2011ND", "LicenseRef-CC-BY-ND"),
        ("CC-BYNC", "LicenseRef-CC-BY-NC"),
        ("CC BY, NC", "LicenseRef-CC-BY-NC"),
        ("CC BY - NC - SA 4.0", "CC-BY-NC-SA-4.0"),
        ("CC BY no commercial use", "LicenseRef-CC-BY-NC"),
        ("CC BY 4.0, no derivatives", "unknown"),
        ("CC BY 4.0 (CC BY-NC 4.0)", "unknown"),
        ("© Sa Nd, some rights reserved (CC BY)", "LicenseRef-CC-BY"),
        ("Creative Commons, photo by Jane Doe", "unknown"),
        ("Creative Commons Sampling Plus, recorded by Jane Doe", "unknown"),
        ("Creative Commons Zero", "CC0-1.0"),
        ("CC BY 4.0, not for commercial use", "unknown"),
        ("CC BY 4.0 without derivatives", "unknown"),
        ("CC BY by request only", "unknown"),
        ("CC BY 4.0; commercial use needs a permission", "unknown"),
        ("not in the public domain", "unknown"),
        ("public domain, for non-commercial use", "unknown"),
        ("copyright; not CC0", "unknown"),
        ("CC0, no derivatives", "unknown"),
        ("CC0, attribution not required", "CC0-1.0"),
        ("CC BY-NC 4.0, for non-commercial use only", "CC-BY-NC-4.0"),
        ("CC BY-NC 4.0; commercial use needs a permission", "CC-BY-NC-4.0"),
        ("CC BY-NC-ND 4.0 (no derivatives)", "CC-BY-NC-ND-4.0"),
        ("CC BY 4.0 " + "-" * 32_000, "unknown"),
        ("All rights reserved", "unknown"),
        ("MIT", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_licence_text_means_this_id(text: str | None, licence: str) -> None:
    assert normalise_licence(text) == licence
    assert normalise_licence(licence) == licence


@pytest.mark.parametrize("version", ["1.0", "2.0", "2.5", "3.0", "4.0"])
@pytest.mark.parametrize("parts", ["by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd"])
def test_the_addresses_of_all_licences_are_read(parts: str, version: str) -> None:
    expected = f"CC-{parts.upper()}-{version}"
    for start in (
        "https://creativecommons.org/licenses/",
        "http://creativecommons.org/licenses/",
        "//www.creativecommons.org/licences/",
    ):
        for end in ("", "/", "/legalcode", "/deed.de", "/us/", "/legalcode.fr", "/?ref=chooser-v1"):
            assert normalise_licence(f"{start}{parts}/{version}{end}") == expected


def test_policies_name_families() -> None:
    ids = ("CC0-1.0", "LicenseRef-Public-Domain", "CC-BY-4.0", "LicenseRef-CC-BY-NC", "CC-BY-NC-SA-2.5", "unknown")
    assert [licence_family(i) for i in ids] == ["cc0", "public-domain", "cc-by", "cc-by-nc", "cc-by-nc-sa", "unknown"]
