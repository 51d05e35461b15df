"""Filters: a plain twin over rows in Python, and clean errors for everything that is none."""

import random
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from made_entries import picture, unit_rows

from biovita.errors import ArchiveError
from biovita.search.archive import About, Archive
from biovita.search.where import MAX_CHARS, read_filter

SUMMER = datetime(2024, 6, 1, tzinfo=UTC)
BEGIN = datetime(2024, 1, 1, 5, 30, tzinfo=UTC)
SPECIES = ("Turdus merula", "Turdus philomelos", "Rana o'temporaria", None)


def about(n: int) -> About:
    return About(
        recorded_at=BEGIN + timedelta(days=20 * n, hours=n) if n % 5 else None,
        latitude_deg=40.0 + n,
        longitude_deg=-5.0 + n / 2,
        device="mic" if n % 3 else None,
        licence="CC-BY-4.0" if n % 2 else "CC0-1.0",
        species=SPECIES[n % 4],
        duration_s=float(n),
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    from made_entries import FACTS, WIDTH

    made = Archive.create(tmp_path_factory.mktemp("where") / "archive", FACTS, width=WIDTH)
    made.add([picture(n, about=about(n)) for n in range(24)])
    return made


def found(archive: Archive, where: str) -> set[int]:
    """Ask both ways, by a search and by a list, and return the numbers of the pictures."""
    searched = {hit.id for hit in archive.nearest(unit_rows(1)[0], k=100, where=where)}
    assert searched == {hit.id for hit in archive.browse(where=where)}
    return {int(one[:8], 16) for one in searched}


def month(row: About) -> int:
    return row.recorded_at.month if row.recorded_at else -1


TWINS: dict[str, Callable[[About], Any]] = {
    "species = 'Turdus merula'": lambda row: row.species == "Turdus merula",
    'species = "Rana o\'temporaria"': lambda row: row.species == "Rana o'temporaria",
    "species = 'Rana o''temporaria'": lambda row: row.species == "Rana o'temporaria",
    "genus = 'Turdus'": lambda row: (row.species or "").startswith("Turdus "),
    "species is null": lambda row: row.species is None,
    "device is not null": lambda row: row.device is not None,
    "licence like 'CC0%'": lambda row: row.licence == "CC0-1.0",
    "lat > 50 and month = 5": lambda row: (row.latitude_deg or 0) > 50 and month(row) == 5,
    "LAT >= 50.5 OR lon < -2.5": lambda row: (row.latitude_deg or 0) >= 50.5 or (row.longitude_deg or 0) < -2.5,
    "not (lat < 60) or duration = 3": lambda row: (row.latitude_deg or 0) >= 60 or row.duration_s == 3,
    "month in (1, 2, 12)": lambda row: month(row) in (1, 2, 12),
    "month between 4 and 6": lambda row: 4 <= month(row) <= 6,
    "hour != 5 and recorded_at is not null": lambda row: row.recorded_at is not None and row.recorded_at.hour != 5,
    "recorded_at >= '2024-06-01'": lambda row: row.recorded_at is not None and row.recorded_at >= SUMMER,
    "recorded_at = '2024-01-21T07:30+01:00'": lambda row: row.duration_s == 1,
    "modality = 'audio'": lambda row: False,
    "lat > 50 and lat < 55 or lat = 40": lambda row: 50 < (row.latitude_deg or 0) < 55 or row.latitude_deg == 40,
    "path like '/nowhere/1_.jpg'": lambda row: 10 <= (row.duration_s or 0) < 20,
}


@pytest.mark.parametrize("where", TWINS)
def test_a_filter_keeps_the_rows_that_a_plain_loop_keeps(archive: Archive, where: str) -> None:
    expected = {n for n in range(24) if TWINS[where](about(n))}
    assert found(archive, where) == expected


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("specis = 'x'", "did you mean 'species'"),
        ("vector = 1", "no column"),
        ("species = Turdus", "a text in quotes"),
        ("species = 'Turdus", "cannot be read"),
        ("species > 'T'", "expected '=' or '!='"),
        ("lat = 'north'", "expected a number"),
        ("lat > 1e999", "expected a number"),
        ("month = 5.5", "a whole number"),
        ("lat like '5%'", "expected"),
        ("recorded_at > 2024", "a time in quotes"),
        ("recorded_at > 'yesterday'", "a time in quotes"),
        ("recorded_at > '0001-01-01'", "from 1700 to 2200"),
        ("recorded_at > '9999-12-31T23:59-14:00'", "a time"),
        ("month in ()", "a whole number"),
        ("month in (1, 2", "expected ')'"),
        ("month = 5 and", "expected a column"),
        ("month = 5 month = 6", "expected 'and', 'or' or the end"),
        ("(month = 5", "expected ')'"),
        ("month = 5)", "expected 'and', 'or' or the end"),
        ("not", "expected a column"),
        ("1 = 1", "expected a column"),
        ("month = 5; drop table media", "cannot be read"),
        ("month = 5 -- x", "cannot be read"),
        ("month = (select 1)", "a whole number"),
        ("lower(species) = 'x'", "no column"),
        ("species = 'a' 'b'", "the end"),
        ("month = 5 \x00", "cannot be printed"),
        ("month = 5\n", "cannot be printed"),
        ("(" * 30 + "month = 5" + ")" * 30, "nested more than"),
        ("not " * 30 + "month = 5", "nested more than"),
        ("month in (" + ",".join("1" * 101) + ")", "more than 100 values"),
        ("x" * (MAX_CHARS + 1), "at most 2,000"),
    ],
)
def test_what_is_no_filter_is_one_clean_line(where: str, said: str) -> None:
    with pytest.raises(ArchiveError) as error:
        read_filter(where)
    assert said in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


