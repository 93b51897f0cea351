"""The scores of a run with their intervals, and the difference between two runs.

With n responses to a problem, c of them correct:

    Mean@n      c / n
    Pass@k      1 - C(n - c, k) / C(n, k), unbiased (Chen et al. 2021, arXiv 2107.03374)
    Vote@k      whether the most frequent answer of the first k responses is correct. Of equally frequent answers the
                first one counts; responses without an answer do not vote; without votes it is wrong.
    Think #R    share of responses that contain `</think>`
    Token #N    mean number of tokens of a response

Each is then averaged over problems. Intervals are 95 % percentile intervals of a bootstrap over problems: the range for
other problems of the same kind. The resamples are the same for every metric and run with the same number of problems,
so two runs on the same problems are compared problem by problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..schema import Benchmark, Interval, Problem, ProblemScore, Response, Scores, Verdict
from .bootstrap import interval, mean_interval, resampled_means, rounded

# Tokens of a response: four bins per octave from 1 to 131,072, the same for all runs.
EDGES = tuple(float(edge) for edge in np.exp2(np.arange(0, 17 * 4 + 1) / 4))

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A metric of one run minus that of another.

    Attributes:
        interval: the difference and its 95 % interval.
        above: the share of resamples in which it is greater than 0.
    """

    interval: Interval
    above: float


def score(
    benchmark: Benchmark, problems: Sequence[Problem], responses: Sequence[Response], verdicts: Sequence[Verdict]
) -> Scores:
    """The scores of `responses`; `verdicts` are in the same order.

    Raises:
        DataError: problems have no responses, or different numbers of them.
    """
    grouped = _grouped(benchmark.name, problems, responses, verdicts)
    counted = [_problem_score(benchmark, name, group) for name, group in grouped.items()]
    ks = [k for k in benchmark.ks if k <= counted[0].n]
    every = [v for group in grouped.values() for _, v in group]
    return summary(
        benchmark.name,
        counted,
        passes=ks,
        votes=ks if benchmark.votes else (),
        others={
            **{name: mean_interval(_other(grouped, name)) for name in sorted({o for v in every for o in v.others})},
            **{name: _share(grouped, name) for name in sorted({c for v in every for c in v.counts})},
        },
    )


def summary(
    benchmark: str,
    counted: Sequence[ProblemScore],
    *,
    passes: Sequence[int] = (),
    votes: Sequence[int] = (),
    others: Mapping[str, Interval] | None = None,
) -> Scores:
    """The scores of `counted`, which have equal numbers of responses.

    Args:
        passes, votes: the k of Pass@k and Vote@k. others: the scores by other gradings.
    """
    tokens = np.array([t for p in counted for t in p.tokens], dtype=np.float64)
    counts, _ = np.histogram(np.clip(tokens, EDGES[0], EDGES[-1]), bins=np.array(EDGES))
    return Scores(
        benchmark=benchmark,
        samples=counted[0].n,
        mean=mean_interval(values(counted, "mean")),
        passes={k: mean_interval(values(counted, f"pass@{k}")) for k in passes},
        votes={k: mean_interval(values(counted, f"vote@{k}")) for k in votes},
        think=mean_interval(values(counted, "think")),
        tokens=mean_interval(values(counted, "tokens")),
        tokens_median=float(np.median(tokens)),
        tokens_p95=float(np.percentile(tokens, 95)),
        histogram=(EDGES, counts.tolist()),
        cut=sum(p.cut for p in counted) / tokens.size,
        unparsed=sum(p.unparsed for p in counted) / tokens.size,
        others=others or {},
        problems=counted,
    )


def difference(a: Scores, b: Scores, metric: str) -> Difference:
    """`a` minus `b` in `metric` (see `values`), problem by problem.

    Raises:
        DataError: the two are not of the same problems.
    """
    others = {p.id: p for p in b.problems}
    if a.benchmark != b.benchmark or {p.id for p in a.problems} != others.keys():
        raise DataError(
            f"{a.benchmark} with {len(a.problems)} problems and {b.benchmark} with {len(b.problems)} problems "
            "cannot be compared: they are not the same problems.",
            "Evaluate both runs on the same data.",
        )
    differences = values(a.problems, metric) - values([others[p.id] for p in a.problems], metric)
    above = float(np.mean(rounded(resampled_means(differences)) > 0))
    return Difference(mean_interval(differences), above)


