"""python -m eval sweep: merges two models at many lam, evaluates each, and reports."""

from __future__ import annotations

import argparse

from ..errors import EvalError
from .arguments import add_common, common_of


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("instruct", metavar="INSTRUCT", help="model folder or Hub id: lam 0")
    p.add_argument("thinking", metavar="THINKING", help="model folder or Hub id: lam 1")
    p.add_argument("--lam", required=True, metavar="LIST", help="values and START:STOP:STEP, STOP included")
    p.add_argument(
        "--out", metavar="DIR", default="runs", help="folder for runs, merges and the report (default: runs)"
    )
    p.add_argument("--layers", metavar="RANGES", help="merge only these decoder layers, such as 12:36")
    p.add_argument("--modules", metavar="NAMES", help="merge only these: some of attn,ffn,router,norm,embed,head")
    p.add_argument(
        "--keep",
        choices=("none", "all"),
        default="none",
        help="none: write no model, the engine changes lam in place (if it cannot: merge one at a time and remove "
        "it after its run); all: merge all in one pass, keep them and evaluate the folders (default: none)",
    )
    p.add_argument("--adaptive", action="store_true", help="after --lam, add points near the boundaries of the stages")
    p.add_argument(
        "--points", type=int, default=16, metavar="N", help="number of lam in all with --adaptive (default: 16)"
    )
    p.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="one task for each lam and benchmark on a Ray cluster with shared storage: auto, HOST:PORT or local",
    )
    add_common(p)


def run(arguments: argparse.Namespace) -> int:
    from mi_kernels.cli.text import parse_lams

    from .. import engines, report
    from ..run.budget import BudgetReached
    from ..sweep import sweep
    from .report import write_report
    from .summary import stopped

    report.require()  # before hours of generation
    options, names, choices, session, shown = common_of(arguments)
    if arguments.ray is not None and session.budget.limited:
        raise EvalError("--time and --tokens do not work with --ray", "Remove them, or --ray.")
    if options.kind == "openai":
        raise EvalError("a sweep makes its models, and a server has only one", "Use `run` with --url for each model.")
    pair = sweep.Pair(arguments.instruct, arguments.thinking, arguments.layers, arguments.modules)
    schedule = sweep.Schedule(tuple(parse_lams(arguments.lam)), arguments.keep, arguments.adaptive, arguments.points)
    reached = None
    if arguments.ray is None:
        try:
            with engines.create(options) as engine:
                sweep.run(pair, schedule, names, arguments.out, engine, choices, progress=shown, session=session)
        except BudgetReached as error:
            reached = error
    else:
        from mi_kernels.integrations.ray.cluster import Cluster

        from ..sweep.cluster import Workers

        with Cluster(arguments.ray) as cluster:
            workers = Workers(cluster, options)
            sweep.run(
                pair, schedule, names, arguments.out, None, choices, progress=shown, workers=workers, session=session
            )
    if reached is None or sweep.scored(arguments.out):
        page = write_report(arguments.out)
        if shown:
            print(page)
    return 0 if reached is None else stopped(reached, session)
