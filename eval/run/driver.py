"""Runs a model on benchmarks: generates and appends the missing responses, then grades and scores all of them.

    with engines.create(engines.Options()) as engine:
        driver.run("mi-0.8", ["aime25", "ifeval"], "runs/mi-0.8", engine)

The same command again generates only the responses that are missing. More samples or problems extend the run; other
settings are refused. Each response has its own seed, so the result does not depend on where a run was interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace

from .. import benchmarks as registry
from ..engines import Engine, Request
from ..engines.live_pair import LivePair
from ..engines.model_folder import context_length, local_folder
from ..errors import EngineError, EvalError
from ..schema import Benchmark, Response, Run
from .files import defect, load_run, save_run, save_scores, save_verdicts
from .journal import Journal, changing_run, locked, read
from .progress import Progress
from .roles import described, identify, identify_pair, is_live
from .settings import Choices, Part, check_same, longest, make_part


@dataclass(frozen=True)
class Subject:
    """Facts about the model of a run that its folder does not contain.

    Attributes:
        role: one of `schema.ROLES`. lam: of a model that is an end of a sweep. name: in reports.
        served: the model is given by the name that a server uses, unless that is also a folder.
    """

    role: str | None = None
    lam: float | None = None
    name: str | None = None
    served: bool = False


def run(
    model: str | LivePair,
    benchmarks: Sequence[str | Benchmark],
    out: str,
    engine: Engine,
    choices: Choices | None = None,
    subject: Subject | None = None,
    *,
    progress: bool = True,
) -> str:
    """Evaluates `model` on `benchmarks` into the folder `out`, and returns `out`.

    Args:
        model: a folder, a Hub id, the name that the engine's server uses, or a merge that the engine holds without a
            folder. An engine that is open with a merge of the same pair only changes its weights.
        benchmarks: names or Benchmarks.
        out: created if missing. If it holds a part of this run, or other benchmarks of it, the run is completed.
        engine: from `engines.create`. It is opened only if responses are missing, so many runs can share it.
        progress: shows notes and a bar (or one line per minute) on stderr.

    Raises:
        EvalError: the model, a choice or `out` cannot be used.
        NotLiveError: the engine cannot hold this merge; a folder with it can be evaluated into the same `out`.
        EngineError: the engine failed; finished responses are kept in `out`.
    """
    choices, subject = choices or Choices(), subject or Subject()
    now, target, context = _identified(model, subject)
    parts = [make_part(b, now.role, choices, context) for b in {b.name: b for b in map(named, benchmarks)}.values()]
    now = replace(now, settings={p.benchmark.name: p.setting for p in parts})
    if progress:
        _note_limits(parts)
    with ExitStack() as locks:
        for part in parts:
            locks.enter_context(locked(out, part.benchmark.name))
        now = _joined(out, now, parts)
        with ExitStack() as stack:
            journals = {p.benchmark.name: stack.enter_context(closing(Journal(out, p.benchmark.name))) for p in parts}
            missing = [(p, r) for p in parts for r in p.missing(journals[p.benchmark.name].responses)]
            if missing:
                length = max(map(longest, parts))
                now = replace(now, engine=engine.open(target, min(length, context or length)))
            with changing_run(out):  # another process may have changed run.json
                joined = _joined(out, now, parts)
                _remove_outgrown(out, parts)
                save_run(out, replace(joined, engine=now.engine) if missing else joined)
            if missing:
                _generate(out, engine, missing, journals, progress)
        for part in parts:
            _grade(out, now.role, part, part.ordered(journals[part.benchmark.name].responses))
    return out


def complete(out: str, benchmarks: Sequence[str | Benchmark], choices: Choices, context: int | None) -> bool:
    """Whether `out` holds a complete run with these settings. Does not need the model, which may have been removed.

    Args:
        context: the context length of the model, see `model_folder.context_length`.

    Raises:
        EvalError: `out` holds a run with other settings.
    """
    if not os.path.exists(os.path.join(out, "run.json")):
        return False
    before = load_run(out)
    for benchmark in map(named, benchmarks):
        setting = before.settings.get(benchmark.name)
        if setting is None:
            return False
        part = make_part(benchmark, before.role, choices, context)
        check_same(out, before, replace(before, settings={benchmark.name: part.setting}), [part])
        scored = os.path.exists(os.path.join(out, f"{benchmark.name}.scores.json"))
        if not scored or part.missing(read(out, benchmark.name)):
            return False
    return True


def named(given: str | Benchmark) -> Benchmark:
    """The benchmark with this name.

    Raises:
        EvalError: no benchmark has this name.
    """
    if isinstance(given, Benchmark):
        return given
    if given not in registry.names():
        raise EvalError(f"unknown benchmark {given!r}", f"Known benchmarks: {', '.join(registry.names())}.")
    return registry.get(given)


def _identified(model: str | LivePair, subject: Subject) -> tuple[Run, str | LivePair, int | None]:
    """The run without settings, what the engine opens, and the context length if it is known."""
    folder: str | None
    target: str | LivePair
    if isinstance(model, LivePair):
        target = pair = model.absolute()
        found, here = identify_pair(pair, subject.role), pair.end or described(pair)
        folder = local_folder(pair.instruct if pair.side == "instruct" else pair.thinking)
    else:
        folder = None if subject.served and not os.path.isdir(model) else local_folder(model)
        found, here = identify(model, folder, subject.role), os.path.abspath(model) if os.path.isdir(model) else model
        target = model if subject.served else folder or model
    lam = found.lam if subject.lam is None else subject.lam
    name = subject.name or _usual_name(here, lam)
    return Run(here, name, found.role, lam, found.merge, {}, {}), target, context_length(folder) if folder else None


def _usual_name(model: str, lam: float | None) -> str:
    if is_live(model):
        return "merge" if lam is None else f"MI-{lam:g}"
    return os.path.basename(model.rstrip("/"))


def _remove_outgrown(out: str, parts: Sequence[Part]) -> None:
    """Removes the scores and verdicts of fewer samples or problems: run.json will not describe them any more."""
    if not os.path.exists(os.path.join(out, "run.json")):
        return
    before = load_run(out).settings
    for part in parts:
        name = part.benchmark.name
        if name in before and before[name] != part.setting:
            for kind in ("scores.json", "verdicts.jsonl"):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(out, f"{name}.{kind}"))


def _joined(out: str, now: Run, parts: Sequence[Part]) -> Run:
    """`now` plus the other benchmarks in `out` and the engine that generated them."""
    before = load_run(out) if os.path.exists(os.path.join(out, "run.json")) else None
    for name in now.settings:
        path = os.path.join(out, f"{name}.jsonl")
        if (before is None or name not in before.settings) and os.path.exists(path) and os.path.getsize(path):
            raise EvalError(
                f"{path}: holds responses, but run.json does not record their settings",
                "Restore run.json, or choose another folder with --out.",
            )
    if before is None:
        return now
    check_same(out, before, now, parts)
    return replace(now, engine=before.engine, settings={**before.settings, **now.settings})


def _generate(
    out: str,
    engine: Engine,
    missing: Sequence[tuple[Part, Response]],
    journals: Mapping[str, Journal],
    progress: bool,
) -> None:
    requests = [
        Request(i, part.prompts[response.problem], response.seed, part.setting.sampling)
        for i, (part, response) in enumerate(missing)
    ]
    defects: list[str] = []
    limit = max(request.sampling.max_tokens for request in requests)
    with Progress(len(missing), progress, limit, engine.running) as bar:
        try:
            for done in engine.generate(requests):
                part, response = missing[done.index]
                said = replace(response, text=done.text, tokens=done.tokens, finish_reason=done.finish_reason)
                if (why := defect(said)) is not None:  # the others are still worth their tokens
                    defects.append(why)
                    continue
                journals[part.benchmark.name].append(said)
                bar.add(done.tokens)
            if defects:
                raise EngineError(
                    f"{len(defects)} of {len(missing)} responses cannot be counted: of the first, {defects[0]}", ""
                )
        except EngineError as error:
            kept = f"Finished responses are kept in {out}: run the same command again to resume."
            raise EngineError(error.problem, f"{error.remedy} {kept}".strip()) from error


def _grade(out: str, role: str, part: Part, responses: Sequence[Response]) -> None:
    from ..analysis import metrics
    from . import grading

    verdicts = grading.grade(part.benchmark, role, part.problems, responses)
    save_verdicts(out, part.benchmark.name, responses, verdicts)
    save_scores(out, metrics.score(part.benchmark, part.problems, responses, verdicts))


def _note_limits(parts: Sequence[Part]) -> None:
    for part in parts:
        limit, paper = part.setting.sampling.max_tokens, part.benchmark.max_tokens
        if limit != paper:
            print(
                f"note: {part.benchmark.name}: the token limit is {limit:,}, the paper's is {paper:,}", file=sys.stderr
            )
