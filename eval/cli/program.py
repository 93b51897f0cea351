"""python -m eval: the command line. It imports the module of the command that runs and no other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from mi_kernels.cli.shell import Parser, add_command, guarded

PROGRAM = "python -m eval"

# Each is a module of this folder, with `add(parser)` and `run(arguments)`: its line of help, and an example.
COMMANDS = {
    "run": ("evaluate one model", "run mi-0.8 --benchmark aime25,ifeval --samples paper"),
    "sweep": (
        "merge two models at many lam, evaluate each, and report",
        "sweep ./instruct ./thinking --lam 0:1:0.1 --benchmark aime25",
    ),
    "tune": (
        "search the weights of a merge for accuracy at few tokens",
        "tune ./instruct ./thinking --benchmark aime25,gpqa --evaluations 48 --max-tokens-per-answer 8000",
    ),
    "report": ("make tables, figures and advice from runs", "report runs/ --tokens-per-answer 8000"),
    "grade": (
        "grade responses that another program generated",
        "grade samples.jsonl --benchmark ifeval --role instruct",
    ),
    "demo": ("merge a tiny pair at 11 lam, evaluate and report", "demo --engine transformers"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, see `mi_kernels.cli.shell.guarded`."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(
        PROGRAM, lambda: _run(words), "; every finished response is kept: run the same command again to resume"
    )


def _run(words: list[str]) -> int:
    arguments = build_parser(next((w for w in words if w in COMMANDS), "")).parse_args(words)
    status: int = arguments.run(arguments)
    return status


def build_parser(command: str | None = None) -> Parser:
    """The parser of the whole program.

    Args:
        command: the only one whose arguments are wanted: the others get their line of help; None for all.
    """
    parser = Parser(prog=PROGRAM, description="Evaluates models as the paper does: AIME'25, IFEval, GPQA-Diamond.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name, (help, example) in COMMANDS.items():
        p = add_command(commands, name, help, f"{PROGRAM} {example}")
        if command in (name, None):
            module = import_module(f".{name}", __package__)
            module.add(p)
            p.set_defaults(run=module.run)
    return parser