def values(problems: Sequence[ProblemScore], metric: str) -> Values:
    """[problems] float64: the value of "mean", "pass@K", "vote@K", "think", "tokens", "cut" or "unparsed" for each.

    Raises:
        ValueError: the metric is unknown, or K is not in 1..n.
    """
    name, _, k = metric.partition("@")
    if name in ("pass", "vote") and k:
        per_problem = pass_at if name == "pass" else vote_at
        return np.array([per_problem(p, int(k)) for p in problems], dtype=np.float64)
    if metric == "tokens":
        return np.array([np.mean(p.tokens) for p in problems], dtype=np.float64)
    attribute = {"mean": "correct", "think": "thinking", "cut": "cut", "unparsed": "unparsed"}.get(metric)
    if attribute is None:
        raise ValueError(f"unknown metric {metric}")
    return np.array([getattr(p, attribute) / p.n for p in problems], dtype=np.float64)


def pass_at(problem: ProblemScore, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), as a product, because the binomials of large n overflow."""
    _check_k(problem, k)
    wrong = problem.n - problem.correct
    return 1.0 - float(np.prod((wrong - np.arange(k)).clip(min=0) / (problem.n - np.arange(k))))


def vote_at(problem: ProblemScore, k: int) -> float:
    """1.0 if the vote of the first k responses is correct, otherwise 0.0."""
    _check_k(problem, k)
    votes = [answer for answer in problem.answers[:k] if answer is not None]
    if not votes:
        return 0.0
    # most_common keeps the order of first occurrence among equals.
    winner = Counter(votes).most_common(1)[0][0]
    return float(problem.answers_correct[list(problem.answers).index(winner)])


def _check_k(problem: ProblemScore, k: int) -> None:
    if not 1 <= k <= problem.n:
        raise ValueError(f"k is {k}, but problem {problem.id} has {problem.n} responses")


Group = list[tuple[Response, Verdict]]


def _grouped(
    name: str, problems: Sequence[Problem], responses: Sequence[Response], verdicts: Sequence[Verdict]
) -> Mapping[str, Group]:
    """Each problem's responses by sample, in the benchmark's order."""
    if len(responses) != len(verdicts):
        raise ValueError(f"{len(responses)} responses and {len(verdicts)} verdicts")
    groups: dict[str, Group] = {problem.id: [] for problem in problems}
    for response, verdict in zip(responses, verdicts):
        groups[response.problem].append((response, verdict))
    sizes = {len(group) for group in groups.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise DataError(
            f"{name}: the number of responses per problem is {min(sizes, default=0)} to {max(sizes, default=0)}.",
            "Run the same command again to finish generating.",
        )
    return {key: sorted(group, key=lambda pair: pair[0].sample) for key, group in groups.items()}


def _problem_score(benchmark: Benchmark, name: str, group: Group) -> ProblemScore:
    verdicts = [verdict for _, verdict in group]
    return ProblemScore(
        id=name,
        n=len(group),
        correct=sum(v.correct for v in verdicts),
        thinking=sum("</think>" in response.text for response, _ in group),
        cut=sum(response.finish_reason == "length" for response, _ in group),
        unparsed=sum(v.answer is None for v in verdicts) if benchmark.votes else 0,
        tokens=[response.tokens for response, _ in group],
        answers=[v.answer for v in verdicts],
        answers_correct=[v.correct for v in verdicts],
    )


def _other(grouped: Mapping[str, Group], name: str) -> Values:
    """[problems] shares that another grading calls correct. Responses without its verdict count as wrong."""
    return np.array([np.mean([v.others.get(name, False) for _, v in group]) for group in grouped.values()])


def _share(grouped: Mapping[str, Group], name: str) -> Interval:
    """The share of everything that is counted under `name`, over all responses: problems with more count more."""
    counts = [[v.counts[name] for _, v in group if name in v.counts] for group in grouped.values()]
    followed, wanted = (np.array([sum(c[i] for c in group) for group in counts], dtype=np.float64) for i in (0, 1))
    value = float(followed.sum() / wanted.sum())
    drawn = resampled_means(wanted)
    return interval(value, resampled_means(followed)[drawn > 0] / drawn[drawn > 0])
