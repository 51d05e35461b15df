"""Saved answers of an API: a folder with `request.json`, which says what was asked, and one JSON file a page."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from biovita.errors import ConfigError, DatasetError, FetchError
from biovita.files import read_json, write_bytes, write_json

REQUEST: Final = "request.json"
_PART = re.compile(r"[A-Za-z0-9_.:%-]+=[!$'()*+,./0-9:;=?@A-Z_a-z~%-]*")  # the characters that a URL's query may have


class Door(Protocol):
    """What the sources need of `http.Door`."""

    def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
        """Return the body, or raise FetchError."""
        ...


def parse_query(query: str, ours: tuple[str, ...]) -> list[tuple[str, str]]:
    """Take a query apart that is written as in a URL (`taxonKey=212&locality=New%20York`); nothing is decoded.

    Args:
        query: some `key=value`, joined by `&`; a key may occur again.
        ours: keys that the paging needs and nobody else may set.

    Raises:
        ConfigError: it is written otherwise, or sets a key of ours.
    """
    parts = query.split("&") if query else []
    if not all(_PART.fullmatch(part) for part in parts):
        raise ConfigError(f"query '{query}': write it as in a URL, key=value&key=value, a blank as %20")
    pairs = [(key, value) for key, _, value in (part.partition("=") for part in parts)]
    if taken := [key for key, _ in pairs if key in ours]:
        raise ConfigError(f"query '{query}': leave out '{taken[0]}', which paging sets")
    return pairs


def join_query(pairs: Sequence[tuple[str, str]]) -> str:
    """Write key and value pairs as in a URL again."""
    return "&".join(f"{key}={value}" for key, value in pairs)


def claim(folder: Path, api: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Take a folder for the answers to one query.

    Raises:
        DatasetError: it holds the answers to another query.
    """
    request = {"api": api, "query": join_query(pairs)}
    if not (folder / REQUEST).is_file():
        write_json(folder / REQUEST, request)
    elif (held := read_json(folder / REQUEST)) != request:
        raise DatasetError(f"{folder}: holds the answers to another query ({held}); choose another folder or delete it")


def fetch_page(door: Door, api: str, pairs: Sequence[tuple[str, str]], path: Path) -> dict[str, Any]:
    """Return the page that is saved at `path`; if there is none, ask for it, and save it if it has results.

    Raises:
        FetchError: the answer is not JSON, or has no list of results.
    """
    if path.is_file():
        return results_of(read_json(path), path)
    url = f"{api}?{join_query(pairs)}"
    body = door.get(url)
    try:
        page = results_of(json.loads(body), url)
    except (ValueError, RecursionError, DatasetError) as error:
        said = " ".join(body[:200].decode(errors="replace").split())
        raise FetchError(f"{url}: no page of results in the answer: {said}", kind="permanent") from error
    write_bytes(path, body)
    return page


def results_of(page: Any, name: Path | str) -> dict[str, Any]:
    """Make sure that an answer is an object with a list of objects as `results`."""
    results = page.get("results") if isinstance(page, dict) else None
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        said = " ".join(json.dumps(page)[:200].split())
        raise DatasetError(f"{name}: no list 'results' of objects in it: {said}")
    return page


def page_path(folder: Path, number: int) -> Path:
    """Name the file of a page, counted from 1."""
    return folder / f"page_{number:05d}.json"


def iter_saved(path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield every saved answer, from one file or all `.json` files of a folder, by name.

    Raises:
        DatasetError: there is none.
    """
    files = sorted(file for file in path.glob("*.json") if file.name != REQUEST) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path}: no saved page (.json) in it; fetch the query first")
    for file in files:
        try:
            yield file, read_json(file)
        except (RecursionError, OSError) as error:
            raise DatasetError(f"{file}: cannot be read as JSON ({error})") from error


def as_text(value: Any) -> str | None:
    """Turn a JSON scalar into text that can be written; null, lists and objects are None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value).encode("utf-8", "replace").decode()
    return None
