"""Successive halving: what the rungs are, and which candidates stop where."""

from __future__ import annotations

from typing import Any

from eval.schema import Problem
from eval.tune.rungs import CLEARLY, Rung, Rungs, dominates, plan
from eval.tune.split import Split

from ..support import landscape
from ..support.simulated import counted


def sized(**counts: int) -> list[Split]:
    return [
        Split(landscape.benchmark(name), [Problem(str(i), "", 0) for i in range(count)], [])
        for name, count in counts.items()
    ]


def problems(made: Rungs) -> list[dict[str, int]]:
    return [rung.problems for rung in made.rungs]


def test_rungs_double_problems_and_the_last_one_doubles_samples():
    made = plan(sized(gpqa=100), {"gpqa": 8})
    assert made.rungs == [
        Rung({"gpqa": 25}, {"gpqa": 4}),
        Rung({"gpqa": 50}, {"gpqa": 4}),
        Rung({"gpqa": 100}, {"gpqa": 4}),
        Rung({"gpqa": 100}, {"gpqa": 8}),
    ]
    assert made.whole == 2


def test_each_benchmark_has_ten_problems_or_all():
    made = plan(sized(aime25=15, gpqa=99), {"aime25": 64, "gpqa": 7})
    assert problems(made)[0] == {"aime25": 10, "gpqa": 25}
    assert problems(made)[made.whole] == {"aime25": 15, "gpqa": 99}
    assert made.rungs[0].samples == {"aime25": 32, "gpqa": 4}
    assert made.rungs[-1].samples == {"aime25": 64, "gpqa": 7}


def test_rungs_that_add_little_are_left_out():
    assert problems(plan(sized(a=15), {"a": 1})) == [{"a": 10}, {"a": 15}]
    assert problems(plan(sized(a=12), {"a": 1})) == [{"a": 12}], "10 and then 12 would be two runs for one"
    assert problems(plan(sized(a=4), {"a": 1})) == [{"a": 4}]
    assert problems(plan(sized(a=24), {"a": 1})) == [{"a": 10}, {"a": 24}]
    one = plan(sized(a=100), {"a": 1})
    assert len(one.rungs) == 3, "one sample cannot be halved"
    assert one.whole == 2


def run(correct: list[int], tokens: list[int]) -> dict[str, Any]:
    return {"a": counted(correct, tokens, benchmark="a")}


MADE = plan(sized(a=100), {"a": 8})
GOOD = run([4] * 25, [50] * 25)


def test_what_is_clearly_dominated_stops():
    bad = run([2] * 25, [60] * 25)
    assert dominates(GOOD, bad) == 1
    assert MADE.stops(0, bad, [(3, GOOD)])
    assert MADE.stops(1, bad, [(3, GOOD)])
    assert not MADE.stops(0, GOOD, [(3, bad)])


def test_what_is_cheaper_or_more_accurate_goes_on():
    cheap = run([2] * 25, [40] * 25)
    accurate = run([4] * 25, [50] * 25)
    for own in (cheap, accurate):
        assert not MADE.stops(0, own, [(3, GOOD)])
    assert not MADE.stops(0, run([2] * 25, [60] * 25), []), "the first candidate has nothing to compare with"


def test_what_is_dominated_by_chance_goes_on():
    other = run([4, 3] * 12 + [4], [50] * 25)
    unlucky = run([3, 4] * 12 + [3], [50] * 24 + [51])
    assert 0.5 < dominates(other, unlucky) < CLEARLY
    assert not MADE.stops(0, unlucky, [(3, other)])


def test_candidates_that_stopped_earlier_stop_nobody_further_on():
    bad = run([2] * 25, [60] * 25)
    assert not MADE.stops(1, bad, [(0, GOOD)]), "they have fewer problems in common than this rung has"
    assert MADE.stops(1, bad, [(0, GOOD), (1, GOOD)])


def test_more_samples_only_where_they_can_change_the_front():
    dominated = run([4] * 25, [60] * 25)
    assert MADE.stops(2, dominated, [(3, GOOD)])
    assert not MADE.stops(2, run([4] * 25, [45] * 25), [(3, GOOD)])
    # Dominated by one of two in every resample, but by none of them in 95 % of the resamples.
    half, other = run([4] * 12 + [0] * 13, [50] * 25), run([0] * 13 + [4] * 12, [50] * 25)
    own = run([2] * 25, [50] * 25)
    assert not MADE.stops(1, own, [(3, half), (3, other)])
