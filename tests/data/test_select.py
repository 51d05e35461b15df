"""Records that are kept, refused or left out: the laws, and the plain twins."""

import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biovita.data.groups import merged
from biovita.data.select import dedupe_ids, select
from biovita.errors import DatasetError
from biovita.sources.licence import licence_family
from biovita.sources.record import as_records

COLUMNS = ("media_id", "modality", "species", "licence", "quality")


def records(*rows: tuple[str | None, ...]) -> pl.DataFrame:
    return pl.DataFrame(rows, dict.fromkeys(COLUMNS, pl.String), orient="row")


@st.composite
def worlds(draw: st.DrawFn) -> pl.DataFrame:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    licences = ["CC0-1.0", "CC-BY-4.0", "LicenseRef-CC-BY-NC", "unknown", None]
    return records(
        *(
            (
                f"x:{i}",
                ("audio", "image")[rng.integers(2)],
                f"G s{rng.integers(4)}",
                licences[rng.choice(5, p=[0.3, 0.3, 0.2, 0.1, 0.1])],
                ("A", "B", "C", "D", "E", None)[rng.integers(6)],
            )
            for i in range(draw(st.sampled_from([0, 1, 40, 120])))
        )
    )


@given(
    worlds(),
    st.dictionaries(st.sampled_from(["audio", "image"]), st.integers(0, 8)),
    st.sampled_from([None, ("cc0",), ("cc-by", "cc-by-nc")]),
    st.sampled_from([None, "A", "C", "E"]),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_it_is_the_plain_loop_and_every_record_is_accounted_for(
    rows: pl.DataFrame, caps: dict[str, int], licences: tuple[str, ...] | None, quality: str | None, seed: int
) -> None:
    chosen = select(rows, caps=caps, licences=licences, quality=quality, seed=seed)
    assert len(rows) == len(chosen.kept) + len(chosen.refused) + chosen.left_out["n"].sum()
    kept, refused, left_out = plain_select(rows, caps, licences, quality, seed)
    assert chosen.kept["media_id"].to_list() == kept
    assert chosen.refused.rows() == sorted(refused)
    assert chosen.left_out.rows() == sorted((*key, n) for key, n in left_out.items())
    again = select(rows.reverse(), caps=caps, licences=licences, quality=quality, seed=seed)
    assert again.kept.reverse().equals(chosen.kept)
    assert again.refused.equals(chosen.refused)
    assert again.left_out.equals(chosen.left_out)


def plain_select(rows, caps, licences, quality, seed):
    """Select with a loop over rows."""
    usable, refused, left_out = defaultdict(list), [], Counter()
    for row in rows.iter_rows(named=True):
        licence = row["licence"] or "unknown"
        cell = (row["species"], row["modality"])
        if licence == "unknown" or (licences is not None and licence_family(licence) not in licences):
            none = "the source states none; for folders of your own, --files-licence does"
            detail = none if licence == "unknown" else f"licence {licence}"
            refused.append((row["media_id"], "licence_refused", detail))
        elif quality and row["quality"] and row["quality"] > quality:
            left_out[(*cell, "quality")] += 1
        else:
            usable[cell].append(row["media_id"])
    kept = set()
    for cell, ids in usable.items():
        n = min(len(ids), caps.get(cell[1], len(ids)))
        kept |= set(sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:cap:{i}".encode()).digest())[:n])
        if n < len(ids):
            left_out[(*cell, "cap")] += len(ids) - n
    return [media_id for media_id in rows["media_id"] if media_id in kept], refused, left_out


def test_another_seed_draws_another_sample_under_the_same_cap() -> None:
    rows = records(*((f"x:{i}", "audio", "G s", "CC0-1.0", "B") for i in range(50)))
    one, other = (
        select(rows, caps={"audio": 10}, licences=None, quality=None, seed=s).kept["media_id"].to_list() for s in (1, 2)
    )
    assert len(one) == len(other) == 10
    assert one != other


def test_a_cap_prefers_no_quality() -> None:
    """A sample of the best recordings only would be biased; quality is a filter."""
    rows = records(*((f"x:{i}", "audio", f"G s{i % 300}", "CC0-1.0", "AE"[i >= 1500]) for i in range(3000)))
    kept = select(rows, caps={"audio": 1}, licences=None, quality=None, seed=0).kept
    assert 110 < (kept["quality"] == "A").sum() < 190


def test_a_record_that_nobody_graded_stays() -> None:
    rows = records(("x:1", "audio", "G s", "CC0-1.0", None), ("x:2", "audio", "G s", "CC0-1.0", "D"))
    chosen = select(rows, caps={}, licences=None, quality="C", seed=0)
    assert chosen.kept["media_id"].to_list() == ["x:1"]
    assert chosen.left_out.rows() == [("G s", "audio", "quality", 1)]


def test_a_quality_that_is_no_grade_is_refused() -> None:
    with pytest.raises(DatasetError, match="'Q': give one of A, B, C, D, E"):
        select(records(), caps={}, licences=None, quality="Q", seed=0)


def source(name: str, *rows: tuple[str, str | None, str]) -> pl.DataFrame:
    """Records of a source: media_id, url, scientific name."""
    table = pl.DataFrame(rows, dict.fromkeys(("media_id", "url", "scientific_name"), pl.String), orient="row")
    extra = {"modality": "audio", "source": name, "licence": "CC0-1.0"}
    return as_records(table.with_columns(pl.lit(value).alias(column) for column, value in extra.items()), Path(name))


def test_the_same_recording_from_two_sources_is_kept_once_and_the_first_source_wins() -> None:
    first = source("xeno-canto", ("xc:1", "u1", "Pica pica"), ("xc:2", "u2", "Pica pica"))
    second = source("official", ("xc:2", "v2", "Pica sp"), ("xc:3", "u1", "Pica pica"), ("xc:4", "u4", "Pica pica"))
    kept, refused = dedupe_ids([first, second])
    assert kept.select("media_id", "source").rows() == [
        ("xc:1", "xeno-canto"), ("xc:2", "xeno-canto"), ("xc:4", "official")
    ]  # fmt: skip
    assert refused.rows() == [
        ("xc:2", "duplicate", "given by xeno-canto already, which is called Pica pica"),
        ("xc:3", "duplicate", "same url as xc:1"),
    ]


def test_a_row_that_fell_for_its_id_takes_no_url_from_others() -> None:
    first = source("a", ("x:1", "u1", "Pica pica"))
    second = source("b", ("x:1", "u2", "Pica pica"), ("x:2", "u2", "Pica pica"))
    kept, refused = dedupe_ids([first, second])
    assert kept["media_id"].to_list() == ["x:1", "x:2"]
    assert refused["media_id"].to_list() == ["x:1"]


def test_records_without_a_url_are_no_duplicates() -> None:
    table = source("a", ("x:1", None, "Pica pica"), ("x:2", None, "Pica pica"))
    kept, refused = dedupe_ids([table])
    assert kept.equals(table)
    assert refused.is_empty()


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9)), unique_by=lambda r: r[0]), min_size=1
    )
)
@settings(max_examples=60, deadline=None)
def test_duplicates_are_those_of_the_plain_loop_in_any_row_order(drawn: list[list[tuple[int, int | None]]]) -> None:
    tables = [
        source(f"s{i}", *((f"x:{m}", None if u is None else f"u{u}", "Pica pica") for m, u in rows))
        for i, rows in enumerate(drawn)
    ]
    ids, urls, expected = set(), set(), []
    for table in tables:
        for row in table.sort("media_id").iter_rows(named=True):
            if row["media_id"] in ids:
                continue
            ids.add(row["media_id"])
            if row["url"] is None or row["url"] not in urls:
                expected.append((row["media_id"], row["source"]))
                urls.add(row["url"])
    kept, refused = dedupe_ids(tables)
    assert sorted(kept.select("media_id", "source").iter_rows()) == sorted(expected)
    assert len(kept) + len(refused) == sum(map(len, tables))
    again, refused_again = dedupe_ids([table.reverse() for table in tables])
    assert again.sort("media_id").equals(kept.sort("media_id"))
    assert refused_again.equals(refused)


