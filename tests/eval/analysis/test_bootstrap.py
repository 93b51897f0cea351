"""Resamples of problems, and the intervals made from them."""

from __future__ import annotations

import numpy as np
import pytest

from eval.analysis import bootstrap
from eval.schema import Interval, ProblemScore

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


def problem(right: list[bool], tokens: list[int], thinking: int = 0) -> ProblemScore:
    n = len(right)
    answers = ["7" if r else "8" for r in right]
    return ProblemScore("p", n, sum(right), thinking, 0, 0, tokens, answers, right)


def test_the_sampling_error_by_hand() -> None:
    """Two problems of two responses: (1, 0) has s^2 = 1/2, (1, 1) has 0, so SE^2 = (1/2 / 2 + 0) / 4 = 1/16."""
    problems = [problem([True, False], [10, 14], 1), problem([True, True], [20, 20], 2)]
    assert bootstrap.sampling_error(problems, bootstrap.correct_each) == 0.25
    assert bootstrap.sampling_error(problems, bootstrap.thinking_each) == 0.25
    # (10, 14): s^2 = 8, so SE^2 = (8 / 2) / 4 = 1
    assert bootstrap.sampling_error(problems, bootstrap.tokens_each) == 1.0


def test_the_sampling_error_of_one_response_each_is_unknown() -> None:
    assert bootstrap.sampling_error([problem([True], [3])], bootstrap.correct_each) is None


def test_the_sampling_error_is_that_of_other_runs_on_the_same_problems() -> None:
    """2,000 runs of a known model. Their spread is known to sqrt(1 / 4000) = 1.6 %, and the mean of SE^2 to less, so
    six per cent are more than three times what chance explains. The interval over problems is three times as wide."""
    generator = np.random.default_rng(0)
    chances = np.array([0.02, 0.1, 0.5, 0.9, 0.98, 1.0] * 5)
    drawn = generator.random((2000, chances.size, 8)) < chances[None, :, None]
    spread = drawn.mean((1, 2)).std()
    runs = [[problem(list(map(bool, row)), [1] * 8) for row in run] for run in drawn[:200]]
    squares = [found**2 for run in runs if (found := bootstrap.sampling_error(run, bootstrap.correct_each)) is not None]
    assert len(squares) == 200
    assert np.sqrt(np.mean(squares)) == pytest.approx(spread, rel=0.06)
    assert np.sqrt(np.mean(squares)) == pytest.approx(
        np.sqrt((chances * (1 - chances) / 8).sum()) / chances.size, rel=0.06
    )
    whole = bootstrap.mean_interval(drawn[0].mean(1))
    assert (whole.high - whole.low) / (2 * 1.96) > 3 * spread
