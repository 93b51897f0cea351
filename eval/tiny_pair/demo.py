"""The whole loop on the tiny pair, on a CPU: merge at 11 lam in one pass, evaluate each on chains, report."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence

from mi_kernels.errors import ArgumentError

from .. import engines
from ..run.files import load_scores
from ..run.settings import Choices
from ..sweep import sweep

PAIR = os.path.dirname(os.path.abspath(__file__))
LAMS = tuple(i / 10 for i in range(11))


def main(argv: Sequence[str]) -> int:
    from .. import report

    parser = argparse.ArgumentParser(prog="python -m eval demo", description=__doc__)
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="(default: runs/demo)")
    parser.add_argument("--engine", choices=("vllm", "transformers"), help="(default: vllm where it is installed)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    folders = run(arguments.out, arguments.engine or _installed(), progress=not arguments.quiet)
    page = report.write(arguments.out, os.path.join(arguments.out, "report"))[0]
    if not arguments.quiet:
        print("\n".join(table(folders)))
        print(f"{page} shows the three stages; {time.monotonic() - started:.0f} s in all.")
    return 0


def run(
    out: str, kind: str, lams: Sequence[float] = LAMS, choices: Choices | None = None, *, progress: bool = True
) -> list[str]:
    """Merges and evaluates the pair; the run folders in the order of `lams`. Goes on where an earlier call stopped."""
    pair = sweep.Pair(os.path.join(PAIR, "instruct"), os.path.join(PAIR, "thinking"))
    with engines.create(engines.Options(kind=kind, max_num_seqs=256)) as engine:
        return sweep.run(pair, sweep.Plan(tuple(lams), keep="all"), ["chains"], out, engine, choices, progress=progress)


def table(folders: Sequence[str]) -> list[str]:
    """Lines with what each run reached."""
    lines = [f"{'run':>10}  Mean@8  Think #R  Token #N"]
    for folder in folders:
        scores = load_scores(folder, "chains")
        values = f"{scores.mean.value:6.1%}  {scores.think.value:8.1%}  {scores.tokens.value:8.1f}"
        lines.append(f"{os.path.basename(folder):>10}  {values}")
    return lines


def _installed() -> str:
    if importlib.util.find_spec("vllm"):
        return "vllm"
    if importlib.util.find_spec("transformers"):
        print("vLLM is not installed: transformers generates in its place.", file=sys.stderr)
        return "transformers"
    raise ArgumentError(
        "neither vLLM nor transformers is installed", "On a machine without a GPU: pip install -e '.[eval-cpu]'."
    )
