"""The three stages: where Think #R(lam) leaves its floor, where it reaches its ceiling, with intervals.

Stage 2 begins where the fitted curve (see `logistic`) reaches 5 % of the range from its floor to its ceiling; stage 3
begins at 95 %. Intervals are percentiles of fits to resampled problems. A binomial interval would be too narrow,
because responses to the same problem are correlated.

The curve is used if at least two lam are within its transition. With fewer, the data do not determine its slope: each
boundary is known only to the gap between two lam, and that gap is reported as the interval.

A boundary is claimed only where the data reaches it. Stage 3 needs a lam with Think #R of at least 95 %, or a plateau
below that: lam without a rise over half the width of the transition. The same is true of the floor before stage 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..schema import Interval, Scores
from . import bootstrap, logistic
from .bootstrap import Array

START, END = 0.05, 0.95
TOLERANCE = 0.02
_TRUSTED_GAP = 0.1  # between adjacent lam around a boundary: across more, the shape of the curve is an assumption
_STEP = 0.01  # suggested lam are multiples of it
_MISFIT = 0.1
_FALL = 0.02
_FAR = 1e-9

Points = Sequence[tuple[float, Scores]]


@dataclass(frozen=True)
class Stages:
    """The stages on one benchmark, from Think #R(lam).

    Attributes:
        lams, shares: the measured values, by ascending lam.
        method: "logistic"; "gaps" if boundaries are known only to a gap between two lam; or "none".
        start, middle, end: lam of the beginning, middle and end of stage 2; None if it is not within the evaluated
            lam.
        slope: the steepest rise of the share per unit of lam. None unless the method is "logistic".
        curve: the fitted curve. None unless the method is "logistic".
        notes: sentences that a reader must know.
    """

    lams: Sequence[float]
    shares: Sequence[float]
    method: str
    start: Interval | None
    middle: Interval | None
    end: Interval | None
    slope: Interval | None
    curve: logistic.Curve | None
    notes: Sequence[str]

    def stage(self, lam: float) -> int | None:
        """The stage of `lam`: 1, 2 or 3; None if the boundaries do not determine it."""
        if self.end and lam >= self.end.value:
            return 3
        if self.start and lam < self.start.value:
            return 1
        return 2 if self.start and self.end else None


def fit(points: Points, *, resamples: int = bootstrap.RESAMPLES, seed: int = bootstrap.SEED) -> Stages:
    """The stages on one benchmark, from (lam, scores) in any order. The same points give the same result.

    Raises:
        ValueError: there are no points, or two have the same lam.
    """
    points = sorted(points, key=lambda point: point[0])
    lams = np.array([lam for lam, _ in points])
    if len(points) == 0 or np.any(np.diff(lams) < _FAR):
        raise ValueError("stages need at least one lam, and each lam once")
    scores = [s for _, s in points]
    ids = bootstrap.common(scores)
    left_out = max(len(s.problems) for s in scores) - len(ids)
    notes = [f"{left_out} problems are excluded because some lam do not have them."] if left_out else []
    if not ids:
        return Stages(lams.tolist(), [s.think.value for s in scores], "none", *[None] * 5, notes=tuple(notes))
    if len(ids) < bootstrap.FEW:
        notes.append(f"{len(ids)} problem{'s are' if len(ids) > 1 else ' is'} too few for an interval to mean much.")
    table = bootstrap.by_problem(scores, ids, bootstrap.thinking)
    shares = table.mean(0)
    counts = bootstrap.by_problem(scores, ids, lambda p: p.n).sum(0)
    drawn = np.clip(bootstrap.draws(len(ids), resamples, seed) @ table, 0, 1)
    notes += _falls(lams, shares, drawn)
    reach = _reach(lams, shares)
    way = (shares - reach.floor) / (reach.ceiling - reach.floor)
    inside = int(np.sum((way > START) & (way < END)))
    reason = _flat(lams, shares)
    if reason:
        return Stages(lams.tolist(), shares.tolist(), "none", *[None] * 5, notes=(reason, *notes))
    if inside < 2 or len(lams) < 3:
        return _from_gaps(lams, shares, way, notes)
    return _from_fit(lams, shares, counts, drawn, reach, notes)


class _Reach(NamedTuple):
    """The floor and the ceiling of Think #R, and whether the data shows them; otherwise they are taken as 0 and 1."""

    floor: float
    ceiling: float
    shows_floor: bool
    shows_ceiling: bool


