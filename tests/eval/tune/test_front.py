"""Fronts and hypervolumes against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.tune.front import hypervolume, hypervolumes, undominated
from eval.tune.resampled import Resampled

from ..support.simulated import counted as scores


def test_a_front_is_what_nothing_dominates():
    points = [(0.5, 100), (0.4, 90), (0.4, 95), (0.9, 300), (0.89, 301), (0.5, 101), (0.2, 10)]
    assert undominated(points) == [6, 1, 0, 3]


def test_of_equal_points_the_first_is_on_the_front():
    assert undominated([(0.5, 10), (0.5, 10)]) == [0]
    assert undominated([]) == []


def test_hypervolume_by_hand():
    # Budgets from 0 to 100: nothing up to 20, 0.5 up to 60, 0.8 up to 100.
    assert hypervolume([(0.5, 20), (0.8, 60)], 100) == pytest.approx((0.5 * 40 + 0.8 * 40) / 100)
    assert hypervolume([(0.8, 60), (0.5, 20)], 100) == pytest.approx(0.52), "the order does not matter"
    assert hypervolume([(0.5, 20), (0.8, 60), (0.7, 70), (0.4, 30)], 100) == pytest.approx(0.52), "dominated points"
    assert hypervolume([(0.5, 20), (0.8, 160)], 100) == pytest.approx(0.4), "a point beyond the limit counts nothing"
    assert hypervolume([(0.8, 160)], 100) == 0
    assert hypervolume([], 100) == 0
    assert hypervolume([(1.0, 0)], 100) == 1


def test_many_rows_are_the_rows_one_by_one():
    rng = np.random.default_rng(0)
    mean, tokens = rng.random((50, 7)), rng.random((50, 7)) * 120
    expected = [hypervolume(list(zip(m, t)), 100) for m, t in zip(mean, tokens)]
    assert hypervolumes(mean, tokens, 100) == pytest.approx(expected)
    # And against the definition: the mean over budgets of the best mean within the budget.
    budgets = (np.arange(20000) + 0.5) / 200
    for m, t, volume in zip(mean[:5], tokens[:5], expected):
        best = np.where(t[None] <= budgets[:, None], m[None], 0).max(1)
        assert best.mean() == pytest.approx(volume, abs=0.001), "of 20,000 budgets, each wrong by one step at most"


def test_domination_and_fronts_under_resampling():
    good = {"aime25": scores([4] * 12, [50] * 12)}
    worse = {"aime25": scores([3] * 12, [60] * 12)}
    dear = {"aime25": scores([4] * 12, [90] * 12)}
    cheap = {"aime25": scores([1] * 12, [10] * 12)}
    table = Resampled.of([good, worse, dear, cheap])
    assert table.points() == [(1.0, 50.0), (0.75, 60.0), (1.0, 90.0), (0.25, 10.0)]
    assert table.dominated(1).tolist() == [1, 0, 0, 0]
    assert table.dominated(2).tolist() == [1, 0, 0, 0], "as accurate with more tokens"
    assert table.dominated(0).tolist() == [0, 0, 0, 0]
    assert [table.on_front(i) for i in range(4)] == [1, 0, 0, 1]
    mean, tokens = table.difference(1, 0)
    assert (mean.value, tokens.value) == (-0.25, 10)


def test_what_differs_by_chance_is_not_clearly_dominated():
    one = {"aime25": scores([0, 4] * 6, [50] * 12)}
    other = {"aime25": scores([4, 0] * 5 + [4, 4], [49] * 12)}
    share = Resampled.of([one, other]).dominated(0)[1]
    assert 0.4 < share < 0.95, "4 points more on other problems"


def test_candidates_are_compared_on_the_problems_that_both_have():
    few = {"aime25": scores([4] * 10, [50] * 10)}
    many = {"aime25": scores([4] * 10 + [0] * 10, [40] * 10 + [500] * 10)}
    table = Resampled.of([few, many])
    assert table.points() == [(1.0, 50.0), (1.0, 40.0)]


def test_benchmarks_count_equally_whatever_their_size():
    both = {"aime25": scores([4] * 10, [100] * 10), "gpqa": scores([0] * 40, [20] * 40)}
    assert Resampled.of([both]).points() == [(0.5, 60.0)]
