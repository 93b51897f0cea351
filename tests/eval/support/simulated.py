"""Scores as `metrics` would make them, of models whose behaviour is known."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np

from eval.analysis import bootstrap
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
    hard: float = 0.15,
    seed: int = 0,
) -> Scores:
    """One run: `think` is the chance of a thinking response, shifted in lam by N(0, spread) for each problem;
    `mean` the chance of a right one, less N(0, hard)."""
    shared = np.random.default_rng(seed)  # what is a problem's own is the same at every lam
    shifts, harder = shared.normal(0, 1, problems) * spread, shared.normal(0, 1, problems) * hard
    own = np.random.default_rng([seed, round(lam * 1e6)])
    rows = []
    for i in range(problems):
        chance = think(lam + shifts[i]) if callable(think) else think
        right = int(own.binomial(samples, float(np.clip(mean - harder[i], 0, 1))))
        length = [int(t) for t in own.normal(tokens, tokens / 10, samples)]
        # Wrong answers agree with nobody: the votes are those of the right ones.
        answers = ["7"] * right + [f"wrong {j}" for j in range(samples - right)]
        verdicts = [True] * right + [False] * (samples - right)
        rows.append(
            ProblemScore(f"{i}", samples, right, int(own.binomial(samples, chance)), cut, 0, length, answers, verdicts)
        )
    every = [t for row in rows for t in row.tokens]
    drawn = bootstrap.draws(problems, 200)

    def around(of: Callable[[ProblemScore], float]) -> Interval:
        values = np.array([of(row) for row in rows], dtype=np.float64)
        return bootstrap.interval(float(values.mean()), drawn @ values)

    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    return Scores(
        benchmark=benchmark,
        samples=samples,
        mean=around(bootstrap.accuracy),
        passes={k: around(lambda r, k=k: 1 - comb(r.n - r.correct, k) / comb(r.n, k)) for k in ks},
        votes={k: around(lambda r: r.correct > 1) for k in ks},
        think=around(bootstrap.thinking),
        tokens=around(bootstrap.tokens),
        tokens_median=float(np.median(every)),
        tokens_p95=float(np.percentile(every, 95)),
        histogram=([0.0, 1e5], [len(every)]),
        cut=cut / samples,
        unparsed=0.0,
        others={},
        problems=rows,
    )


def counted(correct: list[int], tokens: list[int], n: int = 4, benchmark: str = "aime25") -> Scores:
    """A run with the number of right responses, of `n`, and the tokens of each problem."""
    made = scores(0.5, 0.5, benchmark=benchmark, problems=len(correct), samples=n)
    problems = [
        ProblemScore(str(i), n, c, 0, 0, 0, [t] * n, ["x"] * n, [k < c for k in range(n)])
        for i, (c, t) in enumerate(zip(correct, tokens))
    ]
    return Scores(**{**vars(made), "problems": problems})
