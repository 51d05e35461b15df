"""GOLDEN: small models of fixed weights give the numbers in golden.json; `make golden` writes it, and the diff is read.

The tolerance is ten times what processors differ by: with AVX-512, AVX2 and SSE4 kernels, on 1 and 2 threads, first
components differ by at most 7e-8 and sums over 768 components by 1.1e-6 (tools/golden.py, torch 2.13). A wrong
activation, window or padding changes them by 1e-3 and more.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from golden import FILE, compute, make_encoder, sounds

MOST = 1e-5


def places(golden: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(model, group, item) for model in golden for group in golden[model] for item in golden[model][group]]


GOLDEN = json.loads(FILE.read_text())
PLACES = places(GOLDEN)


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    return compute()


@pytest.mark.parametrize(("model", "group", "item"), PLACES)
def test_numbers_are_the_golden_ones(computed: dict[str, Any], model: str, group: str, item: str) -> None:
    golden, found = GOLDEN[model][group][item], computed[model][group][item]
    if group == "tokens":
        assert found == golden
    else:
        np.testing.assert_allclose(found["first"] + found["sums"], golden["first"] + golden["sums"], atol=MOST, rtol=0)


def test_every_golden_number_is_computed_and_no_other(computed: dict[str, Any]) -> None:
    assert places(computed) == PLACES


def test_a_wrong_padding_would_be_seen(computed: dict[str, Any]) -> None:
    wrong = make_encoder("direct", "pad").embed_audio([sounds()["chirp"]])[0]
    assert abs(wrong[:8] - computed["direct"]["audio, onset"]["chirp"]["first"]).max() > 100 * MOST
