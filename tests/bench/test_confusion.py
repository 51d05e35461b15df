import numpy as np
import polars as pl

from biovita.bench.confusion import by_group, error_consistency, lineages

INDEX = pl.DataFrame(
    {
        "id": ["1", "2", "3", "4", "5"],
        "species": ["Corvus corax", "Corvus corone", "Pica pica", "Oenanthe oenanthe", "Oenanthe crocata"],
        "genus": ["Corvus", "Corvus", "Pica", "Oenanthe", "Oenanthe"],
        "family": ["Corvidae", "Corvidae", "Corvidae", "Muscicapidae", "Apiaceae"],
    }
)


def test_lineages_leave_out_homonyms():
    species = lineages({"text": INDEX}, "species")
    assert species["genus"]["Pica pica"] == "Pica"
    assert species["family"]["Oenanthe crocata"] == "Apiaceae"
    assert lineages({"text": INDEX}, "genus") == {"family": {"Corvus": "Corvidae", "Pica": "Corvidae"}}
    assert lineages({"text": INDEX}, "family") == {}


def test_errors_in_the_right_genus_and_family_are_counted_by_hand():
    correct = ["Corvus corax", "Corvus corax", "Corvus corax", "Unknown bird"]
    answer = ["Corvus corone", "Pica pica", "Oenanthe oenanthe", "Corvus corax"]
    assert error_consistency(correct, answer, lineages({"text": INDEX}, "species")) == {"genus": 0.25, "family": 0.5}
    assert error_consistency([], [], lineages({"text": INDEX}, "species")) == {"genus": None, "family": None}


def test_each_group_is_counted():
    found = by_group(["Aves", "Aves", None, "Insecta"], np.array([1, 3, 7, 1]), (1, 5))
    assert found == {
        "Aves": {"n_queries": 2, "top1": 0.5, "top5": 1.0},
        "Insecta": {"n_queries": 1, "top1": 1.0, "top5": 1.0},
        "unknown": {"n_queries": 1, "top1": 0.0, "top5": 0.0},
    }
