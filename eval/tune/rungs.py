"""Successive halving: a candidate is evaluated on few problems first, and on more only while it may be worth it.

| rung | problems of the search | samples to each | evaluated                                                  |
| ---- | ---------------------- | --------------- | ---------------------------------------------------------- |
| 1    | a quarter              | half            | always                                                     |
| 2    | half                   | half            | unless it is clearly dominated                             |
| 3    | all                    | half            | unless it is clearly dominated                             |
| 4    | all                    | all             | only if it may be on the front                             |

A candidate is clearly dominated if one candidate that is ahead of it dominates it in 95 % of the resamples of the
problems that both have. It may be on the front if no other candidate dominates it in at least 5 % of the resamples. A
rung has at least ten problems of each benchmark, as far as it has them, because with fewer, resamples mean little.
Rungs with less than 1.5 times the problems of the one before are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis.bootstrap import FEW
from .resampled import Measured, Resampled
from .split import Split

CLEARLY = 0.95
PERHAPS = 0.05
_SHARES = (0.25, 0.5, 1.0)
_ADDS = 1.5  # a rung has at least so many times the problems of the one before


@dataclass(frozen=True)
class Rung:
    """How much of each benchmark is evaluated: problems and samples by its name."""

    problems: dict[str, int]
    samples: dict[str, int]


@dataclass(frozen=True)
class Rungs:
    """All rungs of a search.

    Attributes:
        whole: the number of the first rung with all problems.
    """

    rungs: Sequence[Rung]
    whole: int

    def stops(self, reached: int, own: Measured, others: Sequence[tuple[int, Measured]]) -> bool:
        """Whether a candidate whose rung `reached` is evaluated stops there.

        Args:
            own: its scores there. others: (rung, scores) of other candidates at the highest rung that each reached.
        """
        ahead = [scores for rung, scores in others if rung >= reached]
        if not ahead:
            return False
        if reached < self.whole:
            return any(dominates(other, own) >= CLEARLY for other in ahead)
        return Resampled.of([own, *ahead]).on_front(0) < PERHAPS


def dominates(other: Measured, own: Measured) -> float:
    """The share of resamples of their common problems in which `other` dominates `own`."""
    return float(Resampled.of([own, other]).dominated(0)[1])


def plan(splits: Sequence[Split], samples: dict[str, int]) -> Rungs:
    """The rungs for `splits` and the most samples of each benchmark. Rungs that add little are left out."""
    levels: list[dict[str, int]] = []
    for share in _SHARES:
        counts = {s.benchmark.name: len(s.search) for s in splits}
        level = {name: max(math.ceil(count * share), min(FEW, count)) for name, count in counts.items()}
        if levels and sum(level.values()) < _ADDS * sum(levels[-1].values()):
            if share < 1:
                continue
            levels.pop()
        levels.append(level)
    half = {name: math.ceil(n / 2) for name, n in samples.items()}
    rungs = [Rung(level, half) for level in levels]
    whole = len(rungs) - 1
    return Rungs([*rungs, Rung(levels[-1], samples)] if half != samples else rungs, whole)
