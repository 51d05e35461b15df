"""The released code's gate, against its rule written out step by step."""

import numpy as np

from biovita.train.gate import Keeper
from biovita.train.recipe import Gate

GATE = Gate(above=0.03, below=0.015, patience=3, memory=0.8)


def plain(course: list[float], before: float) -> list[bool]:
    """Whether the gate is open after each step."""
    mean, is_open, streak, found = None, True, 0, []
    for atc in course:
        mean = atc if mean is None else 0.8 * mean + 0.2 * atc
        if is_open:
            if mean > 1.03 * before:
                is_open, streak = False, 0
        else:
            streak = streak + 1 if mean < 1.015 * before else 0
            if streak == 3:
                is_open = True
        found.append(is_open)
    return found


def test_the_gate_closes_and_opens_as_the_rule_says() -> None:
    rng = np.random.default_rng(4)
    course = [2.0 + 0.3 * np.sin(n / 9) + rng.normal(0, 0.05) for n in range(400)]
    keeper = Keeper(GATE, before=2.0)
    found = []
    for atc in course:
        keeper.note(atc)
        found.append(keeper.is_open)
    assert found == plain(course, 2.0)
    assert 0.1 < np.mean(found) < 0.9
    assert np.count_nonzero(np.diff(found)) > 4


def test_a_gate_goes_on_from_its_state() -> None:
    course = [2.0 + 0.2 * np.sin(n / 5) for n in range(100)]
    whole, half = Keeper(GATE, before=2.0), Keeper(GATE, before=2.0)
    for atc in course[:60]:
        half.note(atc)
    other = Keeper(GATE)
    other.take(half.state())
    for atc in course:
        whole.note(atc)
    for atc in course[60:]:
        other.note(atc)
    assert other == whole
