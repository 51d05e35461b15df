"""A text or a path that stands alone is no list of letters."""

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(("method", "one"), [("text", "Rana"), ("audio", "a.wav"), ("image", Path("a.jpg"))])
def test_one_thing_alone_is_refused_and_never_taken_letter_by_letter(encoder: Any, method: str, one: object) -> None:
    with pytest.raises(TypeError, match=r"stands alone; give a list, \["):
        getattr(encoder, f"embed_{method}")(one)


def test_lists_tuples_and_nothing_are_taken_as_before(encoder: Any) -> None:
    assert encoder.embed_text(["Rana"]).shape == encoder.embed_text(("Rana",)).shape
    assert len(encoder.embed_text([])) == len(encoder.embed_image([])) == 0
