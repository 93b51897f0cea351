"""Resamples of problems, and the intervals made from them."""

from __future__ import annotations

import numpy as np
import pytest

from eval.analysis import bootstrap
from eval.schema import Interval

from ..support import simulated


@pytest.mark.parametrize("problems", [1, 7, 30, 541])
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 0.7, 17574.3])
def test_an_interval_holds_its_value(value: float, problems: int) -> None:
    """Resamples of equal values add up to a little more or less than the value."""
    values = np.full(problems, value)
    found = bootstrap.interval(value, bootstrap.draws(problems) @ values)
    assert found.low <= found.value == value <= found.high
    assert found.high - found.low < 1e-10
    for other in (0.0, np.inf):  # the numbers next to it
        beside = float(np.nextafter(value, other))
        found = bootstrap.interval(value, np.full(1000, beside))
        assert {found.low, found.value, found.high} == {value, beside}
        assert found.low <= found.value == value <= found.high


def test_an_interval_leaves_out_two_and_a_half_per_cent_on_either_side() -> None:
    assert bootstrap.interval(500.0, np.arange(1001.0)) == Interval(500.0, 25.0, 975.0)


def test_equal_means_compare_equal_and_others_do_not() -> None:
    once, again = (
        np.array(sums).mean(0) for sums in ([[0.3], [0.1], [0.8], [0.2], [0.9]], [[0.9], [0.1], [0.2], [0.3], [0.8]])
    )
    assert bootstrap.rounded(once) == bootstrap.rounded(again)
    assert bootstrap.rounded(once) < bootstrap.rounded(once + 1 / (541 * 64))


def test_runs_are_compared_on_the_problems_that_all_of_them_hold() -> None:
    few, more = simulated.scores(0, 0.5, problems=3), simulated.scores(1, 0.5, problems=5)
    assert bootstrap.common([few, more]) == bootstrap.common([more, few]) == ["0", "1", "2"]
    table = bootstrap.by_problem([more, few], ["2", "0"], bootstrap.accuracy)
    rows = [[s.problems[i].correct / s.problems[i].n for s in (more, few)] for i in (2, 0)]
    assert table.tolist() == rows
