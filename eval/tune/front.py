"""The front of accuracy against tokens, and its hypervolume: the one number by which fronts are compared.

A point is (mean, tokens): Mean@k as a fraction, and mean tokens per answer. One point dominates another if its mean is
at least as high with at most as many tokens, and one of the two is better.

The hypervolume of a front is the area that it dominates, up to a limit of tokens, relative to the area of the whole:
the mean over all budgets from 0 to the limit of the best Mean@k within the budget. 0 if no point is within the limit, 1
for a model that is always right and needs no token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = tuple[float, float]


def undominated(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other dominates, by ascending tokens. Of equal points, the first.

    >>> undominated([(0.5, 10), (0.4, 20), (0.9, 30), (0.5, 10)])
    [0, 2]
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0], i))
    best, front = -np.inf, []
    for i in order:
        if points[i][0] > best:
            best = points[i][0]
            front.append(i)
    return front


def hypervolume(points: Sequence[Point], limit: float) -> float:
    """See the docstring of the module. `limit` is in tokens and above 0.

    >>> hypervolume([(0.5, 10), (0.8, 30)], 40)  # 0 up to 10, 0.5 up to 30, 0.8 up to 40
    0.45
    """
    if not points:
        return 0.0
    array = np.asarray(points, dtype=np.float64)
    return float(hypervolumes(array[None, :, 0], array[None, :, 1], limit)[0])


def hypervolumes(mean: Array, tokens: Array, limit: float) -> Array:
    """[rows] hypervolumes of [rows, points] means and tokens."""
    order = np.argsort(tokens, axis=1, kind="stable")
    reached = np.minimum(np.take_along_axis(tokens, order, 1), limit)
    best = np.maximum.accumulate(np.take_along_axis(mean, order, 1), axis=1)
    until = np.concatenate([reached[:, 1:], np.full((len(reached), 1), limit)], axis=1)
    return np.asarray((best * (until - reached)).sum(axis=1) / limit)