def _reach(lams: Array, shares: Array) -> _Reach:
    low, high = float(shares.min()), float(shares.max())
    flat_start = low <= logistic.FLOOR_MOST and _plateau(-lams[::-1], 1 - shares[::-1])
    flat_end = high >= 1 - logistic.DROP_MOST and _plateau(lams, shares)
    return _Reach(
        floor=low if flat_start else 0.0,
        ceiling=high if flat_end else 1.0,
        shows_floor=flat_start or low <= START,
        shows_ceiling=flat_end or high >= END,
    )


def _plateau(lams: Array, shares: Array) -> bool:
    """Whether the shares stay within 5 % of their maximum, up to the last lam, for long enough.

    A logistic that reaches half of its range still rises by three tenths of it within half of the width that it needed
    to get there. So half of the width without a rise shows that it has ended.
    """
    on = END * shares.max()
    first = int(np.flatnonzero(shares >= on)[0])
    before = np.flatnonzero(shares[: first + 1] <= START * shares.max())
    width = lams[first] - (lams[before[-1]] if len(before) else lams[0])
    return bool(np.all(shares[first:] >= on) and first + 1 < len(lams) and lams[-1] - lams[first] >= width / 2 - _FAR)


def _flat(lams: Array, shares: Array) -> str | None:
    """The reason why nothing can be fitted, in a sentence; None if it can."""
    where = f"between lam = {lams[0]:g} and {lams[-1]:g}"
    if len(lams) < 2:
        return f"Only lam = {lams[0]:g} was evaluated: boundaries need more points."
    if shares.max() <= START:
        return f"Think #R is at most {100 * shares.max():.1f} % {where}: stage 2 does not begin in this range."
    if shares.min() >= END:
        return f"Think #R is at least {100 * shares.min():.1f} % {where}: stage 2 ends before this range."
    return None


def _falls(lams: Array, shares: Array, drawn: Array) -> list[str]:
    """Sentences on decreases of Think #R with growing lam that are larger than chance."""
    found = []
    for i in range(len(lams) - 1):
        if np.percentile(drawn[:, i + 1] - drawn[:, i], 97.5) < -_FALL:
            found.append(
                f"Think #R falls from {100 * shares[i]:.1f} % at lam = {lams[i]:g} to {100 * shares[i + 1]:.1f} % at "
                f"lam = {lams[i + 1]:g}: three stages do not describe this model well, so the boundaries may be wrong."
            )
    return found


def _bracket(lams: Array, way: Array, level: float) -> Interval | None:
    """The gap between two lam in which `way` first reaches `level`."""
    reached = np.flatnonzero(way >= level)
    if len(reached) == 0 or reached[0] == 0:
        return None
    low, high = float(lams[reached[0] - 1]), float(lams[reached[0]])
    return Interval((low + high) / 2, low, high)


def _from_gaps(lams: Array, shares: Array, way: Array, notes: list[str]) -> Stages:
    start, middle, end = (_bracket(lams, way, level) for level in (START, 0.5, END))
    if start and end and (start.low, start.high) == (end.low, end.high):
        said = (
            f"Think #R jumps from {100 * shares[lams == start.low][0]:.1f} % at lam = {start.low:g} to "
            f"{100 * shares[lams == start.high][0]:.1f} % at lam = {start.high:g}: "
            "both boundaries are in that gap, at unknown places."
        )
    else:
        said = "Fewer than two lam are within the transition: each boundary is known only to the gap between two lam."
    return Stages(
        lams.tolist(),
        shares.tolist(),
        "gaps",
        start,
        middle,
        end,
        slope=None,
        curve=None,
        notes=(said, *_outside(lams, start, end), *notes),
    )


def _outside(lams: Array, start: Interval | None, end: Interval | None) -> list[str]:
    said = []
    if start is None:
        said.append(f"Stage 2 begins before lam = {lams[0]:g}, the smallest that was evaluated.")
    if end is None:
        said.append(f"Stage 2 does not end by lam = {lams[-1]:g}, the largest that was evaluated.")
    return said


def _from_fit(lams: Array, shares: Array, counts: Array, drawn: Array, reach: _Reach, notes: list[str]) -> Stages:
    lapses = (reach.shows_floor, reach.shows_ceiling)
    curve = logistic.fit(lams, shares[None, :], counts, lapses=lapses)
    others = logistic.fit(lams, drawn, counts, start=curve, lapses=lapses)
    if not reach.shows_ceiling:
        notes.append(
            f"Think #R reaches neither 95 % nor a plateau by lam = {lams[-1]:g}: the curve is fitted as if it went on "
            "to 100 %, which larger lam may not confirm."
        )

    def crossing(level: float) -> Interval | None:
        value = curve.crossing(level)[0]
        unseen = (level == START and not reach.shows_floor) or (level == END and not reach.shows_ceiling)
        if unseen or not lams[0] <= value <= lams[-1]:
            return None
        return bootstrap.interval(value, np.clip(others.crossing(level), lams[0], lams[-1]))

    start, middle, end = (crossing(level) for level in (START, 0.5, END))
    misses = np.abs(curve.share(lams)[0] - shares)
    worst = int(misses.argmax())
    if misses[worst] > _MISFIT:
        notes.append(
            f"The logistic misses the measured share by {100 * misses[worst]:.0f} points at lam = {lams[worst]:g}: "
            "the boundaries are less certain than their intervals show."
        )
    return Stages(
        lams.tolist(),
        shares.tolist(),
        "logistic",
        start,
        middle,
        end,
        slope=bootstrap.interval(curve.slope()[0], others.slope()),
        curve=curve,
        notes=(*_outside(lams, start, end), *notes),
    )


