"""Which lam to choose: for the best accuracy, within a budget of tokens, and the trade-off between the two.

Two models are compared by the difference of their Mean@k over the same resampled problems. A model that is not
significantly worse than the best one counts as equal to it, and the cheapest of the equals is recommended. Of models
with the same Mean@k, the one with the fewest tokens is the best; of those, the first. There is no correction for the
number of models, so a list of equals may be too short.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import Interval, Scores
from . import bootstrap
from .bootstrap import Array

_CUT = 0.05  # above this share of cut responses, means and tokens are too low to compare


@dataclass(frozen=True)
class Candidate:
    """One model on one benchmark, or on several.

    Attributes:
        name: in reports. lam: of a plain interpolation; 0 and 1 for Instruct and Thinking.
        scores: by benchmark.
    """

    name: str
    lam: float | None
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Reached:
    """Mean@k and mean tokens per answer of a model."""

    name: str
    lam: float | None
    mean: Interval
    tokens: Interval


@dataclass(frozen=True)
class Choice:
    """A recommended model.

    Attributes:
        best: the model with the highest Mean@k.
        equals: the names of models that do not differ significantly from it, and its own, the cheapest first.
        cheapest: the first of them.
        loss: Mean@k of the best minus that of the cheapest; 0 if they are the same.
    """

    best: Reached
    equals: Sequence[str]
    cheapest: Reached
    loss: Interval


@dataclass(frozen=True)
class Advice:
    """Advice on one benchmark or, with equal weight, over several.

    Attributes:
        benchmarks: the names. models: the number of compared models.
        best: None with fewer than two models.
        budget: the limit of tokens per answer, or None. within: the choice within it; None if no model is.
        front: Pareto front by ascending tokens: name, and the share of resamples in which the model is on the front.
        notes: sentences on what the data do not show.
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
    """Advice over all benchmarks of the candidates. Candidates without one of them are excluded and named.

    Raises:
        ValueError: no candidate has scores.
    """
    benchmarks = list(dict.fromkeys(name for c in candidates for name in c.scores))
    if not benchmarks:
        raise ValueError("advice needs at least one model with scores")
    whole = [c for c in candidates if all(name in c.scores for name in benchmarks)]
    missing = [c.name for c in candidates if c not in whole]
    notes = [f"Excluded because a benchmark is missing: {', '.join(missing)}."] if missing else []
    if not whole:
        return Advice(benchmarks, 0, None, budget, None, [], notes)
    table = _table(whole, benchmarks, resamples, seed)
    notes += _warnings(table, benchmarks)
    best = within = None
    if len(whole) > 1:
        best = _choice(table, list(range(len(whole))))
        if len(best.equals) == len(whole):
            notes.append("No two models differ significantly in Mean@k: use more problems or samples.")
    else:
        notes.append(f"Only {whole[0].name} was evaluated: a choice needs at least two models.")
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
            raise ValueError(f"{name}: the models have no problem in common")
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
        said.append(f"{table.problems} problem{'s are' if table.problems > 1 else ' is'} too few for a choice.")
    for name in benchmarks:
        cut, worst = max((c.scores[name].cut, c.name) for c in table.candidates)
        if cut > _CUT:
            said.append(
                f"The token limit cut many answers (up to {100 * cut:.0f} %, {worst}): means and tokens are too low."
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
        return [f"No model needs at most {budget:,.0f} tokens per answer: the cheapest, {name}, needs {least:,.0f}."]
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
    """A sentence with the lam to evaluate next if the budget is between the tokens of two adjacent lam."""
    sweep = sorted((c.lam, table.tokens[i], table.mean[i]) for i, c in enumerate(table.candidates) if c.lam is not None)
    for (a, low, worse), (b, high, better) in reversed(list(itertools.pairwise(sweep))):
        lam = round(a + (b - a) * (budget - low) / (high - low), 2) if low <= budget < high else a
        if better > worse and min(lam - a, b - lam) >= 0.02:
            return (
                f"No lam was evaluated between {a:g} ({low:,.0f} tokens) and {b:g} ({high:,.0f} tokens): "
                f"lam = {lam:g} may use the budget better."
            )
    return None


def _front(table: _Table) -> list[tuple[str, float]]:
    """The models that no other dominates, and the share of resamples in which that is true."""
    on = _undominated(table.mean[None, :], table.tokens[None, :])[0]
    often = _undominated(table.means_drawn, table.tokens_drawn).mean(0)
    order = sorted(np.flatnonzero(on), key=lambda i: table.tokens[i])
    return [(table.candidates[i].name, float(often[i])) for i in order]


def _undominated(mean: Array, tokens: Array) -> Array:
    """(rows, models): whether no other model of the row has at least its mean with at most its tokens."""
    better = (mean[:, None, :] >= mean[:, :, None]) & (tokens[:, None, :] <= tokens[:, :, None])
    strictly = (mean[:, None, :] > mean[:, :, None]) | (tokens[:, None, :] < tokens[:, :, None])
    return np.asarray(~(better & strictly).any(axis=2))


def sentences(advice: Advice) -> list[str]:
    """The advice in sentences, including the notes."""
    said = []
    if advice.best:
        said.append(_said(advice.best, f"Best Mean@k of {advice.models} models: "))
    if advice.within:
        said.append(_said(advice.within, f"Within {advice.budget:,.0f} tokens per answer: "))
    if len(advice.front) > 1:
        shown = ", ".join(f"{name} ({100 * often:.0f} %)" for name, often in advice.front)
        said.append(f"Pareto front by tokens, with the share of resamples in which each model is on it: {shown}.")
    return [*said, *advice.notes]


def _said(choice: Choice, opening: str) -> str:
    best, cheapest, loss = choice.best, choice.cheapest, choice.loss
    said = f"{opening}{best.name}, {100 * best.mean.value:.1f} % with {best.tokens.value:,.0f} tokens."
    dearer = choice.equals[choice.equals.index(best.name) + 1 :]
    cheaper = choice.equals[: choice.equals.index(best.name)]
    if cheaper:
        said += (
            f" {cheapest.name} needs {cheapest.tokens.value:,.0f} and is not significantly worse: "
            f"{_points(loss.value)} points lower ({_points(loss.low)} to {_points(loss.high)})."
        )
        rest = [*cheaper[1:], *dearer]
        said += f" The same is true of {_listed(rest, 'and')}." if rest else ""
    elif dearer:
        verb = "do" if len(dearer) > 1 else "does"
        said += f" {_listed(dearer, 'and')} {verb} not differ significantly, with more tokens."
    return said


def _listed(names: Sequence[str], last: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"
