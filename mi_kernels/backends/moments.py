"""Sums over two tensors, from which angles follow: their order is fixed, so every backend computes the same bits.

Tensors are divided into pieces of PIECE elements. A backend computes the moments of each piece, in the order of
`csrc/cpu/stats.h`, and `total` adds those of all pieces exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

PIECE = 1 << 20  # elements; kPieceElements in csrc/cuda/stats_chunk.h


class Moments(NamedTuple):
    """Sums over all elements of two tensors a and b."""

    abs_a: float
    abs_b: float
    abs_difference: float
    square_a: float
    square_b: float
    product: float
    unequal: float
    largest: float  # the largest |b - a|

    @property
    def cosine(self) -> float:
        """Of the angle between a and b; 0 when one of them is 0, NaN when one of them holds NaN or infinity."""
        norms = math.sqrt(self.square_a * self.square_b)  # neither overflows nor vanishes: squares of float32
        if not math.isfinite(norms):
            return math.nan
        return min(1.0, max(-1.0, self.product / norms)) if norms else 0.0


def total(pieces: Sequence[Sequence[float]]) -> Moments:
    """Returns the moments of a whole tensor from those of its pieces, in any order; zeros if there is no piece.

    >>> total([(1, 2, 1, 1, 4, 2, 1, 1), (3, 3, 0, 9, 9, 9, 0, 0)]).product
    11.0
    """
    if not pieces:
        return Moments._make([0.0] * len(Moments._fields))
    *sums, largest = zip(*pieces)
    return Moments._make([*map(_exact_sum, sums), max(largest)])


def _exact_sum(values: Sequence[float]) -> float:
    # fsum raises for inf - inf; with inf or NaN among the values, NaN is the answer.
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan
