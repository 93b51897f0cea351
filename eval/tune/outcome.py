"""What a search found: fronts chosen on the problems of the search, and scored on problems that it has not seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mi_kernels import Recipe

from ..schema import Interval
from .evaluation import Evaluation
from .front import Point, hypervolume, undominated
from .resampled import Measured, Resampled
from .study import Done, Study, locked

if TYPE_CHECKING:
    from .search import Prepared


NEAR = 0.02  # of Mean@k: two candidates this close are equally good, unless they differ significantly


@dataclass(frozen=True)
class Candidate:
    """A candidate, or a point of the plain sweep, that was validated.

    Attributes:
        number: of the study. name: in reports. lam: of a plain interpolation.
        searched: (Mean@k, tokens) on the problems of the search. mean, tokens: on those that the search has not seen.
        scores: these by benchmark.
        on_search_front: whether it is on the front by the problems of the search.
    """

    number: int
    name: str
    lam: float | None
    recipe: Recipe
    searched: Point
    mean: Interval
    tokens: Interval
    scores: Measured
    on_search_front: bool


@dataclass(frozen=True)
class Comparison:
    """One validated candidate minus another: Mean@k and tokens."""

    mean: Interval
    tokens: Interval

    @property
    def better(self) -> bool:
        """Clearly more accurate, or clearly cheaper and not clearly less accurate."""
        return self.mean.low > 0 or (self.tokens.high < 0 and self.mean.high >= 0)


@dataclass(frozen=True)
class Outcome:
    """The result of a search. All numbers are on problems that the search has not seen, except where said otherwise.

    Attributes:
        prepared: what was searched.
        candidates: those validated: the front by the problems of the search, and the plain sweep.
        front: of all candidates; indices into `candidates`, by ascending tokens. plain: the same of the sweep alone.
        best: the choice among all candidates on the problems of the search: the cheapest that is as good as the most
            accurate within the budget, see `_choice`.
        best_plain: the same among the plain sweep. comparison: `best` minus `best_plain`; None if they are the same.
        recommended: `best` if it is clearly better than `best_plain`, otherwise `best_plain`.
        within_budget: whether a candidate was within the budget on the problems of the search.
        limit: of tokens in hypervolumes. volume, plain_volume: of the front of the search and of the plain sweep, both
            chosen on the problems of the search. gain: their difference.
        history: the hypervolume on the problems of the search after each candidate. plain_history: of the plain sweep.
        search_limit: the limit of tokens in these.
        stopped: the number of candidates that stopped before all problems. evaluated: of all candidates.
    """

    prepared: Prepared
    candidates: Sequence[Candidate]
    front: Sequence[int]
    plain: Sequence[int]
    best: int
    best_plain: int
    comparison: Comparison | None
    recommended: int
    within_budget: bool
    limit: float
    volume: Interval
    plain_volume: Interval
    gain: Interval
    history: Sequence[float]
    plain_history: float
    search_limit: float
    stopped: int
    evaluated: int

    @property
    def nothing_better(self) -> bool:
        """Whether the search found nothing that is clearly better than the plain sweep."""
        return self.recommended == self.best_plain and self.gain.low <= 0


def validated(prepared: Prepared, study: Study, evaluation: Evaluation, say: Callable[[str], None]) -> Outcome:
    """Validates the front and the plain sweep. Of several processes, one evaluates while the others wait."""
    every = study.done()
    whole = [done for done in every if not done.stopped]
    searched = Resampled.of([evaluation.scores(study, done) for done in whole])
    points = searched.points()
    plain = [i for i, done in enumerate(whole) if done.given.lam is not None]
    front, plain_front = undominated(points), [plain[i] for i in undominated([points[i] for i in plain])]
    budget = prepared.plan.budget
    best, within = _choice(searched, range(len(whole)), budget)
    best_plain, _ = _choice(searched, plain, budget)
    chosen = sorted({*front, best, *plain}, key=lambda i: whole[i].given.number)
    made = []
    with locked(os.path.join(prepared.out, ".validation.lock")):
        for k, i in enumerate(chosen):
            made.append(_validate(prepared, evaluation, whole[i]))
            say(f"validation {k + 1} of {len(chosen)}: {whole[i].given.name}")
    table = Resampled.of(made)
    at = {i: k for k, i in enumerate(chosen)}
    candidates = [
        Candidate(
            whole[i].given.number,
            whole[i].given.name,
            whole[i].given.lam,
            prepared.space.recipe(whole[i].given.weights),
            points[i],
            table.means_of(k),
            table.tokens_of(k),
            made[k],
            i in front,
        )
        for k, i in enumerate(chosen)
    ]
    comparison = None
    if best != best_plain:
        comparison = Comparison(*table.difference(at[best], at[best_plain]))
    better = comparison is not None and comparison.better
    limit = budget or max(table.point(at[i])[1] for i in plain)
    search_limit = budget or max(points[i][1] for i in plain)
    found, of_plain = [at[i] for i in front], [at[i] for i in plain_front]
    order = undominated(table.points())
    plain_order = undominated([table.point(at[i]) for i in plain])
    return Outcome(
        prepared=prepared,
        candidates=candidates,
        front=order,
        plain=[at[plain[k]] for k in plain_order],
        best=at[best],
        best_plain=at[best_plain],
        comparison=comparison,
        recommended=at[best] if better else at[best_plain],
        within_budget=within,
        limit=limit,
        volume=table.hypervolume(found, limit),
        plain_volume=table.hypervolume(of_plain, limit),
        gain=table.hypervolume_difference(found, of_plain, limit),
        history=history(every, search_limit),
        plain_history=hypervolume([points[i] for i in plain], search_limit),
        search_limit=search_limit,
        stopped=len(every) - len(whole),
        evaluated=len(every),
    )


def history(every: Sequence[Done], limit: float) -> list[float]:
    """The hypervolume after each candidate, on the problems of the search. Those that stopped count for nothing."""
    found: list[Point] = []
    volumes = []
    for done in every:
        if not done.stopped:
            found.append((done.mean, done.tokens))
        volumes.append(hypervolume(found, limit))
    return volumes


def _choice(table: Resampled, among: Sequence[int], budget: float | None) -> tuple[int, bool]:
    """The cheapest candidate that is as good as the best within the budget, and whether any is within it.

    As good: its Mean@k is at most NEAR lower and not significantly lower. Without a candidate within the budget, the
    one with the fewest tokens.
    """
    points = table.points()
    affordable = [i for i in among if budget is None or points[i][1] <= budget]
    if not affordable:
        return min(among, key=lambda i: (points[i][1], -points[i][0])), False
    top = max(affordable, key=lambda i: (points[i][0], -points[i][1]))
    losses = {i: table.difference(top, i)[0] for i in affordable}
    equal = [i for i in affordable if losses[i].low <= 0 and losses[i].value <= NEAR]
    return min(equal, key=lambda i: (points[i][1], -points[i][0])), True


def _validate(prepared: Prepared, evaluation: Evaluation, done: Done) -> Measured:
    given = done.given
    folder = f"lam-{given.lam:g}" if given.lam is not None else f"{given.number:04d}"
    recipe = prepared.space.recipe(given.weights)
    return evaluation.validate(given.name, given.lam, recipe, os.path.join(prepared.out, "validation", folder))
