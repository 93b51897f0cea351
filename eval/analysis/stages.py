"""The three stages: where Think #R(lam) leaves its floor, where it reaches its ceiling, and how sure that is.

Stage 1 ends and stage 2 begins where the fitted curve (see `logistic`) has gone 5 % of the way from its floor to its
ceiling; stage 3 begins at 95 % of the way. Intervals are percentiles of fits to resampled problems: responses to one
problem tell less than as many responses to different ones, and a binomial interval would not know it.

A curve is believed where at least two lam lie within its transition. With fewer its slope is not in the data: the
boundaries are then known only to the gap between two lam, and that gap is reported as the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import Interval, Scores
from . import bootstrap, logistic
from .bootstrap import Array

START, END = 0.05, 0.95
TOLERANCE = 0.02
_TRUSTED_GAP = 0.1  # between neighbouring lam around a boundary: across more, the curve's shape is an assumption
_STEP = 0.01  # suggested lam are multiples of it
_MISFIT = 0.1
_FALL = 0.02
_FAR = 1e-9

Points = Sequence[tuple[float, Scores]]


@dataclass(frozen=True)
class Stages:
    """What Think #R(lam) says about the stages on one benchmark.

    Attributes:
        lams, shares: what was measured, by rising lam.
        method: "logistic"; "gaps", where boundaries are known to a gap between two lam only; "none".
        start, middle, end: lam where stage 2 begins, is half through and ends; None where that lies outside the lam
            evaluated, or nowhere.
        slope: the steepest rise of the share, for each unit of lam. None unless the method is "logistic".
        curve: the fitted curve, likewise.
        notes: what a reader must know, in sentences.
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
        """1, 2 or 3; None where the boundaries do not say."""
        if self.end and lam >= self.end.value:
            return 3
        if self.start and lam < self.start.value:
            return 1
        return 2 if self.start and self.end else None


def fit(points: Points, *, resamples: int = bootstrap.RESAMPLES, seed: int = bootstrap.SEED) -> Stages:
    """The stages on one benchmark, from (lam, scores) in any order. The same points give the same result.

    Raises:
        ValueError: no points, or two of them with the same lam.
    """
    points = sorted(points, key=lambda point: point[0])
    lams = np.array([lam for lam, _ in points])
    if len(points) == 0 or np.any(np.diff(lams) < _FAR):
        raise ValueError("stages are fitted to at least one lam, each given once")
    scores = [s for _, s in points]
    ids = bootstrap.common(scores)
    left_out = max(len(s.problems) for s in scores) - len(ids)
    notes = [f"{left_out} problems that not every lam has are left out."] if left_out else []
    if not ids:
        return Stages(lams.tolist(), [s.think.value for s in scores], "none", *[None] * 5, notes=tuple(notes))
    if len(ids) < bootstrap.FEW:
        notes.append(f"{len(ids)} problem{'s are' if len(ids) > 1 else ' is'} too few for an interval to mean much.")
    table = bootstrap.by_problem(scores, ids, bootstrap.thinking)
    shares = table.mean(0)
    counts = bootstrap.by_problem(scores, ids, lambda p: p.n).sum(0)
    drawn = np.clip(bootstrap.draws(len(ids), resamples, seed) @ table, 0, 1)
    notes += _falls(lams, shares, drawn)
    way = _way(shares)
    inside = int(np.sum((way > START) & (way < END)))
    reason = _flat(lams, shares)
    if reason:
        return Stages(lams.tolist(), shares.tolist(), "none", *[None] * 5, notes=(reason, *notes))
    if inside < 2 or len(lams) < 3:
        return _from_gaps(lams, shares, way, notes)
    return _from_fit(lams, shares, counts, drawn, notes)


def _way(shares: Array) -> Array:
    """How far each share has come from the floor (0) to the ceiling (1), as far as floor and ceiling were seen."""
    floor = shares.min() if shares.min() <= logistic.FLOOR_MOST else 0.0
    ceiling = shares.max() if shares.max() >= 1 - logistic.DROP_MOST else 1.0
    return np.asarray((shares - floor) / (ceiling - floor))


def _flat(lams: Array, shares: Array) -> str | None:
    """Why there is nothing to fit, in a sentence."""
    where = f"between lam = {lams[0]:g} and {lams[-1]:g}"
    if len(lams) < 2:
        return f"Only lam = {lams[0]:g} was evaluated: one point has no boundaries."
    if shares.max() <= START:
        return f"Think #R is at most {100 * shares.max():.1f} % {where}: stage 2 does not begin there."
    if shares.min() >= END:
        return f"Think #R is at least {100 * shares.min():.1f} % {where}: stage 2 ends before."
    return None