PIECES = (
    "' OR '1'='1", "'; DROP TABLE media; --", "\" OR \"\"=\"", "') OR (1=1", "/**/", "--", "UNION SELECT 1",
    "species", "= 'x'", "OR TRUE", "true", "1=1", "IS NOT NULL", "NULL", "\\'", "''", "'", "\"", "%", "x'27'", "\u2019",
    "CAST(", ")", "(", "month", "in", "between 1 and 12", "like '%'", ";", "\x00", "\x1b[2J", "\u202e", "\ud83d\ude00",
    "0x1F", "1e400", "-0", "and", "not", "sleep(10)", "arrow_cast(vector, 'Utf8')", "`species`", "[0]", "::int",
    "timestamp '2024-01-01'", "media.vector", "_distance", "_rowid", "A" * 3000, "(" * 300, "\n", "\t", "\uff07",
)  # fmt: skip


def hostile(n: int) -> str:
    """Make hostile filter number n: pieces of attacks, bare or inside a text, noise, or a million characters."""
    draw = random.Random(n)
    kind = n % 4
    if kind == 0:
        return " ".join(draw.choice(PIECES) for _ in range(draw.randint(1, 8)))
    if kind == 1:
        return f"species = '{''.join(draw.choice(PIECES) for _ in range(draw.randint(1, 3)))}'"
    if kind == 2:
        return "".join(draw.choice(string.printable + "\u00e9\u4e2d'\"") for _ in range(draw.randint(1, 200)))
    return f"lat > 400 {draw.choice(PIECES)} " * draw.choice((1, 1, 1, 40_000))


def test_500_hostile_filters_give_a_clean_error_or_no_row(archive: Archive) -> None:
    said: list[str] = []
    for n in range(500):
        where = hostile(n)
        try:
            hits = archive.nearest(unit_rows(1)[0], k=100, where=where)
        except ArchiveError as error:
            said.append(str(error))
        else:
            condition = read_filter(where)
            assert hits == [] or condition in ("(species IS NOT NULL)", "(month IS NOT NULL)"), (where, condition)
    assert len(said) > 300
    assert all("where" in line and line.isprintable() and len(line) < 500 for line in said)
    assert not [line for line in said if "cannot be used" in line]  # refused here, not by the database
    assert len(archive) == 24
