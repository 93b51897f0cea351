"""The whole loop on the tiny pair, on a CPU: evaluates merges at 11 lam on chains, with one start of the engine."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from mi_kernels.errors import ArgumentError

from .. import engines
from ..run.files import load_scores
from ..run.settings import Choices
from ..sweep import sweep

PAIR = os.path.dirname(os.path.abspath(__file__))
LAMS = tuple(i / 10 for i in range(11))


def run(
    out: str, kind: str, lams: Sequence[float] = LAMS, choices: Choices | None = None, *, progress: bool = True
) -> list[str]:
    """Evaluates merges of the pair; returns the run folders in the order of `lams`. Resumes an earlier call."""
    pair = sweep.Pair(os.path.join(PAIR, "instruct"), os.path.join(PAIR, "thinking"))
    # The model is so small that an engine uses one core. The responses do not depend on how many engines share them.
    count = min(4, os.cpu_count() or 1) if kind == "vllm" else 1
    with engines.create(engines.Options(kind=kind, max_num_seqs=256, engines=count)) as engine:
        return sweep.run(pair, sweep.Schedule(tuple(lams)), ["chains"], out, engine, choices, progress=progress)


def table(folders: Sequence[str]) -> list[str]:
    """One line with the scores of each run, after a header."""
    lines = [f"{'run':>10}  Mean@8  Think #R  Token #N"]
    for folder in folders:
        scores = load_scores(folder, "chains")
        values = f"{scores.mean.value:6.1%}  {scores.think.value:8.1%}  {scores.tokens.value:8.1f}"
        lines.append(f"{os.path.basename(folder):>10}  {values}")
    return lines


def installed_engine() -> str:
    """vllm where it is installed, otherwise transformers.

    Raises:
        ArgumentError: neither is installed.
    """
    if importlib.util.find_spec("vllm"):
        return "vllm"
    if importlib.util.find_spec("transformers"):
        print("vLLM is not installed: transformers is used instead.", file=sys.stderr)
        return "transformers"
    raise ArgumentError(
        "vLLM and transformers are not installed", "Without a GPU, run `python -m pip install -e '.[eval-cpu]'`."
    )
