"""The laws of the split on made-up tables of many shapes."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biovita.data.split import split
from biovita.errors import DatasetError

COLUMNS = ("media_id", "modality", "class", "species", "group")


def table(rows: list[tuple[str, str, str, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, COLUMNS, orient="row")


@st.composite
def media(draw: st.DrawFn) -> pl.DataFrame:
    """Species of three classes with few or many files; individuals may share sounds, pictures, even species."""
    rows = []
    for s in range(draw(st.integers(1, 14))):
        for modality in ("audio", "image"):
            for i in range(draw(st.integers(0, 12))):
                group = draw(st.sampled_from([f"{modality}{s}-{i}", f"ind{s}-{i % 3}", f"pair{s // 2}-{i % 2}"]))
                rows.append((f"{modality}-{s}-{i}", modality, "ABC"[s % 3], f"G s{s}", group))
    return table(rows or [("audio-0-0", "audio", "A", "G s0", "x")])


@given(media(), st.integers(0, 3), st.sampled_from([0, 0.1, 0.2]))
@settings(max_examples=60, deadline=None)
def test_the_laws_hold_on_any_table(rows: pl.DataFrame, seed: int, withheld: float) -> None:
    try:
        drawn = split(rows, seed=seed, withheld=withheld)
    except DatasetError as error:
        assert "can be withheld" in str(error)  # noqa: PT017 - either outcome is fine
        return
    assert set(drawn.of) == set(rows["media_id"])
    assert len(drawn.withheld) == round(withheld * rows["species"].n_unique())
    rows = rows.with_columns(split=pl.col("media_id").replace_strict(drawn.of))
    assert rows.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    unseen = rows.filter(pl.col("split") == "test_unseen")
    assert set(unseen["species"]) == set(drawn.withheld)
    seen = rows.filter(pl.col("split") != "test_unseen")
    assert not set(seen["species"]) & set(drawn.withheld)
    cells = seen.select("species", "modality").unique()
    in_train = seen.filter(pl.col("split") == "train").select("species", "modality").unique()
    assert len(cells) == len(in_train)
    assert split(rows.sample(fraction=1, shuffle=True, seed=5), seed=seed, withheld=withheld) == drawn


def many(n_species: int = 200, n_audio: int = 7, n_image: int = 5) -> pl.DataFrame:
    rows = []
    for s in range(n_species):
        class_ = "ABBCCCC"[s % 7]
        rows += [(f"a{s}-{i}", "audio", class_, f"G s{s}", f"a{s}-{i}") for i in range(1 + (s * n_audio) % 13)]
        rows += [(f"i{s}-{i}", "image", class_, f"G s{s}", f"i{s}-{i}") for i in range(n_image)]
    return table(rows)


def test_a_tenth_of_the_recordings_and_pictures_of_seen_species_is_held_out() -> None:
    rows = many()
    drawn = split(rows, seed=0, withheld=0.1)
    seen = [media_id for media_id, name in drawn.of.items() if name != "test_unseen"]
    for letter in "ai":
        names = Counter(drawn.of[media_id] for media_id in seen if media_id.startswith(letter))
        assert names["test_seen"] / names.total() == pytest.approx(0.1, abs=0.005)
        assert 0.03 < names["val"] / names.total() < 0.06


def test_withheld_species_are_rarely_recorded_and_spread_over_the_classes() -> None:
    rows = many()
    drawn = split(rows, seed=0, withheld=21)
    of = dict(rows.select("species", "class").unique().iter_rows())
    assert Counter(of[name] for name in drawn.withheld) == {"A": 3, "B": 6, "C": 12}
    n_recordings = dict(rows.filter(pl.col("modality") == "audio").group_by("species").len().iter_rows())
    assert max(n_recordings[name] for name in drawn.withheld) <= 7
    assert split(rows, seed=1, withheld=21).withheld != drawn.withheld


def test_species_with_both_modalities_are_withheld_first() -> None:
    rows = [("a0", "audio", "A", "G s0", "a0"), ("i0", "image", "A", "G s0", "i0")]
    rows += [(f"a{s}", "audio", "A", f"G s{s}", f"a{s}") for s in range(1, 5)]
    assert split(table(rows), seed=0, withheld=1).withheld == ["G s0"]