def _falls(lams: Array, shares: Array, drawn: Array) -> list[str]:
    """Where Think #R falls as lam grows, by more than chance over problems."""
    found = []
    for i in range(len(lams) - 1):
        if np.percentile(drawn[:, i + 1] - drawn[:, i], 97.5) < -_FALL:
            found.append(
                f"Think #R falls from {100 * shares[i]:.1f} % at lam = {lams[i]:g} to {100 * shares[i + 1]:.1f} % at "
                f"lam = {lams[i + 1]:g}: three stages do not describe this, read the boundaries with care."
            )
    return found


def _bracket(lams: Array, way: Array, level: float) -> Interval | None:
    """The gap in which the way first reaches `level`."""
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
            "both boundaries lie in that gap, and nothing says where."
        )
    else:
        said = "Fewer than two lam lie within the transition: each boundary is known only to the gap that holds it."
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
        said.append(f"Stage 2 begins before lam = {lams[0]:g}, the smallest evaluated.")
    if end is None:
        said.append(f"Stage 2 does not end by lam = {lams[-1]:g}, the largest evaluated.")
    return said


def _from_fit(lams: Array, shares: Array, counts: Array, drawn: Array, notes: list[str]) -> Stages:
    curve = logistic.fit(lams, shares[None, :], counts)
    others = logistic.fit(lams, drawn, counts, start=curve)

    def crossing(level: float) -> Interval | None:
        value = curve.crossing(level)[0]
        if not lams[0] <= value <= lams[-1]:
            return None
        return bootstrap.interval(value, np.clip(others.crossing(level), lams[0], lams[-1]))

    start, middle, end = (crossing(level) for level in (START, 0.5, END))
    misses = np.abs(curve.share(lams)[0] - shares)
    worst = int(misses.argmax())
    if misses[worst] > _MISFIT:
        notes.append(
            f"The logistic misses the measured share by {100 * misses[worst]:.0f} points at lam = {lams[worst]:g}: "
            "the boundaries are less certain than their intervals say."
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
    """What was found, in words, the notes included."""

    def said(at: Interval) -> str:
        if stages.method == "gaps":
            return f"between lam = {at.low:.3g} and {at.high:.3g}"
        return f"at lam = {at.value:.3f} ({at.low:.3f} to {at.high:.3f})"

    found = []
    if stages.start:
        found.append(f"Stage 2 begins {said(stages.start)}.")
    if stages.middle and stages.slope:
        found.append(
            f"It is half through {said(stages.middle)}, where Think #R rises by {stages.slope.value:.1f} points "
            "for each 0.01 of lam."
        )
    if stages.end:
        found.append(f"Stage 3 begins {said(stages.end)}.")
    return [*found, *stages.notes]


def next_lam(points: Points, *, tolerance: float = TOLERANCE, low: float = 0.0, high: float = 1.0) -> float | None:
    """The lam whose evaluation would tell most about the boundaries; None when they are known to +- `tolerance`.

    Both boundaries must be: a fitted one by its interval, and with neighbouring lam at most 0.1 apart around it; one
    known to a gap by the width of that gap. None also where no lam is left that lies `tolerance` away from those there
    are: what is then uncertain needs more problems, not more lam. The ends come first, then the middle, then the gap in
    which Think #R moves most; once two lam lie within the transition, the boundary that is least certain.
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
    """Middles of the gaps that hold a boundary, first the one that hides most: its width times how far #R moves."""
    brackets = {(b.low, b.high) for b in (stages.start, stages.middle, stages.end) if b}
    share = dict(zip(stages.lams, stages.shares))
    wide = [(a, b) for a, b in brackets if b - a > 2 * tolerance + _FAR]
    return [
        _rounded((a + b) / 2) for a, b in sorted(wide, key=lambda g: (-(g[1] - g[0]) * (share[g[1]] - share[g[0]]), g))
    ]


def _uncertain(stages: Stages, tolerance: float) -> list[float]:
    """Middles of gaps too wide to trust the curve across; then the boundaries, the least certain first."""
    boundaries = [b for b in (stages.start, stages.end) if b]
    neighbours = [(a, b) for a, b in zip(stages.lams, stages.lams[1:]) if b - a > _TRUSTED_GAP + _FAR]
    gaps = [(a, b) for a, b in neighbours if any(a <= at.value <= b for at in boundaries)]
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
