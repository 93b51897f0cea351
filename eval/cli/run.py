"""python -m eval run: evaluates one model."""

from __future__ import annotations

import argparse
import os

from .arguments import (
    add_choices,
    add_engine,
    add_limits,
    add_quiet,
    benchmarks_of,
    choices_of,
    engine_options_of,
    session_of,
    show_notes,
)


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="MODEL", help="model folder or Hub id; with --url also the server's name for it")
    p.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/ and the model's name)")
    p.add_argument(
        "--role", metavar="ROLE", help="instruct, thinking or merged (default: from mi_kernels.json or name)"
    )
    p.add_argument("--name", metavar="NAME", help="the model's name in reports (default: the folder's name)")
    add_choices(p)
    add_engine(p)
    add_limits(p)
    add_quiet(p)


def run(arguments: argparse.Namespace) -> int:
    from .. import engines
    from ..run import driver
    from ..run.budget import BudgetReached
    from .summary import stopped, summary

    if not arguments.quiet:
        show_notes()
    options, names, session = engine_options_of(arguments), benchmarks_of(arguments), session_of(arguments)
    choices, shown = choices_of(arguments), not arguments.quiet
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
