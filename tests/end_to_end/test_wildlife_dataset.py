"""141 real photos and recordings, real names and traits: what docs/results/wildlife_dataset.md says."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from biovita.data.dataset import Dataset, law_breaks, problems
from biovita.sources.licence import UNKNOWN
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.traits import TRAITS

DATA = Path(__file__).parents[3] / "shared" / "data"
LANGUAGES = ("de", "en_us", "es", "fr", "ja", "zh")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "wildlife").is_dir(), reason="shared/data/wildlife is not beside this checkout"),
]


@pytest.fixture(scope="module")
def home(once: Callable[..., Path]) -> Path:
    """A folder with `dataset`, built once a test run, and what the build said in `said.txt`."""

    def make(home: Path) -> None:
        names = DATA / "names"
        lists = [names / "eBird_taxonomy_v2025.csv", names / "birdnetgo_genus_taxonomy.json"]
        lists += [names / "birdnet_labels" / f"{language}.txt" for language in LANGUAGES]
        words = ["--manifest", DATA / "wildlife" / "manifest.tsv", "--taxa", *lists, "--traits", DATA / "traits"]
        line = [sys.executable, "-m", "biovita", "data", "build", *words, "--out", "dataset", "--withheld", "6"]
        done = subprocess.run([*map(str, line), "--seed", "1"], cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (home / "said.txt").write_text(done.stderr)

    return once("wildlife", make)


@pytest.fixture(scope="module")
def dataset(home: Path) -> Dataset:
    return Dataset.open(home / "dataset", verify=True)


def test_every_species_is_resolved_or_refused_with_the_reason(dataset: Dataset) -> None:
    given = pl.read_csv(DATA / "wildlife" / "manifest.tsv", separator="\t")["scientific_name"]
    names = dataset.names
    assert set(names["scientific_name"]) == set(given)
    refused = names.filter(pl.col("species").is_null())
    assert refused.select("scientific_name", "reason").rows() == [
        (
            "Dryophytes versicolor/chrysoscelis",
            "'Dryophytes versicolor/chrysoscelis': names more than one species",
        )
    ]
    found = names.filter(pl.col("species").is_not_null())
    assert dict(found["list"].value_counts().iter_rows()) == {
        "eBird_taxonomy_v2025.csv": 16,
        "birdnetgo_genus_taxonomy.json": 25,
    }
    assert set(found["how"]) == {"accepted"}
    assert found["reason"].null_count() == 41
    for rank in RANKS:
        assert found[rank].str.len_chars().min() > 2, rank
    assert found["genus"].equals(found["species"].str.split(" ").list.first(), check_names=False)


def test_nine_of_ten_birds_mammals_and_amphibians_have_traits(dataset: Dataset) -> None:
    taxa = dataset.taxa.filter(pl.col("class").is_in(["Aves", "Mammalia", "Amphibia"]))
    assert len(taxa) == len(dataset.taxa) == 41
    known = taxa.select(pl.any_horizontal(pl.col(name).is_not_null() for name in TRAITS)).to_series()
    assert known.mean() == 1.0  # 90 % are wanted
    n_known = taxa.select("class", n=pl.sum_horizontal(pl.col(name).is_not_null() for name in TRAITS))
    spread = n_known.group_by("class").agg(
        pl.len(), low=pl.col("n").min(), middle=pl.col("n").median(), high=pl.col("n").max()
    )
    assert set(spread.rows()) == {("Amphibia", 18, 6, 10.5, 14), ("Aves", 16, 15, 25, 29), ("Mammalia", 7, 20, 22, 23)}
    assert taxa["traits_conflict"].drop_nulls().len() == 4
    for row in taxa.iter_rows(named=True):
        assert set(json.loads(row["traits_source"])) == {name for name in TRAITS if row[name] is not None}
    [wolf] = taxa.filter(species="Canis lupus").iter_rows(named=True)
    assert (wolf["carnivore"], wolf["flies"], wolf["herbivore"]) == (True, False, False)


def test_nothing_leaks_and_every_record_is_accounted_for(dataset: Dataset) -> None:
    assert problems(dataset) == []
    assert law_breaks(dataset.media, dataset.taxa) == []
    counts = dataset.manifest["counts"]
    assert (counts["records"], counts["ok"], counts["quarantined"], counts["left_out"]) == (141, 135, 6, 0)
    assert counts["modalities"] == {"audio": 61, "image": 74}
    assert counts["reasons"] == {"name_unresolved": 6}
    assert counts["splits"] == {"test_seen": 12, "test_unseen": 15, "train": 103, "val": 5}
    assert counts["near_duplicates"] == 0
    withheld = set(dataset.taxa.filter("withheld")["species"])
    assert len(withheld) == 6
    unseen = dataset.media.filter(split="test_unseen")
    assert set(unseen["species"]) == withheld
    assert not withheld & set(dataset.media.filter(pl.col("split") != "test_unseen")["species"])
    licences = dataset.media["licence"]
    assert UNKNOWN not in set(licences)
    assert (licences.str.contains("NC").sum(), licences.str.contains("Public").sum()) == (77, 47)
    assert dataset.media.filter(pl.col("rights_holder").is_null())["licence"].to_list() == ["CC0-1.0"]


def test_common_names_are_there_in_six_languages_and_none_is_english_in_disguise(dataset: Dataset) -> None:
    spoken = dataset.taxa.select("species", "class", "common_name", "common_names")
    assert (spoken["common_name"] != "").all()
    n_of: dict[str, int] = {}
    for species, class_, _, text in spoken.iter_rows():
        names = json.loads(text) if text else {}
        if class_ == "Aves":
            assert set(names) == {"de", "en", "es", "fr", "ja", "zh"}, species
        for language, name in names.items():
            n_of[language] = n_of.get(language, 0) + 1
            assert language == "en" or name != names["en"], (species, language)
    assert n_of == {"en": 34, "fr": 33, "de": 18, "es": 16, "ja": 16, "zh": 16}
    [toad] = spoken.filter(species="Anaxyrus americanus")["common_names"]
    assert json.loads(toad) == {"en": "American Toad", "fr": "Crapaud d'Amérique"}


def test_the_build_says_what_it_read_and_what_it_refused(home: Path, dataset: Dataset) -> None:
    said = (home / "said.txt").read_text()
    for line in (
        "manifest.tsv: 141 records",
        "taxa eBird_taxonomy_v2025.csv: 11,167 species",
        "/traits: 17,",
        "dataset: 135 files of 41 species (6 withheld), 6 refused",
    ):
        assert line in said
    card = (home / "dataset" / "card.md").read_text()
    assert "135 files of 41 species: 61 recordings" in card
    assert "| name_unresolved | 6 |" in card
    assert len(pl.read_csv(home / "dataset" / "CREDITS.csv")) == 135
