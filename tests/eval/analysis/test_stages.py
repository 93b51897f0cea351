"""Stages: boundaries are found within their intervals, what cannot be known is said, and the sweep converges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.analysis import stages
from eval.schema import ProblemScore

from ..support import simulated

TENTHS = [i / 10 for i in range(11)]
# Think #R of Table 2's AIME'25, in per cent: the paper reads stages 0 to 0.4, 0.4 to 0.6 and 0.6 to 1 off it.
PAPER = {0: 0.0, 0.2: 0.0, 0.4: 1.4, 0.45: 14.4, 0.5: 59.6, 0.55: 91.6, 0.6: 100.0, 0.8: 99.9, 1: 99.9}


def points(lams: list[float], start: float, end: float, **options: object) -> list[tuple[float, simulated.Scores]]:
    return [(lam, simulated.scores(lam, lambda x: simulated.logistic(x, start, end), **options)) for lam in lams]


@pytest.mark.parametrize(
    ("start", "end", "spread"), [(0.42, 0.56, 0.0), (0.3, 0.7, 0.0), (0.25, 0.6, 0.0), (0.2, 0.7, 0.05)]
)
def test_boundaries_lie_in_their_intervals(start: float, end: float, spread: float) -> None:
    # Five draws of the data: 95 % intervals of ten boundaries all hold in 60 %, and eight of ten in 98.8 %.
    held = 0
    for seed in range(5):
        found = stages.fit(points([*TENTHS, 0.45, 0.55], start, end, spread=spread, problems=60, seed=seed))
        assert found.method == "logistic"
        assert found.start is not None
        assert found.middle is not None
        assert found.end is not None
        if spread:  # over problems the curve is flatter than one problem's: only its middle is known beforehand
            held += 2 * (found.middle.low <= (start + end) / 2 <= found.middle.high)
        else:
            held += (found.start.low <= start <= found.start.high) + (found.end.low <= end <= found.end.high)
        assert found.start.high - found.start.low < 0.08
    assert held >= 8


def test_problems_that_differ_widen_the_interval() -> None:
    same, differ = (
        stages.fit(points([*TENTHS, 0.45, 0.55], 0.42, 0.56, spread=spread)).middle for spread in (0.0, 0.08)
    )
    assert same is not None
    assert differ is not None
    assert differ.high - differ.low > 2 * (same.high - same.low)


def test_a_ceiling_below_one_does_not_move_the_boundaries() -> None:
    lams = [*TENTHS, 0.45, 0.55]
    cut = [
        (lam, simulated.scores(lam, lambda x: 0.8 * simulated.logistic(x, 0.42, 0.56), problems=100)) for lam in lams
    ]
    found = stages.fit(cut)
    assert found.start is not None
    assert found.end is not None
    assert found.start.value == pytest.approx(0.42, abs=0.015)
    assert found.end.value == pytest.approx(0.56, abs=0.015)
    assert found.curve is not None
    assert found.curve.drop[0] == pytest.approx(0.2, abs=0.02)


def test_the_papers_table_gives_the_papers_stages() -> None:
    found = stages.fit([(lam, simulated.scores(lam, share / 100, samples=64)) for lam, share in PAPER.items()])
    assert found.start is not None
    assert found.end is not None
    assert 0.4 <= found.start.low <= found.start.high <= 0.45
    assert 0.54 <= found.end.low <= found.end.high <= 0.6
    assert [found.stage(lam) for lam in (0.2, 0.5, 0.8)] == [1, 2, 3]


def test_a_boundary_belongs_to_the_stage_that_begins_there() -> None:
    found = stages.fit([(lam, simulated.scores(lam, share / 100, samples=64)) for lam, share in PAPER.items()])
    assert found.start is not None
    assert found.end is not None
    assert [found.stage(at.value) for at in (found.start, found.end)] == [2, 3]
    assert [found.stage(at.value - 1e-9) for at in (found.start, found.end)] == [1, 2]


def test_a_lam_that_reaches_a_level_exactly_ends_the_gap_before_it() -> None:
    def half(problem: ProblemScore) -> ProblemScore:
        return replace(problem, thinking=problem.n // 2)

    runs = {lam: simulated.scores(lam, share) for lam, share in {0.0: 0.0, 0.4: 0.0, 0.5: 0.5, 0.6: 1.0}.items()}
    runs[0.5] = replace(runs[0.5], problems=[half(p) for p in runs[0.5].problems])
    found = stages.fit(list(runs.items()))
    assert found.method == "gaps"
    assert found.middle is not None
    assert (found.middle.low, found.middle.high) == (0.4, 0.5)


@pytest.mark.parametrize(
    ("shares", "method", "start", "end", "words"),
    [
        ({0.5: 0.5}, "none", None, None, "boundaries need more points"),
        ({0: 0.0, 0.5: 0.0, 1: 0.0}, "none", None, None, "stage 2 does not begin in this range"),
        ({0.4: 1.0, 0.7: 1.0, 1: 1.0}, "none", None, None, "stage 2 ends before"),
        ({0: 0.0, 1: 1.0}, "gaps", (0, 1), (0, 1), "both boundaries are in that gap"),
        ({0: 0.0, 0.4: 0.0, 0.6: 1.0, 1: 1.0}, "gaps", (0.4, 0.6), (0.4, 0.6), "jumps from 0.0 % at lam = 0.4"),
        ({0: 0.0, 0.4: 0.0, 0.5: 0.6, 0.6: 1.0}, "gaps", (0.4, 0.5), (0.5, 0.6), "Fewer than two lam"),
        ({0.5: 0.6, 0.6: 1.0}, "gaps", None, (0.5, 0.6), "begins before lam = 0.5"),
        ({0: 0.0, 0.2: 0.1, 0.3: 0.2, 0.4: 0.35, 0.5: 0.6}, "logistic", "fit", None, "does not end by lam = 0.5"),
        ({0: 0.0, 0.3: 0.4, 0.5: 0.1, 0.7: 0.8, 1: 1.0}, "logistic", "fit", "fit", "Think #R falls from"),
        ({0: 0.0, 0.3: 0.4, 0.5: 0.4, 0.6: 0.4, 0.8: 1.0, 1: 1.0}, "logistic", "fit", "fit", "The logistic misses"),
    ],
)
def test_what_the_data_cannot_say(
    shares: dict[float, float], method: str, start: object, end: object, words: str
) -> None:
    found = stages.fit([(lam, simulated.scores(lam, share, samples=64)) for lam, share in shares.items()])
    assert found.method == method
    for wanted, boundary in ((start, found.start), (end, found.end)):
        if wanted == "fit":
            assert boundary is not None
        else:
            assert (boundary and (boundary.low, boundary.high)) == wanted
    assert words in " ".join(stages.sentences(found))


@pytest.mark.parametrize(
    ("shares", "start", "end"),
    [
        ({0: 0.0, 0.2: 0.0, 0.4: 0.02, 0.5: 0.545}, (0.4, 0.5), None),  # still rising at the last lam
        ({0: 0.0, 0.4: 0.0, 0.5: 0.8}, (0.4, 0.5), None),
        ({0: 0.0, 0.4: 0.0, 0.5: 0.8, 0.52: 0.81}, (0.4, 0.5), None),  # too close to each other for a plateau
        ({0: 0.0, 0.4: 0.0, 0.5: 0.8, 0.6: 0.8}, (0.4, 0.5), (0.4, 0.5)),  # a plateau: the token limit cuts the rest
        ({0.4: 0.09, 0.5: 0.5, 0.6: 1.0, 0.7: 1.0}, None, (0.5, 0.6)),  # already rising at the first lam
        ({0.2: 0.09, 0.4: 0.09, 0.5: 0.5, 0.6: 1.0, 0.7: 1.0}, (0.4, 0.5), (0.5, 0.6)),  # a floor
    ],
)
def test_a_boundary_is_claimed_only_where_the_data_reaches_it(
    shares: dict[float, float], start: tuple[float, float] | None, end: tuple[float, float] | None
) -> None:
    # Exact shares, because the question is what follows from them and not how well they are known.
    def exactly(lam: float, share: float) -> simulated.Scores:
        run = simulated.scores(lam, share, samples=1000)
        return replace(run, problems=[replace(p, thinking=round(share * p.n)) for p in run.problems])

    found = stages.fit([(lam, exactly(lam, share)) for lam, share in shares.items()])
    for wanted, boundary in ((start, found.start), (end, found.end)):
        assert (boundary is None) == (wanted is None)
        assert boundary is None or wanted[0] <= boundary.value <= wanted[1]
    if end is None:
        assert "Stage 2 does not end" in " ".join(stages.sentences(found))
    if start is None:
        assert "Stage 2 begins before" in " ".join(stages.sentences(found))


@pytest.mark.parametrize(("start", "end"), [(0.42, 0.56), (0.3, 0.7), (0.38, 0.602)])
@pytest.mark.parametrize("step", [0.1, 0.05])
def test_a_part_of_a_sweep_claims_no_boundary_outside_it(start: float, end: float, step: float) -> None:
    lams = [round(i * step, 6) for i in range(round(1 / step) + 1)]
    whole = points(lams, start, end, problems=64, samples=8)
    for first in range(len(lams) - 1):
        for last in range(first + 2, len(lams) + 1, 3):
            part = whole[first:last]
            found = stages.fit(part, resamples=20)
            low, high = part[0][0], part[-1][0]
            # A lam at which the true share is within 2 points of the boundary's cannot be told from it.
            assert found.end is None or simulated.logistic(high, start, end) > 0.93, (low, high)
            assert found.start is None or simulated.logistic(low, start, end) < 0.07, (low, high)


def test_few_problems_and_problems_of_one_run_only_are_told() -> None:
    some = points([0, 0.4, 0.5, 0.6], 0.42, 0.56, problems=6)
    more = points([1], 0.42, 0.56, problems=9)
    said = " ".join(stages.fit([*some, *more]).notes)
    assert "6 problems are too few" in said
    assert "3 problems are excluded because some lam do not have them" in said


@pytest.mark.parametrize(
    ("start", "end", "spread", "most"),
    [(0.42, 0.56, 0.0, 10), (0.42, 0.56, 0.05, 12), (0.3, 0.8, 0.0, 11), (0.1, 0.2, 0.0, 9), (0.505, 0.51, 0.0, 8)],
)
def test_the_adaptive_sweep_finds_the_boundaries_in_few_points(
    start: float, end: float, spread: float, most: int
) -> None:
    found: list[tuple[float, simulated.Scores]] = []
    while (lam := stages.next_lam(found)) is not None:
        assert all(abs(lam - other) >= 0.02 - 1e-9 for other, _ in found)
        found += points([lam], start, end, spread=spread)
        assert len(found) <= most
    fitted = stages.fit(found)
    for boundary, truth in ((fitted.start, start), (fitted.end, end)):
        assert boundary is not None
        assert boundary.high - boundary.low <= 0.045
        if not spread:
            assert boundary.low - 0.01 <= truth <= boundary.high + 0.01


def test_the_adaptive_sweep_stops_where_there_is_nothing_to_find() -> None:
    found: list[tuple[float, simulated.Scores]] = []
    while (lam := stages.next_lam(found)) is not None:
        found += points([lam], 2, 3)
    assert [lam for lam, _ in found] == [0, 1, 0.5]


def test_the_same_points_give_the_same_stages() -> None:
    once, again = (stages.fit(points(TENTHS, 0.3, 0.7)[::step]) for step in (1, -1))
    assert (once.start, once.end, once.slope) == (again.start, again.end, again.slope)


def test_a_lam_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each lam once"):
        stages.fit(points([0.5, 0.5], 0.4, 0.6))
