"""python -m eval report: tables, figures and advice from runs."""

from __future__ import annotations

import argparse
import os

from .arguments import add_quiet


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("runs", metavar="RUNS", help="a folder that holds runs at any depth, or one run")
    p.add_argument("--out", metavar="DIR", help="the report's folder (default: RUNS/report)")
    p.add_argument("--tokens-per-answer", type=float, metavar="N", help="also recommend a model within this mean")
    add_quiet(p)


def run(arguments: argparse.Namespace) -> int:
    page = write_report(arguments.runs, arguments.out, arguments.tokens_per_answer)
    if not arguments.quiet:
        print(page)
    return 0


def write_report(runs: str, out: str | None = None, budget: float | None = None) -> str:
    """Writes the report on the folder `runs` into `out`, by default RUNS/report; returns the path of its page."""
    from .. import report

    return report.write(runs, out or os.path.join(runs, "report"), max_tokens_per_answer=budget)[0]
