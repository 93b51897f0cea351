"""The records that the modules of `eval` exchange, and the files that hold them.

A run is a folder, one model on any number of benchmarks:

    run.json                  Run: the model, its role and lam, and a Setting for each benchmark
    BENCHMARK.jsonl           one Response per line, appended when it is finished
    BENCHMARK.verdicts.jsonl  one Verdict per line, written again by every session
    BENCHMARK.scores.json     Scores, from `analysis.metrics.score`

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
    """The grade of one response.

    Attributes:
        correct: by the benchmark's main rule.
        answer: the answer found in the response, normalised so that equal answers are equal strings (Vote@k counts
            them); None if no answer was found.
        others: verdicts by other rules, by their name: {"paper": True}.
        counts: (followed, all) of something that a response has several of, by the name of the rule.
    """

    correct: bool
    answer: str | None
    others: Mapping[str, bool] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark. Each module of `eval.benchmarks` defines one as BENCHMARK; a new benchmark is a new module.

    Attributes:
        name: on the command line, and the stem of its files. title: in reports.
        samples: responses to a problem in the paper, its n.
        max_tokens: the paper's limit of new tokens.
        load: reads the problems from a file, folder or Hub id, or from the default place (None).
        grade: returns the verdict on a text, from which the reasoning has been removed if the role requires it. Runs in
            another process with a time limit, so it is a module-level function of plain values.
        ks: the values of k for Pass@k and Vote@k in reports.
        votes: whether responses have an answer that Vote@k can count. If not, every Verdict.answer is None, and a
            response without one does not count as unparsed.
        needs: (module, package) that loading and grading import, beside those of eval itself.
        private: its questions must not be written anywhere; responses hold a digest instead of the prompt.
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
    needs: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and the limit of new tokens."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


@dataclass(frozen=True)
class Response:
    """One answer of a model.

    Attributes:
        problem: the id. sample: the number of this response to the problem, from 0.
        seed: of this response only.
        prompt: the user turn (not the chat template around it); "sha256:..." where the benchmark is private.
        text: the generated text with `</think>`, without the special tokens that end it.
        tokens: the number of generated tokens, including the end-of-sequence token.
        finish_reason: "stop", or "length" if the token limit cut it.
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
    """How one benchmark was run. Two runs can be compared if their settings are equal.

    Attributes:
        digest: sha256 of the loaded problems.
    """

    samples: int
    problems: int
    digest: str
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Run:
    """What run.json holds.

    Attributes:
        model: the folder or id that was evaluated. name: in reports ("MI-0.8").
        role: one of ROLES: it decides the sampling and whether reasoning is stripped.
        lam: of a plain interpolation, otherwise None. merge: the content of its mi_kernels.json, or None.
        engine: name, version and settings of the engine that generated the responses.
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
    """Counts over the responses to one problem. All intervals and comparisons of runs are computed from these."""

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
    """The scores of a run on one benchmark.

    Attributes:
        mean: Mean@n. passes, votes: Pass@k and Vote@k by k. think: Think #R. tokens: Token #N, the mean.
        tokens_median, tokens_p95: of all responses. histogram: (edges, counts) of tokens.
        cut: the share that the token limit cut. unparsed: the share in which no answer was found.
        others: Mean@n by the other gradings; for `Verdict.counts` the share of all that are counted.
        problems: the counts of each problem, in the benchmark's order.
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
