"""Archives for the tests beside this file; `made_entries` makes what goes into them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_entries import FACTS, WIDTH

from biovita.search.archive import Archive, Entry


@pytest.fixture
def new_archive(tmp_path: Path) -> Callable[..., Archive]:
    """Make an archive and put entries into it."""

    def make(entries: list[Entry] | None = None, name: str = "archive") -> Archive:
        archive = Archive.create(tmp_path / name, FACTS, width=WIDTH, model="nowhere")
        if entries:
            archive.add(entries)
        return archive

    return make
