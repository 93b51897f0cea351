"""Scores as `metrics` would make them, of models whose behaviour is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval.schema import Interval, ProblemScore, Scores


def logistic(lam: float, start: float, end: float) -> float:
    """The share that is 5 % at `start` and 95 % at `end`."""
    z = (lam - (start + end) / 2) / (end - start) * 2 * np.log(19)
    return float(1 / (1 + np.exp(-z)))


def scores(
    lam: float,
    think: Callable[[float], float] | float,
    *,
    benchmark: str = "aime25",
    problems: int = 30,
    samples: int = 16,
    mean: float = 0.5,
    tokens: float = 1000.0,
    spread: float = 0.0,
    cut: int = 0,
    seed: int = 0,
) -> Scores:
    """One run: `think` is the chance of a thinking response, shifted in lam by N(0, spread) for each problem."""
    shared = np.random.default_rng(seed)  # what is a problem's own is the same at every lam
    shifts, hard = shared.normal(0, 1, problems) * spread, shared.normal(0, 0.15, problems)
    own = np.random.default_rng([seed, round(lam * 1e6)])
    rows = []
    for i in range(problems):
        chance = think(lam + shifts[i]) if callable(think) else think
        right = int(own.binomial(samples, float(np.clip(mean + hard[i], 0, 1))))
        length = [int(t) for t in own.normal(tokens, tokens / 10, samples)]
        # Wrong answers agree with nobody: the votes are those of the right ones.
        answers = ["7"] * right + [f"wrong {j}" for j in range(samples - right)]
        verdicts = [True] * right + [False] * (samples - right)
        rows.append(
            ProblemScore(f"{i}", samples, right, int(own.binomial(samples, chance)), cut, 0, length, answers, verdicts)
        )
    every = [t for row in rows for t in row.tokens]

    def around(value: float) -> Interval:
        return Interval(value, value - 0.01, value + 0.01)

    return Scores(
        benchmark=benchmark,
        samples=samples,
        mean=around(float(np.mean([r.correct / r.n for r in rows]))),
        passes={samples: around(float(np.mean([r.correct > 0 for r in rows])))},
        votes={samples: around(float(np.mean([r.correct > 1 for r in rows])))},
        think=around(float(np.mean([r.thinking / r.n for r in rows]))),
        tokens=Interval(float(np.mean(every)), float(np.mean(every)) - 20, float(np.mean(every)) + 20),
        tokens_median=float(np.median(every)),
        tokens_p95=float(np.percentile(every, 95)),
        histogram=([0.0, 1e5], [len(every)]),
        cut=cut / samples,
        unparsed=0.0,
        others={},
        problems=rows,
    )