def sentences(stages: Stages) -> list[str]:
    """The result in sentences, including the notes."""

    def said(at: Interval) -> str:
        if stages.method == "gaps":
            return f"between lam = {at.low:.3g} and {at.high:.3g}"
        return f"at lam = {at.value:.3f} ({at.low:.3f} to {at.high:.3f})"

    found = []
    if stages.start:
        found.append(f"Stage 2 begins {said(stages.start)}.")
    if stages.middle and stages.slope:
        found.append(
            f"Its middle is {said(stages.middle)}, where Think #R rises by {stages.slope.value:.1f} points "
            "per 0.01 of lam."
        )
    if stages.end:
        found.append(f"Stage 3 begins {said(stages.end)}.")
    return [*found, *stages.notes]


def next_lam(points: Points, *, tolerance: float = TOLERANCE, low: float = 0.0, high: float = 1.0) -> float | None:
    """The lam to evaluate next to determine the boundaries; None when both are known to +- `tolerance`.

    A fitted boundary is known if its interval is narrow enough and the adjacent lam are at most 0.1 apart; a boundary
    in a gap is known if the gap is narrow enough. Also None if every useful lam is within `tolerance` of an evaluated
    one: then more problems are needed, not more lam. The ends come first, then the middle, then the gap in which
    Think #R changes most; once two lam are within the transition, the least certain boundary.
    """
    there = sorted(lam for lam, _ in points)
    for end in (low, high):
        if all(abs(end - lam) > _FAR for lam in there):
            return end
    stages = fit(points)
    if stages.method == "none":
        middle = _rounded((low + high) / 2)
        return middle if len(there) < 3 and _free(middle, there, tolerance) else None
    wanted = _uncertain(stages, tolerance) if stages.method == "logistic" else _widest(stages, tolerance)
    return next((lam for lam in wanted if low <= lam <= high and _free(lam, there, tolerance)), None)


def _widest(stages: Stages, tolerance: float) -> list[float]:
    """Middles of the gaps with a boundary, by decreasing width times change of Think #R."""
    brackets = {(b.low, b.high) for b in (stages.start, stages.middle, stages.end) if b}
    share = dict(zip(stages.lams, stages.shares))
    wide = [(a, b) for a, b in brackets if b - a > 2 * tolerance + _FAR]
    return [
        _rounded((a + b) / 2) for a, b in sorted(wide, key=lambda g: (-(g[1] - g[0]) * (share[g[1]] - share[g[0]]), g))
    ]


def _uncertain(stages: Stages, tolerance: float) -> list[float]:
    """Middles of gaps that are too wide for the curve to be trusted; then the boundaries, the least certain first."""
    boundaries = [b for b in (stages.start, stages.end) if b]
    neighbours = [(a, b) for a, b in zip(stages.lams, stages.lams[1:]) if b - a > _TRUSTED_GAP + _FAR]
    # Where an end of the range shows no floor or no ceiling, a lam beside it may.
    unseen = [at for at, found in ((stages.lams[0], stages.start), (stages.lams[-1], stages.end)) if found is None]
    inside = [at.value for at in boundaries] + unseen
    gaps = [(a, b) for a, b in neighbours if any(a <= at <= b for at in inside)]
    wanted = [_rounded((a + b) / 2) for a, b in sorted(gaps, key=lambda gap: (gap[0] - gap[1], gap[0]))]
    known = [max(at.high - at.value, at.value - at.low) for at in boundaries]
    for width, at in sorted(zip(known, boundaries), key=lambda pair: -pair[0]):
        if width > tolerance:
            wanted += [_rounded(at.value), _rounded(at.low), _rounded(at.high)]
    return wanted


def _rounded(lam: float) -> float:
    return round(round(lam / _STEP) * _STEP, 6)


def _free(lam: float, there: Sequence[float], tolerance: float) -> bool:
    return all(abs(lam - other) > tolerance - _FAR for other in there)
