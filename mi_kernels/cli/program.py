"""The command line mi-kernels. For a fast start it imports only the module of the command that runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

from .._version import __version__
from .shell import Parser, add_command, guarded

# Each command is a module of this folder with `add(parser)` and `run(arguments)`. Here: its line of help, an example.
COMMANDS = {
    "lerp": (
        "merge two checkpoints by linear interpolation",
        "mi-kernels lerp ./instruct ./thinking -o ./mi-0.8 --lam 0.8 --layers 12:36 --modules ffn",
    ),
    "sweep": (
        "merge two checkpoints with several values of lam, reading both only once",
        "mi-kernels sweep ./instruct ./thinking -o 'runs/mi-{lam}' --lam 0.2,0.4:0.6:0.05,0.8",
    ),
    "merge": (
        "merge models with any method, as described by a recipe or a mergekit configuration",
        "mi-kernels merge ties.yml -o ./ties",
    ),
    "compare": (
        "show the distance between two checkpoints: overall, by module and by layer",
        "mi-kernels compare ./instruct ./thinking --plot sigma.png",
    ),
    "inspect": (
        "check a checkpoint and show what it contains, or what a merge of two would do",
        "mi-kernels inspect ./instruct ./thinking",
    ),
    "verify": (
        "check every byte of a model folder against its checksums, or by merging again",
        "mi-kernels verify ./mi-0.8 --recompute ./instruct ./thinking",
    ),
    "demo": (
        "merge two generated checkpoints, verify the result and measure the time",
        "mi-kernels demo --size 400MB",
    ),
    "serve": (
        "serve a merge with vLLM and change lam over HTTP; options after -- are passed to vLLM",
        "mi-kernels serve ./instruct ./thinking --lam 0.55 -- --max-model-len 32768",
    ),
    "env": (
        "show what this machine supports, and what is missing",
        "mi-kernels env --json",
    ),
    "completion": (
        "print a script that completes commands and options in a shell",
        'eval "$(mi-kernels completion bash)"',
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status, see `shell.guarded`."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded("mi-kernels", lambda: _run(words), "; no output is half-done")


def _run(words: list[str]) -> int:
    if not words:  # as a script that lost its command: it must fail
        build_parser("").print_help(sys.stderr)
        return 2
    if words[0] == "help":
        words = [*words[1:2], "--help"]
    own, others = _split(words)
    arguments = build_parser(next((w for w in own if w in COMMANDS), "")).parse_args(
        own, argparse.Namespace(others=others)
    )
    arguments.argv = words  # for the model card, as the user typed them
    status: int = arguments.run(arguments)
    return status


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Splits the arguments of `serve` at `--`. vLLM gets the second part, which argparse cannot parse."""
    if argv[:1] != ["serve"] or "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


class _Help(argparse.RawDescriptionHelpFormatter):
    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        self._action_max_length = max(len(name) for name in COMMANDS) + 4  # one line for each command
        super().add_arguments(actions)


def build_parser(command: str | None = None) -> Parser:
    """Returns the parser of the program.

    Args:
        command: add only the arguments of this command, and a line of help for each other one. None: add all arguments.
    """
    parser = Parser(
        prog="mi-kernels",
        description="Interpolates checkpoints exactly: merged = (1 - lam) * INSTRUCT + lam * THINKING.",
        epilog="`mi-kernels help COMMAND` shows the options of a command.\n\n"
        "example: mi-kernels lerp Qwen/Qwen3-4B-Instruct-2507 Qwen/Qwen3-4B-Thinking-2507 -o mi-0.8 --lam 0.8",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"mi-kernels {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name, (help, example) in COMMANDS.items():
        p = add_command(commands, name, help, example)
        if command in (name, None):
            module = import_module(f".{name}", __package__)
            module.add(p)
            p.set_defaults(run=module.run)
        if name == "serve":
            p.unknown_option = "Options of vLLM come after --, as in the example of the help."
    return parser
