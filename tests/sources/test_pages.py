"""Saved answers: one query a folder, written as in a URL; what is no page is neither kept nor read."""

from pathlib import Path

import pytest

from biovita.errors import BiovitaError, ConfigError, DatasetError
from biovita.sources.pages import as_text, claim, iter_saved, join_query, parse_query


@pytest.mark.parametrize("query", ["", "a=1", "a=1&a=2&b=x%20y,z", "geometry=POLYGON((1+2,3+4))", "year=2000,2010"])
def test_a_query_is_passed_on_as_it_is_written(query: str) -> None:
    assert join_query(parse_query(query, ("limit",))) == query


@pytest.mark.parametrize(
    "query", ["a", "a=1&", "&a=1", "=1", "a=x y", "a=\u00e9", "a=1#b", "limit=3", "a=1&limit=3", "a=1\nb=2", 'a="']
)
def test_a_query_that_is_written_otherwise_is_refused(query: str) -> None:
    with pytest.raises(ConfigError, match="query '"):
        parse_query(query, ("limit",))


def test_a_folder_answers_one_query(tmp_path: Path) -> None:
    claim(tmp_path, "https://x.org", [("a", "1")])
    claim(tmp_path, "https://x.org", [("a", "1")])
    for api, pairs in (("https://x.org", [("a", "2")]), ("https://y.org", [("a", "1")])):
        with pytest.raises(DatasetError, match="another query"):
            claim(tmp_path, api, pairs)


def test_saved_answers_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("page_00002.json", "page_00001.json", "request.json", "notes.txt"):
        (tmp_path / name).write_text(f'"{name}"')
    assert [page for _, page in iter_saved(tmp_path)] == ["page_00001.json", "page_00002.json"]
    (tmp_path / "page_00001.json").unlink()
    (tmp_path / "page_00001.json").mkdir()
    with pytest.raises(BiovitaError, match=r"page_00001\.json"):
        list(iter_saved(tmp_path))


def test_scalars_become_text_that_can_be_written() -> None:
    given = ["x", 5, 2.5, True, None, [1], {"a": 1}, "\ud800"]
    assert [as_text(value) for value in given] == ["x", "5", "2.5", "true", None, None, None, "?"]
