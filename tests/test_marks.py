"""Marks of values that occur again or stand beside several others, and their plain twins."""

from collections import Counter, defaultdict

import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from biovita.tables import occurs_again, stands_beside_several

VALUES = st.none() | st.sampled_from("abcdefg")


@given(st.lists(VALUES))
@example([None, None, "a"])
def test_values_that_occur_again_are_those_that_a_plain_loop_counts_twice(values: list[str | None]) -> None:
    counts = Counter(values)
    marks = occurs_again(pl.Series("x", values, pl.String))
    assert marks.to_list() == [value is not None and counts[value] > 1 for value in values]


@given(st.lists(st.tuples(VALUES, VALUES)))
@example([("a", "b"), ("a", None), (None, "a"), (None, "b")])
def test_values_beside_several_others_are_those_of_the_plain_loop(rows: list[tuple[str | None, str | None]]) -> None:
    beside = defaultdict(set)
    for here, other in rows:
        beside[here].add(other)
    table = pl.DataFrame(rows, {"here": pl.String, "other": pl.String}, orient="row")
    marks = stands_beside_several(table["here"], table["other"])
    assert marks.to_list() == [here is not None and len(beside[here]) > 1 for here, _ in rows]