@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.none() | st.integers(0, 12), st.none() | st.integers(0, 12)), max_size=30
    ),
    st.randoms(),
)
@settings(max_examples=150, deadline=None)
def test_groups_that_share_a_label_are_merged_as_by_the_plain_loop(drawn: list[tuple], random) -> None:
    random.shuffle(drawn)
    names = ["group", "one", "other"]
    rows = pl.DataFrame(drawn, dict.fromkeys(names, pl.Int64), orient="row").select(
        pl.format(f"{name[0]}{{}}", pl.col(name)).alias(name) for name in names
    )
    found = merged(rows["group"], rows["one"], rows["other"])
    # every round, a row takes the smallest group of all that it shares something with
    own = rows["group"].to_list()
    for _ in own:
        for column in rows.get_columns():
            least: dict[str, str] = {}
            for label, group in zip(column, own, strict=True):
                least[label] = min(least.get(label, group), group)
            own = [group if label is None else least[label] for label, group in zip(column, own, strict=True)]
    assert found.to_list() == own
    assert found.name == "group"


def test_groups_without_links_keep_their_names() -> None:
    """Else the splits of a build without near-duplicates would change."""
    groups = pl.Series("group", ["b", "a", "b", "c"])
    assert merged(groups, pl.Series([None, "n1", "n2", None], dtype=pl.String)).equals(groups)
