"""python -m eval run: evaluates one model."""

from __future__ import annotations

import argparse
import os

from .arguments import add_common, common_of


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="MODEL", help="model folder or Hub id; with --url also the server's name for it")
    p.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/ and the model's name)")
    p.add_argument(
        "--role", metavar="ROLE", help="instruct, thinking or merged (default: from mi_kernels.json or name)"
    )
    p.add_argument("--name", metavar="NAME", help="the model's name in reports (default: the folder's name)")
    add_common(p)


def run(arguments: argparse.Namespace) -> int:
    from .. import engines
    from ..run import driver
    from ..run.budget import BudgetReached
    from .summary import stopped, summary

    options, names, choices, session, shown = common_of(arguments)
    out = arguments.out or os.path.join("runs", os.path.basename(os.path.abspath(arguments.model)))
    subject = driver.Subject(arguments.role, None, arguments.name, served=options.kind == "openai")
    reached: BudgetReached | None = None
    try:
        with engines.create(options) as engine:
            driver.run(arguments.model, names, out, engine, choices, subject, progress=shown, session=session)
    except BudgetReached as error:
        reached = error
        scored = [name for name in names if os.path.exists(os.path.join(out, f"{name}.scores.json"))]
        names = [name for name in scored if name in session.complete_benchmarks(out)]
    if shown and names:
        print(summary(out, names))
    return 0 if reached is None else stopped(reached, session)
