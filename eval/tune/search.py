"""A search: checks everything, gives out candidates, evaluates them, and validates what they found."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import IO

from mi_kernels import similarity
from mi_kernels.checkpoint.names import places
from mi_kernels.merge.api import plan_lerp
from mi_kernels.merge.options import Options as MergeOptions
from mi_kernels.recipe.interpolation import Recipe
from mi_kernels.recipe.lam import checked_lam

from ..engines import Engine
from ..engines.model_folder import context_length, local_folder
from ..errors import EvalError
from ..run import driver
from ..run.budget import BudgetReached
from ..run.estimate import Point, Work, work_of
from ..run.grading import keeping_pools
from ..run.journal import read
from ..run.session import Session
from ..run.settings import Choices, Part, make_part
from ..schema import Benchmark
from . import claim, known, prior, rungs, samplers
from .evaluation import Evaluation
from .front import undominated
from .outcome import Outcome, validated
from .space import Space, parse
from .split import Split, split
from .study import Done, Given, Start, Study

_POLL_SECONDS = 0.5
LAMS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class Plan:
    """What a search is.

    Attributes:
        instruct, thinking: model folders or Hub ids.
        evaluations: candidates besides the points of the plain sweep.
        space: see `space.parse`; None becomes its default. sampler: one of `samplers.NAMES`.
        lams: the points of the plain sweep, which the search begins with.
        seed: of the sampler, the split of the problems, and the first response.
        budget: the limit of mean tokens per answer for what is recommended, or None.
        sweep: the folder of an earlier `eval sweep`, whose points are used where settings are equal.
        validation: the share of the problems that the search does not see.
        tried: further plain lam, which count as evaluations and come before what the sampler suggests.
    """

    instruct: str
    thinking: str
    evaluations: int = 48
    space: str | None = None
    sampler: str = samplers.DEFAULT
    lams: tuple[float, ...] = LAMS
    seed: int = 0
    budget: float | None = None
    sweep: str | None = None
    validation: float = 0.5
    tried: tuple[float, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A search that is checked and can start. Nothing is written yet.

    Attributes:
        names: of the tensors of the pair. content: of tune.json.
    """

    plan: Plan
    out: str
    instruct: str
    thinking: str
    names: Sequence[str]
    space: Space
    splits: Sequence[Split]
    samples: dict[str, int]
    rungs: rungs.Rungs
    choices: Choices
    known: known.Known
    content: dict[str, object] = field(repr=False)


def prepare(plan: Plan, benchmarks: Sequence[str | Benchmark], out: str, choices: Choices) -> Prepared:
    """Checks the pair, the space, the benchmarks and `out`.

    Args:
        choices: settings of all candidates. The seed is that of `plan`.

    Raises:
        EvalError: an argument cannot be used, or `out` holds another search.
        mi_kernels.MIKernelsError: the pair cannot be merged, or a benchmark's data cannot be used.
    """
    samplers.check(plan.sampler)
    _check_numbers(plan)
    distinct = {b.name: b for b in map(driver.named, benchmarks)}
    instruct, thinking = local_folder(plan.instruct), local_folder(plan.thinking)
    job = plan_lerp(instruct, thinking, [(os.path.join(out, "model"), Recipe(0.5))], MergeOptions())
    names = list(job.sources)
    space = parse(plan.space, list(places(names).values()))
    plan = replace(plan, space=space.text)
    space.recipe({b.name: 0.001 * i for i, b in enumerate(space.blocks)}).weights(names)  # every rule selects tensors
    context = context_length(thinking)  # candidates have THINKING's config
    parts = [make_part(b, "merged", choices, context) for b in distinct.values()]
    splits = [split(part.benchmark, part.problems, plan.validation, plan.seed) for part in parts]
    samples = {part.benchmark.name: part.setting.samples for part in parts}
    found = known.load(plan.sweep, instruct, thinking, plan.lams, parts) if plan.sweep else {}
    content = _content(plan, instruct, thinking, parts, found)
    claim.check(out, content)
    return Prepared(
        plan,
        out,
        instruct,
        thinking,
        names,
        space,
        splits,
        samples,
        rungs.plan(splits, samples),
        choices,
        found,
        content,
    )


def run(
    prepared: Prepared, engine: Engine, say: Callable[[str], None] | None = None, session: Session | None = None
) -> Outcome:
    """Searches, validates, and returns what was found. The same call again resumes.

    Several processes can run one search: each takes the next candidate, and all return the same outcome.

    Args:
        say: is called with a line for each candidate; by default prints on stderr.
        session: has the budget of the search; by default there is none.

    Raises:
        BudgetReached: the budget is spent. `say` gets the front so far, and the same call resumes.
        EngineError: the engine failed. Finished responses are kept, and the same call resumes.
    """
    say = say or _say
    claim.save(prepared.out, prepared.content)
    plan = prepared.plan
    evaluation = Evaluation(
        prepared.instruct,
        prepared.thinking,
        prepared.space,
        prepared.splits,
        prepared.samples,
        prepared.rungs,
        prepared.choices,
        engine,
        prepared.known,
        session=session,
    )
    total = len(plan.lams) + plan.evaluations
    study = Study(prepared.out, prepared.space, plan.sampler, plan.seed, _starts(prepared), total)
    if session is not None:
        _announce(session, prepared, study, total)
    try:
        return _search(prepared, study, evaluation, total, say)
    except BudgetReached:
        for line in _front(study.done(), total):
            say(line)
        raise


