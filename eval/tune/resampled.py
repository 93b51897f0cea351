"""Candidates compared on resampled problems: what is clearly dominated, what may be on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis import bootstrap
from ..schema import Interval, Scores
from . import front
from .front import Array

Measured = Mapping[str, Scores]  # of one candidate, by benchmark


@dataclass(frozen=True)
class Resampled:
    """Mean@k and tokens of candidates over the problems that all of them have, with equal weight of benchmarks.

    Attributes:
        mean, tokens: (candidates,). means, tokens_drawn: (resamples, candidates).
    """

    mean: Array
    tokens: Array
    means: Array
    tokens_drawn: Array

    @classmethod
    def of(cls, candidates: Sequence[Measured]) -> Resampled:
        """All candidates are resampled with the same problems, so what makes a problem hard cancels in comparisons.

        Raises:
            ValueError: the candidates have no problem of a benchmark in common.
        """
        parts = []
        for number, name in enumerate(candidates[0]):
            scores = [c[name] for c in candidates]
            ids = bootstrap.common(scores)
            if not ids:
                raise ValueError(f"{name}: the candidates have no problem in common")
            drawn = bootstrap.draws(len(ids), seed=bootstrap.SEED + number)
            accuracy = bootstrap.by_problem(scores, ids, bootstrap.accuracy)
            tokens = bootstrap.by_problem(scores, ids, bootstrap.tokens)
            parts.append((accuracy.mean(0), tokens.mean(0), drawn @ accuracy, drawn @ tokens))
        return cls(*(bootstrap.rounded(np.mean([part[i] for part in parts], axis=0)) for i in range(4)))

    def point(self, i: int) -> front.Point:
        return float(self.mean[i]), float(self.tokens[i])

    def points(self) -> list[front.Point]:
        return [self.point(i) for i in range(len(self.mean))]

    def means_of(self, i: int) -> Interval:
        return bootstrap.interval(self.mean[i], self.means[:, i])

    def tokens_of(self, i: int) -> Interval:
        return bootstrap.interval(self.tokens[i], self.tokens_drawn[:, i])

    def dominated(self, i: int) -> Array:
        """(candidates,): the share of resamples in which each of the others dominates candidate `i`."""
        at_least = (self.means >= self.means[:, [i]]) & (self.tokens_drawn <= self.tokens_drawn[:, [i]])
        better = (self.means > self.means[:, [i]]) | (self.tokens_drawn < self.tokens_drawn[:, [i]])
        return np.asarray((at_least & better).mean(axis=0))

    def on_front(self, i: int) -> float:
        """The share of resamples in which no other candidate dominates candidate `i`."""
        at_least = (self.means >= self.means[:, [i]]) & (self.tokens_drawn <= self.tokens_drawn[:, [i]])
        better = (self.means > self.means[:, [i]]) | (self.tokens_drawn < self.tokens_drawn[:, [i]])
        return float(1 - (at_least & better).any(axis=1).mean())

    def difference(self, i: int, j: int) -> tuple[Interval, Interval]:
        """Candidate `i` minus candidate `j` in Mean@k and in tokens."""
        mean = bootstrap.interval(float(self.mean[i] - self.mean[j]), self.means[:, i] - self.means[:, j])
        tokens = bootstrap.interval(
            float(self.tokens[i] - self.tokens[j]), self.tokens_drawn[:, i] - self.tokens_drawn[:, j]
        )
        return mean, tokens

    def hypervolume(self, among: Sequence[int], limit: float) -> Interval:
        """The hypervolume of the candidates `among`."""
        return bootstrap.interval(self._volumes(among, limit)[0], self._volumes(among, limit)[1:])

    def hypervolume_difference(self, a: Sequence[int], b: Sequence[int], limit: float) -> Interval:
        """The hypervolume of the candidates `a` minus that of `b`."""
        found = self._volumes(a, limit) - self._volumes(b, limit)
        return bootstrap.interval(found[0], found[1:])

    def _volumes(self, among: Sequence[int], limit: float) -> Array:
        """(1 + resamples,): the hypervolume as measured, then those of the resamples."""
        chosen = list(among)
        means = np.concatenate([self.mean[None, chosen], self.means[:, chosen]])
        tokens = np.concatenate([self.tokens[None, chosen], self.tokens_drawn[:, chosen]])
        return front.hypervolumes(means, tokens, limit)
