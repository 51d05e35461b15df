"""Name forms of a species: which there are, and what each says."""

import json

import polars as pl
import pytest

from biovita.bench.build import make_bench, names_of
from biovita.bench.names import FORMS, forms_of, texts_of
from biovita.bench.official import open_bench
from biovita.errors import BenchError

INDEX = pl.DataFrame(
    {
        "id": ["b", "a"],
        "species": ["Turdus merula", "Rana nova"],
        "genus": ["Turdus", "Rana"],
        "family": ["Turdidae", ""],
        "class": ["Aves", "Amphibia"],
        "common_name": ["Common Blackbird", ""],
        "common_name_de": ["Amsel", None],
    }
)


def test_each_form_says_what_training_said_and_a_missing_common_name_is_the_scientific_one():
    texts = {(row[0], row[1]): row[2] for row in texts_of(INDEX, [*FORMS, "common_name_de"]).iter_rows()}
    assert texts == {
        ("a", "common_name"): "Rana nova",
        ("a", "genus"): "Rana",
        ("a", "scientific_and_common"): "Rana nova with common name Rana nova",
        ("a", "species"): "Rana nova",
        ("a", "taxonomy"): "Amphibia Rana Rana nova",
        ("a", "taxonomy_and_common"): "Amphibia Rana Rana nova with common name Rana nova",
        ("b", "common_name"): "Common Blackbird",
        ("b", "common_name_de"): "Amsel",
        ("b", "family"): "Turdidae",
        ("b", "genus"): "Turdus",
        ("b", "scientific_and_common"): "Turdus merula with common name Common Blackbird",
        ("b", "species"): "Turdus merula",
        ("b", "taxonomy"): "Aves Turdidae Turdus Turdus merula",
        ("b", "taxonomy_and_common"): "Aves Turdidae Turdus Turdus merula with common name Common Blackbird",
    }


def test_the_usual_forms_are_scientific_and_common_as_far_as_there_are_common_names():
    assert forms_of(INDEX) == ["species", "common_name"]
    assert forms_of(INDEX.drop("common_name")) == ["species"]
    assert forms_of(INDEX, ["common_name_de", "species", "common_name_de"]) == ["common_name_de", "species"]
    released = INDEX.drop("common_name").with_columns(com_canon=pl.lit("Blackbird"))
    assert "Blackbird" in texts_of(released, forms_of(released))["text"].to_list()


@pytest.mark.parametrize("form", ["common", "common_name_fr", ""])
def test_a_form_that_there_is_not_is_an_error_that_lists_those_that_there_are(form):
    with pytest.raises(BenchError, match=r"no such name form here; this benchmark has species|common_name, species"):
        forms_of(INDEX, [form])


def test_common_names_in_other_languages_come_from_the_dataset(make_dataset, tmp_path):
    folder = make_dataset(tmp_path / "dataset", n_species=24, n_withheld=10)
    make_bench(folder, tmp_path / "bench", seed=3)
    index = open_bench(tmp_path / "bench").text_index()
    assert not [name for name in index.columns if name.startswith("common_name_")]
    taxa = pl.DataFrame(
        {
            "species": ["A a", "B b", "C c"],
            "common_names": [json.dumps({"de": "Ah", "fr": "Eh"}), None, '{"de": "Zeh"}'],
        }
    )
    assert names_of(taxa).to_dict(as_series=False) == {
        "species": ["A a", "B b", "C c"],
        "common_name_de": ["Ah", None, "Zeh"],
        "common_name_fr": ["Eh", None, None],
    }
