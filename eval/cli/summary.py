"""The scores of a run in a few lines, as the command `run` prints them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .. import benchmarks
from ..run.files import load_run, load_scores


def summary(folder: str, names: Sequence[str]) -> str:
    """The scores of `folder` on the benchmarks `names`, in per cent, with their 95 % intervals."""
    run = load_run(folder)
    lines = [f"{run.name} ({run.role}{'' if run.lam is None else f', lam {run.lam:g}'})"]
    for name in names:
        benchmark, scores = benchmarks.get(name), load_scores(folder, name)
        mean = scores.mean
        lines.append(
            f"  {benchmark.title}: Mean@{scores.samples} {100 * mean.value:.1f} "
            f"({100 * mean.low:.1f} to {100 * mean.high:.1f}), Think #R {100 * scores.think.value:.1f}, "
            f"Token #N {scores.tokens.value:,.0f}, cut {100 * scores.cut:.1f}, unparsed {100 * scores.unparsed:.1f}"
        )
    lines.append(f"  {os.path.join(folder, '')}")
    return "\n".join(lines)
