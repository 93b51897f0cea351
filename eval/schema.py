"""The records that the rooms of `eval` hand to each other, and the files they lie in.

A run is a folder, one model on any number of benchmarks:

    run.json                  Run: the model, its role and lam, and a Setting for each benchmark
    BENCHMARK.jsonl           a Response a line, appended as they come
    BENCHMARK.verdicts.jsonl  a Verdict a line, made again whenever grading changes
    BENCHMARK.scores.json     what `metrics.score` makes of both

Shares and accuracies are fractions from 0 to 1 in files, per cent in reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROLES = ("instruct", "thinking", "merged")


@dataclass(frozen=True)
class Problem:
    """One problem of a benchmark.

    Attributes:
        id: unique in the benchmark, stable between runs.
        prompt: the one user turn, before the chat template.
        reference: what `Benchmark.grade` needs; plain JSON.
    """

    id: str
    prompt: str
    reference: Any


@dataclass(frozen=True)
class Verdict:
    """What grading says of one response.

    Attributes:
        correct: by the benchmark's main rule.
        answer: what was read from the response, in a form in which equal answers are equal strings (Vote@k counts
            them); None where nothing could be read.
        others: verdicts by other rules, by their name: {"paper": True}.
    """

    correct: bool
    answer: str | None
    others: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: each module of `eval.benchmarks` holds one, as BENCHMARK. A new benchmark is a new module.

    Attributes:
        name: as the command line says it, and the stem of its files. title: as a reader says it.
        samples: responses to a problem in the paper, its n.
        max_tokens: the paper's limit of new tokens.
        load: the problems, from a file, folder or Hub id, or from where it is usually found (None).
        grade: the verdict on a text whose reasoning has been stripped where the role asks for it. Runs in another
            process, under a time limit: a module-level function of plain values.
        ks: the k of Pass@k and Vote@k that reports show.
        votes: whether a response has an answer that votes can count; where not, every Verdict.answer is None, and that
            does not say that nothing was read.
        private: its questions must not be written anywhere: responses then hold a digest in place of the prompt.
    """

    name: str
    title: str
    samples: int
    max_tokens: int
    load: Callable[[str | None], Sequence[Problem]]
    grade: Callable[[Any, str], Verdict]
    ks: Sequence[int] = ()
    private: bool = False
    votes: bool = True


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and at most how many."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


@dataclass(frozen=True)
class Response:
    """One answer of a model.

    Attributes:
        problem, sample: which problem, and its how-manieth response from 0.
        seed: of this response alone.
        prompt: the user turn (not the chat template around it); "sha256:..." where the benchmark is private.
        text: all that was generated, special tokens that end it excluded, `</think>` kept.
        tokens: how many tokens were generated, the end-of-sequence token included.
        finish_reason: "stop", or "length" where the limit cut it.
    """

    problem: str
    sample: int
    seed: int
    prompt: str
    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Setting:
    """How one benchmark was run: two runs compare when their settings are equal.

    Attributes:
        digest: sha256 of the problems as loaded.
    """

    samples: int
    problems: int
    digest: str
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Run:
    """What a run is of.

    Attributes:
        model: the folder or id that was evaluated. name: how reports call it ("MI-0.8").
        role: one of ROLES: it decides the sampling and whether reasoning is stripped.
        lam: where the model is a plain interpolation. merge: what its mi_kernels.json holds, if it has one.
        engine: what generated: its name, version and settings.
    """

    model: str
    name: str
    role: str
    lam: float | None
    merge: Mapping[str, Any] | None
    engine: Mapping[str, Any]
    settings: Mapping[str, Setting]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % bootstrap interval over problems."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ProblemScore:
    """One problem's responses, counted: what every interval and every comparison of two runs is made from."""

    id: str
    n: int
    correct: int
    thinking: int
    cut: int
    unparsed: int
    tokens: Sequence[int]
    answers: Sequence[str | None]
    answers_correct: Sequence[bool]


@dataclass(frozen=True)
class Scores:
    """What a run reached on one benchmark.

    Attributes:
        mean: Mean@n. passes, votes: Pass@k and Vote@k by k. think: Think #R. tokens: Token #N, the mean.
        tokens_median, tokens_p95: of all responses. histogram: (edges, counts) of tokens.
        cut: the share that the limit cut. unparsed: the share in which no answer was found.
        others: Mean@n by the other gradings.
        problems: by problem, in the benchmark's order.
    """

    benchmark: str
    samples: int
    mean: Interval
    passes: Mapping[int, Interval]
    votes: Mapping[int, Interval]
    think: Interval
    tokens: Interval
    tokens_median: float
    tokens_p95: float
    histogram: tuple[Sequence[float], Sequence[int]]
    cut: float
    unparsed: float
    others: Mapping[str, Interval]
    problems: Sequence[ProblemScore]
