"""Which lam to take: for the best accuracy, within a budget of tokens, and the trade between the two.

Two models are told apart by the difference of their Mean@k over the same resampled problems. What is not worse than the
best beyond chance counts as equal to it, and the cheapest of the equals is the advice. Of models with the same Mean@k
the one with the fewest tokens is the best, and of those the first given. No correction for the number of models
compared: a list of equals errs to the short side.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import Interval, Scores
from . import bootstrap
from .bootstrap import Array

_CUT = 0.05  # a share cut by the limit that makes means and tokens too low to compare


@dataclass(frozen=True)
class Candidate:
    """One model on one benchmark, or on several.

    Attributes:
        name: as reports call it. lam: where it is a plain interpolation, its ends included.
        scores: by benchmark.
    """

    name: str
    lam: float | None
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Reached:
    """What a model reached: its Mean@k, and its mean tokens per answer."""

    name: str
    lam: float | None
    mean: Interval
    tokens: Interval


@dataclass(frozen=True)
class Choice:
    """A model to take.

    Attributes:
        best: the one with the highest Mean@k.
        equals: the names of those that cannot be told apart from it, cheapest first, itself among them.
        cheapest: the first of them.
        loss: the best one's Mean@k less the cheapest one's; 0 where they are the same.
    """

    best: Reached
    equals: Sequence[str]
    cheapest: Reached
    loss: Interval


@dataclass(frozen=True)
class Advice:
    """Advice on one benchmark or, with equal weight, over several.

    Attributes:
        benchmarks: the names. models: how many were compared.
        best: None with fewer than two models.
        budget: the tokens per answer asked for, or None. within: the choice within it; None where nothing is.
        front: Pareto front by rising tokens: name, and the share of resamples in which it is on the front.
        notes: what the data cannot support, in sentences.
    """

    benchmarks: Sequence[str]
    models: int
    best: Choice | None
    budget: float | None
    within: Choice | None
    front: Sequence[tuple[str, float]]
    notes: Sequence[str]


@dataclass(frozen=True)
class _Table:
    """Means and tokens of each candidate, and their resamples: (candidates,) and (resamples, candidates)."""

    candidates: Sequence[Candidate]
    mean: Array
    tokens: Array
    means_drawn: Array
    tokens_drawn: Array
    problems: int


def advise(
    candidates: Sequence[Candidate],
    *,
    budget: float | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = bootstrap.SEED,
) -> Advice:
    """Advice over every benchmark that the candidates hold; those that lack one of them are left out, and named.

    Raises:
        ValueError: no candidates, or no benchmark among them.
    """
    benchmarks = list(dict.fromkeys(name for c in candidates for name in c.scores))
    if not benchmarks:
        raise ValueError("advice needs at least one model with scores")
    whole = [c for c in candidates if all(name in c.scores for name in benchmarks)]
    missing = [c.name for c in candidates if c not in whole]
    notes = [f"Left out, for want of a benchmark: {', '.join(missing)}."] if missing else []
    if not whole:
        return Advice(benchmarks, 0, None, budget, None, [], notes)
    table = _table(whole, benchmarks, resamples, seed)
    notes += _warnings(table, benchmarks)
    best = within = None
    if len(whole) > 1:
        best = _choice(table, list(range(len(whole))))
        if len(best.equals) == len(whole):
            notes.append(
                "The data cannot tell any of the models apart by Mean@k: more problems or samples would have to."
            )
    else:
        notes.append(f"Only {whole[0].name} was evaluated: there is nothing to choose from.")
    if budget is not None:
        affordable = [i for i in range(len(whole)) if table.tokens[i] <= budget]
        within = _choice(table, affordable) if affordable else None
        notes += _budget_notes(table, budget, within)
    return Advice(benchmarks, len(whole), best, budget, within, _front(table), notes)


def _table(candidates: Sequence[Candidate], benchmarks: Sequence[str], resamples: int, seed: int) -> _Table:
    parts, problems = [], []
    for number, name in enumerate(benchmarks):
        scores = [c.scores[name] for c in candidates]
        ids = bootstrap.common(scores)
        if not ids:
            raise ValueError(f"{name}: the models share no problem")
        drawn = bootstrap.draws(len(ids), resamples, seed + number)
        accuracy = bootstrap.by_problem(scores, ids, bootstrap.accuracy)
        tokens = bootstrap.by_problem(scores, ids, bootstrap.tokens)
        parts.append((accuracy.mean(0), tokens.mean(0), drawn @ accuracy, drawn @ tokens))
        problems.append(len(ids))
    mean, tokens, means_drawn, tokens_drawn = (
        bootstrap.rounded(np.mean([part[i] for part in parts], axis=0)) for i in range(4)
    )
    return _Table(candidates, mean, tokens, means_drawn, tokens_drawn, min(problems))


def _warnings(table: _Table, benchmarks: Sequence[str]) -> list[str]:
    said = []
    if table.problems < bootstrap.FEW:
        said.append(f"{table.problems} problem{'s are' if table.problems > 1 else ' is'} too few to choose by.")
    for name in benchmarks:
        cut, worst = max((c.scores[name].cut, c.name) for c in table.candidates)
        if cut > _CUT:
            said.append(
                f"The token limit cut many answers (up to {100 * cut:.0f} %, of {worst}): means and tokens are too low."
            )
    return said


def _choice(table: _Table, among: Sequence[int]) -> Choice:
    top = max(among, key=lambda i: (table.mean[i], -table.tokens[i]))
    losses = {i: _loss(table, top, i) for i in among}
    equals = sorted((i for i in among if losses[i].low <= 0), key=lambda i: (table.tokens[i], -table.mean[i]))
    names = [table.candidates[i].name for i in equals]
    return Choice(_reached(table, top), names, _reached(table, equals[0]), losses[equals[0]])


def _reached(table: _Table, i: int) -> Reached:
    return Reached(
        name=table.candidates[i].name,
        lam=table.candidates[i].lam,
        mean=bootstrap.interval(table.mean[i], table.means_drawn[:, i]),
        tokens=bootstrap.interval(table.tokens[i], table.tokens_drawn[:, i]),
    )


def _loss(table: _Table, top: int, other: int) -> Interval:
    drawn = table.means_drawn[:, top] - table.means_drawn[:, other]
    return bootstrap.interval(float(table.mean[top] - table.mean[other]), drawn)


def _budget_notes(table: _Table, budget: float, within: Choice | None) -> list[str]:
    if within is None:
        cheapest = int(table.tokens.argmin())
        name, least = table.candidates[cheapest].name, table.tokens[cheapest]
        return [f"No model keeps to {budget:,.0f} tokens per answer: the cheapest, {name}, takes {least:,.0f}."]
    said = []
    if within.best.tokens.high > budget:
        said.append(
            f"{within.best.name} may exceed {budget:,.0f} tokens on other problems: its interval reaches "
            f"{within.best.tokens.high:,.0f}."
        )
    between = _untried(table, budget)
    if between:
        said.append(between)
    return said


def _untried(table: _Table, budget: float) -> str | None:
    """Where the budget is crossed between two lam with nothing between them: the lam to evaluate next."""
    sweep = sorted((c.lam, table.tokens[i], table.mean[i]) for i, c in enumerate(table.candidates) if c.lam is not None)
    for (a, low, worse), (b, high, better) in reversed(list(itertools.pairwise(sweep))):
        lam = round(a + (b - a) * (budget - low) / (high - low), 2) if low <= budget < high else a
        if better > worse and min(lam - a, b - lam) >= 0.02:
            return (
                f"Nothing was evaluated between lam = {a:g} ({low:,.0f} tokens) and {b:g} ({high:,.0f} tokens): "
                f"lam = {lam:g} may use the budget better."
            )
    return None


def _front(table: _Table) -> list[tuple[str, float]]:
    """Models that no other one matches in both with one of them better, and how often that holds in resamples."""
    on = _undominated(table.mean[None, :], table.tokens[None, :])[0]
    often = _undominated(table.means_drawn, table.tokens_drawn).mean(0)
    order = sorted(np.flatnonzero(on), key=lambda i: table.tokens[i])
    return [(table.candidates[i].name, float(often[i])) for i in order]


def _undominated(mean: Array, tokens: Array) -> Array:
    """(rows, models): whether no other model of the row has at least its mean for at most its tokens."""
    better = (mean[:, None, :] >= mean[:, :, None]) & (tokens[:, None, :] <= tokens[:, :, None])
    strictly = (mean[:, None, :] > mean[:, :, None]) | (tokens[:, None, :] < tokens[:, :, None])
    return np.asarray(~(better & strictly).any(axis=2))


def sentences(advice: Advice) -> list[str]:
    """The advice in words, what the data cannot support included."""
    said = []
    if advice.best:
        said.append(_said(advice.best, f"Best Mean@k of {advice.models} models: "))
    if advice.within:
        said.append(_said(advice.within, f"Within {advice.budget:,.0f} tokens per answer: "))
    if len(advice.front) > 1:
        shown = ", ".join(f"{name} ({100 * often:.0f} %)" for name, often in advice.front)
        said.append(f"Pareto front by rising tokens, with how often it holds over resampled problems: {shown}.")
    return [*said, *advice.notes]


def _said(choice: Choice, opening: str) -> str:
    best, cheapest, loss = choice.best, choice.cheapest, choice.loss
    said = f"{opening}{best.name}, {100 * best.mean.value:.1f} % for {best.tokens.value:,.0f} tokens."
    dearer = choice.equals[choice.equals.index(best.name) + 1 :]
    cheaper = choice.equals[: choice.equals.index(best.name)]
    if cheaper:
        said += (
            f" {cheapest.name} takes {cheapest.tokens.value:,.0f} and cannot be told apart from it: "
            f"{_points(loss.value)} points lower ({_points(loss.low)} to {_points(loss.high)})."
        )
        rest = [*cheaper[1:], *dearer]
        said += f" Nor can {_listed(rest, 'or')}." if rest else ""
    elif dearer:
        said += f" {_listed(dearer, 'and')} cannot be told apart from it, for more tokens."
    return said


def _listed(names: Sequence[str], last: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"
