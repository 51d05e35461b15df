"""What docs/bench.md says of one's own vectors runs as it stands."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"


def rows(things: Sequence[str]) -> np.ndarray:
    """Make a vector a thing; equal things get equal ones."""
    found = np.stack([np.random.default_rng(list(str(thing).encode())).normal(size=32) for thing in things])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_example_of_the_page_writes_vectors_that_are_scored_without_a_gap(
    biovita: Callable[..., Any], made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert biovita("bench", "make", made_up, "--out", "BENCH").code == 0
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    exec(found[1], {"embed_files": rows, "embed_names": rows})
    ran = biovita("bench", "score", "BENCH", "--embeddings", "EMBEDDINGS", "--out", "results.json")
    assert ran.code == 0, ran.err
    assert "results.json: 36 scenarios" in ran.err
