"""How far a mean would vary: with other problems of the same kind (the bootstrap), or with other responses to the same.

The two are the parts of the law of total variance, as in Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640):
problems are drawn from all problems of their kind, and responses from a model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..schema import Interval, ProblemScore, Scores

Array = NDArray[np.float64]

RESAMPLES = 1000  # of stages and advice, which fit or choose in each
SCORE_RESAMPLES = 10_000  # of scores and their differences
SEED = 0
FEW = 10  # with fewer problems, percentiles of a bootstrap mean little


def draws(problems: int, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """(resamples, problems): the share of each problem in each resample. The same for the same arguments.

    `draws(p) @ values` are the means of `values` over the resamples. Runs that share their problems are resampled with
    one such matrix, so that what makes a problem hard for all of them cancels in their differences.
    """
    return _counts(problems, resamples, seed) / problems


@functools.lru_cache(maxsize=4)  # one for each benchmark, 43 MB for IFEval's 541 problems
def _counts(problems: int, resamples: int, seed: int) -> Array:
    """(resamples, problems): how often each problem was drawn."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(problems, np.full(problems, 1 / problems), size=resamples).astype(np.float64)


def interval(value: float, resampled: Array) -> Interval:
    """`value` between the 2.5th and the 97.5th percentile of its resamples."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def mean_interval(values: Array) -> Interval:
    """The mean of [problems] values and its 95 % bootstrap interval; where all values are equal, both ends are it."""
    if values.min() == values.max():  # means of the same values in another order differ in their last bits
        return Interval(*[float(values[0])] * 3)
    return interval(values.mean(), resampled_means(values))


def sampling_error(problems: Sequence[ProblemScore], of: Callable[[ProblemScore], Sequence[float]]) -> float | None:
    """The standard error of a mean over problems and responses, if the problems stay and the responses are new.

    With P problems and n responses x to each, from the variance within the problems:

        SE^2 = 1 / P^2 * sum over problems of  s^2 / n        s^2 = sum (x - mean x)^2 / (n - 1)

    s^2 is an unbiased estimate of the variance of one response to a problem, so SE^2 is one of the variance of the
    mean. The difference of two runs of one model has sqrt(2) times this error.

    Args:
        of: one number for each response to a problem, such as `correct_each`.

    Returns:
        None if a problem has only one response: its variance cannot be estimated.
    """
    if any(p.n < 2 for p in problems):
        return None
    return float(np.sqrt(sum(np.var(of(p), ddof=1) / p.n for p in problems))) / len(problems)


def correct_each(problem: ProblemScore) -> Sequence[float]:
    return [float(right) for right in problem.answers_correct]


def thinking_each(problem: ProblemScore) -> Sequence[float]:
    """Which responses think does not matter to their variance: only how many."""
    return [1.0] * problem.thinking + [0.0] * (problem.n - problem.thinking)


def tokens_each(problem: ProblemScore) -> Sequence[float]:
    return list(problem.tokens)


def resampled_means(values: Array) -> Array:
    """[SCORE_RESAMPLES] means of [problems] values, each over as many problems drawn with replacement."""
    return _counts(values.size, SCORE_RESAMPLES, SEED) @ values / values.size


def rounded(means: Array) -> Array:
    """`means` without their last bits, which depend on the order of adding, so that equal means compare equal.

    Different means of counts differ by at least 1 / (problems * samples); rounding errors stay below 1e-10.
    """
    return np.round(means, 9)


def common(scores: Sequence[Scores]) -> list[str]:
    """The ids of the problems that all of `scores` have, in the order of the first."""
    others = [{p.id for p in s.problems} for s in scores[1:]]
    return [p.id for p in scores[0].problems if all(p.id in other for other in others)] if scores else []


def by_problem(scores: Sequence[Scores], ids: Sequence[str], of: Callable[[ProblemScore], float]) -> Array:
    """(problems, scores): the value of `of` for each problem in `ids`."""
    tables = [{p.id: p for p in s.problems} for s in scores]
    return np.array([[of(table[i]) for table in tables] for i in ids], dtype=np.float64).reshape(len(ids), len(scores))


def accuracy(problem: ProblemScore) -> float:
    return problem.correct / problem.n


def thinking(problem: ProblemScore) -> float:
    return problem.thinking / problem.n


def tokens(problem: ProblemScore) -> float:
    return sum(problem.tokens) / problem.n