def _search(
    prepared: Prepared, study: Study, evaluation: Evaluation, total: int, say: Callable[[str], None]
) -> Outcome:
    with keeping_pools():
        while (taken := _next(study)) is not None:
            given, lock = taken
            with lock:
                scores, rung, stopped = evaluation.search(given, study)
                mean, tokens = _values(scores)
                study.tell(given, mean, tokens, rung, stopped)
            told = "stopped, clearly dominated" if stopped else f"rung {rung + 1} of {len(prepared.rungs.rungs)}"
            say(f"{given.number + 1} of {total}: {given.name}: Mean {100 * mean:.1f} %, {tokens:,.0f} tokens, {told}")
        return validated(prepared, study, evaluation, say)


def _announce(session: Session, prepared: Prepared, study: Study, total: int) -> None:
    """Tells the session what all candidates would miss if none stopped early, and that the plain sweep is validated."""
    done = {finished.given.number for finished in study.done()}
    last, points = prepared.rungs.rungs[-1], []
    for number in range(total):
        if number not in done:
            lam = prepared.plan.lams[number] if number < len(prepared.plan.lams) else None
            if lam is None or lam not in prepared.known:
                folder = study.candidate_folder(number)
                points.append(Point(folder, lam, [_work(prepared, split, last, folder) for split in prepared.splits]))
    session.announce(points, prepared.out, more=len(prepared.plan.lams))


def _work(prepared: Prepared, split: Split, rung: rungs.Rung, folder: str) -> Work:
    name = split.benchmark.name
    choices = replace(prepared.choices, samples=None, limit=None, data={})
    part = make_part(split.searched(rung.problems[name], rung.samples[name]), "merged", choices, None)
    return work_of(part, read(folder, name))


def _front(every: Sequence[Done], total: int) -> list[str]:
    """What is known before the end: the front of the candidates that were not stopped."""
    whole = [done for done in every if not done.stopped]
    lines = [f"{len(every)} of {total} candidates have values. The front so far, on the problems of the search:"]
    for i in undominated([(done.mean, done.tokens) for done in whole]):
        lines.append(f"  {whole[i].given.name}: Mean {100 * whole[i].mean:.1f} %, {whole[i].tokens:,.0f} tokens")
    return lines


def _next(study: Study) -> tuple[Given, IO[str]] | None:
    """The next candidate; None when all have values. Waits for the last ones of other processes: if one of these dies,
    its candidate is given out again."""
    while (taken := study.take()) is None and study.running():
        time.sleep(_POLL_SECONDS)
    return taken


def _values(scores: rungs.Measured) -> tuple[float, float]:
    """Mean@k and tokens, with equal weight of benchmarks."""
    every = list(scores.values())
    return sum(s.mean.value for s in every) / len(every), sum(s.tokens.value for s in every) / len(every)


def _starts(prepared: Prepared) -> list[Start]:
    """The plain sweep, then candidates by the distance of the models."""
    plan, space = prepared.plan, prepared.space
    starts = [Start(f"lam {lam:g}", space.uniform(lam), lam) for lam in plan.lams]
    starts += [Start(f"lam {lam:g}, tried", space.uniform(lam)) for lam in plan.tried]
    if len(space.blocks) > 1:
        found = similarity(prepared.instruct, prepared.thinking, progress=False)
        starts += [Start(name, weights) for name, weights in prior.candidates(space, found)[: plan.evaluations]]
    return starts


def _check_numbers(plan: Plan) -> None:
    """Raises:
    EvalError: a number of `plan` cannot be used.
    """
    if plan.evaluations < 0:
        raise EvalError(f"--evaluations is {plan.evaluations}", "Give a whole number, such as 48.")
    if not plan.lams:
        raise EvalError("--lam names no point", "Give points such as 0:1:0.1: the search is compared with them.")
    for lam in plan.lams:
        checked_lam(lam)
    if not 0 < plan.validation < 1:
        raise EvalError(f"--validation is {plan.validation:g}", "Give a share of the problems between 0 and 1.")
    if plan.budget is not None and not plan.budget > 0:
        raise EvalError(f"--max-tokens-per-answer is {plan.budget:g}", "Give a number above 0.")


def _content(plan: Plan, instruct: str, thinking: str, parts: Sequence[Part], found: known.Known) -> dict[str, object]:
    """What two sessions of one search have in common. --evaluations may grow, and the budget may change."""
    return {
        "instruct": instruct,
        "thinking": thinking,
        "space": plan.space,
        "sampler": plan.sampler,
        "lams": list(plan.lams),
        "tried": list(plan.tried),
        "known": sorted(found),
        "seed": plan.seed,
        "validation": plan.validation,
        "settings": {part.benchmark.name: asdict(part.setting) for part in parts},
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
