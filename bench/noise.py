"""Statistics of repeated timings: their spread, ratios by rounds, and a test of whether one side is slower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
    """min, median and max of the values, and how many there are."""
    return {"min": min(values), "median": median(values), "max": max(values), "rounds": len(values)}


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The spread of values[i] / base[i]. Both were measured in round i, with the machine in the same state."""
    return spread([value / other for value, other in zip(values, base, strict=True)])


def show(found: dict[str, Any], scale: float = 1.0, digits: int = 2) -> str:
    """`median (min - max)`."""
    middle, low, high = (f"{found[key] * scale:.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} ({low} - {high})"


def signed_rank(ratios: Sequence[float]) -> float:
    """The one-sided p-value of Wilcoxon's signed-rank test that `ratios` are above 1, exact for their number.

    Ranks are those of |log ratio|; under the null hypothesis each carries either sign with probability 1/2. Ties keep
    the order they come in, and a ratio of exactly 1 counts as below (against an alarm).
    """
    ranked = sorted((math.log(ratio) for ratio in ratios), key=abs)
    found = sum(rank for rank, value in enumerate(ranked, 1) if value > 0)
    ways = [1] + [0] * (len(ranked) * (len(ranked) + 1) // 2)  # ways[s]: sets of ranks that add up to s
    for rank in range(1, len(ranked) + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return sum(ways[found:]) / 2 ** len(ranked)
