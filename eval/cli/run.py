"""python -m eval run: evaluates one model."""

from __future__ import annotations

import argparse
import os

from .arguments import add_choices, add_engine, add_quiet, benchmarks_of, choices_of, engine_options_of, show_notes


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="MODEL", help="model folder or Hub id; with --url also the server's name for it")
    p.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/ and the model's name)")
    p.add_argument(
        "--role", metavar="ROLE", help="instruct, thinking or merged (default: from mi_kernels.json or name)"
    )
    p.add_argument("--name", metavar="NAME", help="the model's name in reports (default: the folder's name)")
    add_choices(p)
    add_engine(p)
    add_quiet(p)


def run(arguments: argparse.Namespace) -> int:
    from .. import engines
    from ..run import driver
    from .summary import summary

    if not arguments.quiet:
        show_notes()
    options, names = engine_options_of(arguments), benchmarks_of(arguments)
    out = arguments.out or os.path.join("runs", os.path.basename(os.path.abspath(arguments.model)))
    subject = driver.Subject(arguments.role, None, arguments.name, served=options.kind == "openai")
    with engines.create(options) as engine:
        driver.run(arguments.model, names, out, engine, choices_of(arguments), subject, progress=not arguments.quiet)
    if not arguments.quiet:
        print(summary(out, names))
    return 0
