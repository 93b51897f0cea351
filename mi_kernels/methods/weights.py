"""Weights as the formulas take them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def affine_weights(weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1, rounded to float32; the first one is 1 minus the others.

    >>> affine_weights([0.25, 0.75])
    [0.25, 0.75]
    """
    import numpy as np

    others = [float(np.float32(w)) for w in weights[1:]]
    return [1.0 - math.fsum(others), *others]


def divided_by_sum(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum; unchanged where its magnitude is less than 1e-8, as in mergekit.

    >>> divided_by_sum([1, 3])
    [0.25, 0.75]
    """
    total = math.fsum(weights)
    divisor = total if abs(total) >= 1e-8 else 1.0
    return [w / divisor for w in weights]
