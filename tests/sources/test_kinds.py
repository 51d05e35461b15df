"""Sources by their word: what a kind does not understand is refused, not passed over."""

from pathlib import Path

import polars as pl
import pytest

from biovita.errors import ConfigError
from biovita.sources.kinds import KINDS, read_source


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"inaturalist", "tree-of-life"}))
def test_species_are_chosen_only_where_they_can_be(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"--species-of: '{kind}' is read for all its species; leave it out"):
        read_source(kind, tmp_path, species={"Turdus merula"})


def test_licences_of_a_table_of_records_are_brought_to_our_words(tmp_path: Path) -> None:
    given = ["CC BY 4.0", "CC-BY-NC-4.0", "All rights reserved", "MIT", "unknown", None, "LicenseRef-CC-BY"]
    rows = {
        "media_id": [f"a:{i}" for i in range(len(given))],
        "modality": ["audio"] * len(given),
        "source": ["a"] * len(given),
        "scientific_name": ["Turdus merula"] * len(given),
        "licence": given,
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "records.parquet")
    assert read_source("records", tmp_path / "records.parquet").records["licence"].to_list() == [
        *("CC-BY-4.0", "CC-BY-NC-4.0", "unknown", "unknown", "unknown", "unknown", "LicenseRef-CC-BY"),
    ]
