"""A logistic with a floor and a ceiling, fitted by maximum likelihood to many resamples of the data at once.

    p(lam) = floor + (1 - floor - drop) / (1 + exp(-(lam - mid) / scale))

This is the psychometric function of Wichmann & Hill (2001), "The psychometric function: I. Fitting, sampling, and
goodness of fit". Floor and drop, its two lapse rates, have two reasons. Think #R may stay below 1: a response that the
token limit cuts while it thinks has no `</think>`. And a single response far from the transition, which is almost
impossible under a plain logistic, would otherwise bend the whole curve.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bootstrap import Array

FLOOR_MOST, DROP_MOST = 0.1, 0.5
_PRIOR = 9.0  # lapses ~ Beta(1, 10), as in psignifit: a prior worth nine responses without a lapse
_STEPS = 80
_SMALL = 1e-12
_LOGITS = 9.0  # of a lapse: from about 0 to about its maximum


class _Bounds(NamedTuple):
    """Of theta, see `_curve`: (4,) each. Parameters with equal bounds are fixed."""

    low: Array
    high: Array


class Curve(NamedTuple):
    """The parameters of many curves, one array each. The ceiling is 1 - `drop`."""

    mid: Array
    scale: Array
    floor: Array
    drop: Array

    def share(self, lam: Array) -> Array:
        """Think #R at each `lam`: (curves, lams)."""
        z = (lam[None, :] - self.mid[:, None]) / self.scale[:, None]
        return self.floor[:, None] + (1 - self.floor - self.drop)[:, None] * _sigmoid(z)

    def crossing(self, level: float) -> Array:
        """The lam at which the curve reaches `level` (0 to 1) of the range from its floor to its ceiling."""
        return self.mid + self.scale * np.log(level / (1 - level))

    def slope(self) -> Array:
        """The steepest rise of the share, at `mid`, per unit of lam."""
        return (1 - self.floor - self.drop) / (4 * self.scale)

    def at(self, index: int) -> Curve:
        return Curve(*(values[index : index + 1] for values in self))


def fit(
    lam: Array,
    shares: Array,
    responses: Array,
    start: Curve | None = None,
    lapses: tuple[bool, bool] = (True, True),
) -> Curve:
    """The most likely curve for each row of `shares`.

    Args:
        lam: (lams,), ascending, at least two. shares: (rows, lams), 0 to 1. responses: (lams,), the count at each lam.
        start: a curve to start from. Without one, each row starts from three slopes and the best fit is kept.
        lapses: whether floor and drop are fitted. Otherwise they are 0: the data do not show them.
    """
    gaps, span = np.diff(lam), lam[-1] - lam[0]
    bounds = _Bounds(
        low=np.array([lam[0] - span, np.log(gaps.min() / 20), -_LOGITS, -_LOGITS]),
        high=np.array([lam[-1] + span, np.log(2 * span), *(_LOGITS if free else -_LOGITS for free in lapses)]),
    )
    rows = len(shares)
    if start is not None:
        begin = np.array([start.mid[0], np.log(start.scale[0]), _logit(start.floor[0] / FLOOR_MOST), 0.0])
        begin[3] = _logit(start.drop[0] / DROP_MOST)
        theta, _ = _climb(lam, shares, responses, np.tile(begin, (rows, 1)), bounds)
        return _curve(theta)
    half = (shares.min(1) + shares.max(1)) / 2
    mid = np.array([lam[np.argmax(row >= level)] for row, level in zip(shares, half)])
    tried = []
    for scale in (gaps.min() / 4, span / 12, span / 4):
        begin = np.column_stack([mid, np.full(rows, np.log(scale)), np.full(rows, -3.0), np.full(rows, -3.0)])
        tried.append(_climb(lam, shares, responses, begin, bounds))
    best = np.argmax([value for _, value in tried], axis=0)
    return _curve(np.array([tried[b][0][row] for row, b in enumerate(best)]))


def _curve(theta: Array) -> Curve:
    """theta: (rows, 4): mid, log scale, and the logits of the lapses as shares of their maximum."""
    mid, log_scale, floor, drop = theta.T
    return Curve(mid, np.exp(log_scale), FLOOR_MOST * _sigmoid(floor), DROP_MOST * _sigmoid(drop))


def _climb(lam: Array, shares: Array, responses: Array, theta: Array, bounds: _Bounds) -> tuple[Array, Array]:
    """Fisher scoring for each row, damped when a step would lower the likelihood (Levenberg-Marquardt)."""
    fixed = bounds.low == bounds.high
    theta = np.clip(theta, bounds.low, bounds.high)
    damping = np.full(len(theta), 1e-2)
    value = _likelihood(lam, shares, responses, theta)
    for _ in range(_STEPS):
        score, information = _derivatives(lam, shares, responses, theta)
        information[:, fixed, :] = information[:, :, fixed] = 0.0  # nothing to learn: no step
        score[:, fixed] = 0.0
        diagonal = np.einsum("rii->ri", information)
        system = information + (damping[:, None] * diagonal + 1e-6)[:, :, None] * np.eye(4)
        tried = np.clip(theta + np.linalg.solve(system, score[:, :, None])[:, :, 0], bounds.low, bounds.high)
        reached = _likelihood(lam, shares, responses, tried)
        better = reached > value
        settled = bool(np.all(np.abs(reached - value) < 1e-9 * (1 + np.abs(value))))
        theta = np.where(better[:, None], tried, theta)
        value = np.where(better, reached, value)
        damping = np.clip(np.where(better, damping / 4, damping * 8), 1e-9, 1e9)
        if settled:
            break
    return theta, value


def _likelihood(lam: Array, shares: Array, responses: Array, theta: Array) -> Array:
    curve = _curve(theta)
    p = np.clip(curve.share(lam), _SMALL, 1 - _SMALL)
    data = (responses * (shares * np.log(p) + (1 - shares) * np.log1p(-p))).sum(1)
    return data + _PRIOR * (np.log1p(-curve.floor) + np.log1p(-curve.drop))


def _derivatives(lam: Array, shares: Array, responses: Array, theta: Array) -> tuple[Array, Array]:
    """(rows, 4) and (rows, 4, 4): the gradient of the log posterior, and the expected information."""
    curve = _curve(theta)
    z = (lam[None, :] - curve.mid[:, None]) / curve.scale[:, None]
    s = _sigmoid(z)
    height = (1 - curve.floor - curve.drop)[:, None]
    p = np.clip(curve.floor[:, None] + height * s, _SMALL, 1 - _SMALL)
    d_floor = curve.floor * (1 - curve.floor / FLOOR_MOST)
    d_drop = curve.drop * (1 - curve.drop / DROP_MOST)
    rise = height * s * (1 - s)
    slopes = np.stack(
        [-rise / curve.scale[:, None], -rise * z, (1 - s) * d_floor[:, None], -s * d_drop[:, None]], axis=2
    )
    weight = responses / (p * (1 - p))
    score = np.einsum("rl,rlk->rk", weight * (shares - p), slopes)
    score[:, 2] -= _PRIOR * d_floor / (1 - curve.floor)
    score[:, 3] -= _PRIOR * d_drop / (1 - curve.drop)
    return score, np.einsum("rl,rlj,rlk->rjk", weight, slopes, slopes)


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


def _logit(p: float) -> float:
    p = min(max(float(p), 1e-3), 1 - 1e-3)
    return float(np.log(p / (1 - p)))
