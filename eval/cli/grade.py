"""python -m eval grade: grades responses that another program generated."""

from __future__ import annotations

import argparse

from ..errors import EvalError
from ..schema import ROLES
from .arguments import add_quiet, data_of


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", help="OpenCompass's predictions, lm-eval's samples, or JSON lines")
    p.add_argument("--benchmark", required=True, metavar="NAME", help="the benchmark that the responses are to")
    p.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="the file or folder of the benchmark's data"
    )
    p.add_argument(
        "--role",
        choices=ROLES,
        default="merged",
        help="instruct: grade the whole text; others: without the reasoning (default: merged)",
    )
    p.add_argument("--out", metavar="DIR", help="also write NAME.verdicts.jsonl and NAME.scores.json there")
    add_quiet(p)


def run(arguments: argparse.Namespace) -> int:
    import os

    from ..analysis import metrics
    from ..benchmarks import datasets
    from ..run import driver, elsewhere, files, grading
    from .summary import score_lines

    if "," in arguments.benchmark:
        raise EvalError("--benchmark names several benchmarks", "A file holds responses to one: name only it.")
    benchmark = driver.named(arguments.benchmark)
    datasets.require(benchmark)
    problems = benchmark.load(data_of(arguments).get(benchmark.name))
    responses = elsewhere.read(arguments.file, problems)
    answered = {r.problem for r in responses}
    graded = [p for p in problems if p.id in answered]
    counts = {sum(r.problem == p.id for r in responses) for p in graded}
    if len(counts) > 1:
        raise EvalError(
            f"{arguments.file}: the problems have {min(counts)} to {max(counts)} responses",
            "Scores need the same number for each: complete the file, or remove the surplus.",
        )
    verdicts = grading.grade(benchmark, arguments.role, graded, responses)
    scores = metrics.score(benchmark, graded, responses, verdicts)
    if arguments.out:
        os.makedirs(arguments.out, exist_ok=True)
        files.save_verdicts(arguments.out, benchmark.name, responses, verdicts)
        files.save_scores(arguments.out, scores)
    if not arguments.quiet:
        print(f"{arguments.file}: {len(responses):,} responses to {len(graded)} of {len(problems)} problems")
        print("\n".join(score_lines(benchmark, scores)))
    return 0
