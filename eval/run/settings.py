"""The settings of a run, the responses that are missing, and the check that a folder holds the same run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import EvalError
from ..schema import Benchmark, Problem, Response, Run, Setting
from .roles import is_live, paper_sampling


@dataclass(frozen=True)
class Choices:
    """The settings that a user may choose. None means the paper's value.

    Attributes:
        samples: responses to each problem. limit: use only the first problems. seed: of the first response.
        temperature, top_p, top_k, max_tokens: replace the values of the role and the benchmark.
        data: the file, folder or Hub id of a benchmark's problems, by its name.
    """

    samples: int | None = None
    limit: int | None = None
    seed: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One benchmark of a run."""

    benchmark: Benchmark
    problems: Sequence[Problem]
    setting: Setting

    @cached_property
    def prompts(self) -> Mapping[str, str]:
        """The user turn of each problem by id. A Response may hold only a digest of it."""
        return {p.id: p.prompt for p in self.problems}

    def missing(self, done: Mapping[tuple[str, int], Response]) -> list[Response]:
        """The responses to generate, in order: everything except what the model adds."""
        n = self.setting.samples
        return [
            Response(problem.id, sample, self.setting.seed + i * n + sample, self._shown(problem), "", 0, "")
            for i, problem in enumerate(self.problems)
            for sample in range(n)
            if (problem.id, sample) not in done
        ]

    def ordered(self, done: Mapping[tuple[str, int], Response]) -> list[Response]:
        """The responses in the order of the problems. Files hold them in the order in which they finished."""
        return [done[p.id, s] for p in self.problems for s in range(self.setting.samples)]

    def _shown(self, problem: Problem) -> str:
        if self.benchmark.private:
            return "sha256:" + hashlib.sha256(problem.prompt.encode()).hexdigest()
        return problem.prompt


def make_part(benchmark: Benchmark, role: str, choices: Choices, context: int | None) -> Part:
    """Loads the problems of a benchmark and determines its settings.

    Args:
        context: the context length of the model; limits max_tokens.

    Raises:
        EvalError: the benchmark has no problems, or a choice is out of range.
    """
    _check(choices)
    problems = benchmark.load(choices.data.get(benchmark.name))[: choices.limit]
    if not problems:
        raise EvalError(f"{benchmark.name} has no problems", "Check --data and --limit.")
    given = {
        name: value
        for name in ("temperature", "top_p", "top_k", "max_tokens")
        if (value := getattr(choices, name)) is not None
    }
    sampling = replace(paper_sampling(role, benchmark.max_tokens), **given)
    if context is not None:
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, context))
    samples = choices.samples or benchmark.samples
    setting = Setting(samples, len(problems), digest(problems), choices.seed, sampling)
    return Part(benchmark, problems, setting)


def _check(choices: Choices) -> None:
    ranges = {
        "samples": (1, 10**6),
        "limit": (1, 10**9),
        "seed": (0, 2**31 - 1),
        "temperature": (0.0, 100.0),
        "top_p": (1e-6, 1.0),
        "top_k": (0, 10**9),
        "max_tokens": (1, 10**9),
    }
    for name, (low, high) in ranges.items():
        value = getattr(choices, name)
        if value is not None and not low <= value <= high:
            raise EvalError(f"{name} is {value}", f"Give a value from {low:g} to {high:g}.")


def digest(problems: Sequence[Problem]) -> str:
    content = json.dumps([[p.id, p.prompt, p.reference] for p in problems], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def longest(part: Part) -> int:
    """An upper bound of prompt and response in tokens: a token is at least a byte, a chat template a few dozen."""
    return max(len(p.prompt.encode()) for p in part.problems) + 512 + part.setting.sampling.max_tokens


def grown(before: Setting, part: Part) -> Setting:
    """`before` with the samples and problems of `part`, if `part` only adds some; otherwise `before` itself.

    What is added keeps the seeds that it has in a run of this size. Within a problem they differ from all earlier ones:
    those of problem i end before (i + 1) * n, and the added ones start at i * N + n, where n < N are the samples.
    """
    now = part.setting
    kept = part.problems[: before.problems]
    if before.samples > now.samples or len(kept) < before.problems or digest(kept) != before.digest:
        return before
    return replace(before, samples=now.samples, problems=now.problems, digest=now.digest)


def check_same(folder: str, before: Run, now: Run, parts: Sequence[Part]) -> None:
    """Checks that `now` continues or extends the run in `folder`.

    Args:
        parts: those of `now`.

    Raises:
        EvalError: `folder` holds a run with other settings than `now`. Names all differences.
    """
    by_name = {part.benchmark.name: part for part in parts}
    settings = {n: grown(s, by_name[n]) if n in by_name else s for n, s in before.settings.items()}
    old, new = _comparable(replace(before, settings=settings), now), _comparable(now, now)
    keys = [key for key in new if key in old and old[key] != new[key]]
    differs = [f"{key} {_short(old[key])}, now {_short(new[key])}" for key in keys]
    if keys:
        raise EvalError(
            f"{folder}: holds a run with other settings: {'; '.join(differs)}",
            "Use the same settings (only --samples and --limit may grow), or choose another folder with --out.",
        )


def _comparable(run: Run, now: Run) -> dict[str, Any]:
    """What two sessions of one run must have in common. Of the engine, that is only its name."""
    content: dict[str, Any] = {"role": run.role, "lam": run.lam, "merge": _same_anywhere(run.merge)}
    if not is_live(run.model) and not is_live(now.model):  # else the record says whether it is the same merge
        content["model"] = run.model
    if run.engine and now.engine:
        content["engine"] = run.engine["name"]
    for name, setting in run.settings.items():
        values = asdict(setting)
        values.update(values.pop("sampling"))
        content.update({f"{name} {key}": value for key, value in values.items()})
    return content


def _same_anywhere(record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The record of a merge with absolute paths of its models. A relative path is the same model."""
    if record is None:
        return None
    models = {key: record[key] for key in ("instruct", "thinking") if isinstance(record.get(key), Mapping)}
    for key, model in models.items():
        source = model.get("source")
        if isinstance(source, str) and os.path.isdir(source):
            models[key] = {**model, "source": os.path.abspath(source)}
    return {**record, **models}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
