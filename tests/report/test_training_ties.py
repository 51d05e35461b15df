"""The training page and looks that are equally good."""

import pytest

from biovita.report.training import before_and_after


@pytest.mark.parametrize(("after", "best_step"), [(0.5, 6), (0.25, 3)])
def test_a_look_is_pointed_out_as_the_highest_only_where_it_is_higher_than_the_last(
    after: float, best_step: int
) -> None:
    looks = [{"stage": "s", "step": step, "val": {"a2t": top1}} for step, top1 in ((0, 0.25), (3, 0.5), (6, after))]
    assert before_and_after(looks)[0]["best_step"] == best_step
