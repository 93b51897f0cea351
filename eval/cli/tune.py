"""python -m eval tune: searches the weights of a merge."""

from __future__ import annotations

import argparse

from ..errors import EvalError
from .arguments import add_common, common_of


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("instruct", metavar="INSTRUCT", help="model folder or Hub id: weight 0")
    p.add_argument("thinking", metavar="THINKING", help="model folder or Hub id: weight 1")
    p.add_argument("--evaluations", type=int, default=48, metavar="N", help="candidates besides --lam (default: 48)")
    p.add_argument(
        "--space",
        metavar="SPACE",
        help="lam, modules, layers, layers:6 (6 blocks of layers) or layers:6xmodules (default: layers:6, or layers)",
    )
    p.add_argument(
        "--sampler", default=None, metavar="NAME", help="gp, tpe, nsga2 or random (default: the best measured)"
    )
    p.add_argument(
        "--lam", default="0:1:0.1", metavar="LIST", help="points of plain lam to begin with (default: 0:1:0.1)"
    )
    p.add_argument("--sweep", metavar="DIR", help="take these points from an `eval sweep` where settings are equal")
    p.add_argument(
        "--max-tokens-per-answer", type=float, metavar="N", help="recommend the best within this mean of tokens"
    )
    p.add_argument(
        "--validation", type=float, default=0.5, metavar="X", help="share of the problems not searched (default: 0.5)"
    )
    p.add_argument("--out", metavar="DIR", default="runs/tune", help="folder of the search (default: runs/tune)")
    p.add_argument("--write", metavar="OUT", help="also write the recommended model to this folder")
    add_common(p)


def run(arguments: argparse.Namespace) -> int:
    from mi_kernels.cli.text import parse_lams

    from .. import engines
    from ..report import require
    from ..run.budget import BudgetReached
    from ..tune import recipe_files, report, samplers, search
    from .summary import stopped

    require()  # before hours of generation
    options, names, choices, session, shown = common_of(arguments)
    if options.kind == "openai":
        raise EvalError(
            "a search changes weights, and a server has its own", "Remove --url: use an engine of this machine."
        )
    plan = search.Plan(
        arguments.instruct,
        arguments.thinking,
        arguments.evaluations,
        arguments.space,
        arguments.sampler or samplers.DEFAULT,
        tuple(dict.fromkeys(parse_lams(arguments.lam))),
        choices.seed,
        arguments.max_tokens_per_answer,
        arguments.sweep,
        arguments.validation,
    )
    prepared = search.prepare(plan, names, arguments.out, choices)
    if arguments.write:
        recipe_files.check_model((prepared.instruct, prepared.thinking), arguments.write)
    try:
        with engines.create(options) as engine:
            outcome = search.run(prepared, engine, None if shown else (lambda line: None), session)
    except BudgetReached as error:
        return stopped(error, session)
    paths = recipe_files.write(outcome)
    page = report.write(outcome)
    if arguments.write:
        recipe_files.write_model(outcome, arguments.write, shown)
    if shown:
        print("\n".join([*report.sentences(outcome), paths[0], *([arguments.write] if arguments.write else []), page]))
    return 0
