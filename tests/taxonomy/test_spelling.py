"""Words that are spelled or declined alike: a whole column gives what a plain loop over its words gives."""

import random

import polars as pl
import pytest

from biovita.taxonomy.spelling import one_less, spoken, stem, stems, words_alike


def made_up(n: int, seed: int) -> list[str]:
    """Short words of few letters, so that many are alike; and endings of every kind."""
    rng = random.Random(seed)
    ends = ("", "rum", "ra", "er", "us", "um", "is", "os", "on", "es", "ii", "i", "a", "e", "x", "\u00e9")
    return ["".join(rng.choices("abc", k=rng.randint(1, 4))) + rng.choice(ends) for _ in range(n)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Ketupa lactea", "lacte"),
        ("Bubo lacteus", "lacte"),
        ("Astur cooperii", "cooper"),
        ("Parus ater", "ater"),  # less than three letters are no stem
        ("Corvus corax minor", "corax"),
    ],
)
def test_a_stem_is_left_alone_by_genus_and_gender(name: str, expected: str) -> None:
    assert stem(name) == expected


def test_stems_of_a_column_equal_those_of_a_loop() -> None:
    names = [f"Aus {word}" for word in made_up(2_000, 1)] + ["Aus bus dus"]
    assert stems(pl.Series(names)).to_list() == [stem(name) for name in names]
    assert stems(pl.Series([], dtype=pl.String)).to_list() == []


@pytest.mark.parametrize(
    ("word", "like", "alike"),
    [
        ("Vulpis", "Vulpes", True),
        ("Turdu", "Turdus", True),
        ("Turrdus", "Turdus", True),
        ("Trudus", "Turdus", True),  # swapped
        ("Durtus", "Turdus", False),
        ("Turd", "Turdus", False),
        ("Aurdus", "Turdus", False),  # another first letter
        ("Turdus", "Turdus", False),  # not alike, but the same
    ],
)
def test_words_are_alike_if_one_letter_is_wrong(word: str, like: str, alike: bool) -> None:
    assert words_alike([word], [like]) == ({word: [like]} if alike else {})


def test_words_alike_equal_those_of_a_plain_loop() -> None:
    words, known = made_up(300, 2), list(dict.fromkeys(made_up(300, 3)))
    expected = {}
    for word in words:
        like = sorted(k for k in known if k != word and k[:1] == word[:1] and one_less(k) & one_less(word))
        if like:
            expected[word] = like
    assert len(expected) > 100
    assert words_alike(words, known) == expected
    assert words_alike([], known) == words_alike(words, []) == {}


def test_a_common_name_is_spoken_without_marks() -> None:
    assert spoken("COOPER\u2019S HAWK") == spoken("Cooper's Hawk") == "coopers hawk"
    assert spoken("Eagle-owl") == "eagle owl"
