"""python -m eval report: tables, figures and advice from runs."""

from __future__ import annotations

import argparse
import os

from .arguments import add_quiet


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("runs", metavar="RUNS", nargs="+", help="folders that hold runs at any depth, or single runs")
    p.add_argument("--out", metavar="DIR", help="the report's folder (default: report in the first RUNS)")
    p.add_argument("--tokens-per-answer", type=float, metavar="N", help="also recommend a model within this mean")
    add_quiet(p)


def run(arguments: argparse.Namespace) -> int:
    page = write_report(*arguments.runs, out=arguments.out, budget=arguments.tokens_per_answer)
    if not arguments.quiet:
        print(page)
    return 0


def write_report(*runs: str, out: str | None = None, budget: float | None = None) -> str:
    """Writes one report on the folders `runs` into `out`, by default report in the first; returns its page's path."""
    from .. import report

    return report.write(runs, out or os.path.join(runs[0], "report"), max_tokens_per_answer=budget)[0]
