"""The scores of a run in a few lines, as the command `run` prints them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .. import benchmarks
from ..run.budget import BudgetReached
from ..run.files import load_run, load_scores
from ..run.session import Session
from ..schema import Benchmark, Scores

INCOMPLETE = 3  # the exit status of a session that its budget stopped


def summary(folder: str, names: Sequence[str]) -> str:
    """The scores of `folder` on the benchmarks `names`, in per cent, with their 95 % intervals."""
    run = load_run(folder)
    lines = [f"{run.name} ({run.role}{'' if run.lam is None else f', lam {run.lam:g}'})"]
    for name in names:
        lines += score_lines(benchmarks.get(name), load_scores(folder, name))
    lines.append(f"  {os.path.join(folder, '')}")
    return "\n".join(lines)


def score_lines(benchmark: Benchmark, scores: Scores) -> list[str]:
    """The scores on one benchmark: one line, and one for other gradings if it has any."""
    mean = scores.mean
    known = all(tokens >= 0 for problem in scores.problems for tokens in problem.tokens)
    length = f"Token #N {scores.tokens.value:,.0f}" if known else "Token #N unknown"
    lines = [
        f"  {benchmark.title}: Mean@{scores.samples} {100 * mean.value:.1f} "
        f"({100 * mean.low:.1f} to {100 * mean.high:.1f}), Think #R {100 * scores.think.value:.1f}, "
        f"{length}, cut {100 * scores.cut:.1f}, unparsed {100 * scores.unparsed:.1f}"
    ]
    if scores.others:
        others = (f"{other} {100 * value.value:.1f}" for other, value in scores.others.items())
        lines.append(f"    by other gradings: {', '.join(others)}")
    return lines


def stopped(reached: BudgetReached, session: Session) -> int:
    """Prints what a session that its budget stopped has done and what is left; returns the exit status."""
    lines = [f"stopped: {reached.problem}", *session.remaining(), reached.remedy]
    print("\n  ".join(lines), file=sys.stderr)
    return INCOMPLETE
