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
        ("All rights reserved", "unknown"),
        ("MIT", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_licence_text_means_this_id(text: str | None, licence: str) -> None:
    assert normalise_licence(text) == licence
    assert normalise_licence(licence) == licence


def test_policies_name_families() -> None:
    ids = ("CC0-1.0", "LicenseRef-Public-Domain", "CC-BY-4.0", "LicenseRef-CC-BY-NC", "CC-BY-NC-SA-2.5", "unknown")
    assert [licence_family(i) for i in ids] == ["cc0", "public-domain", "cc-by", "cc-by-nc", "cc-by-nc-sa", "unknown"]
