"""python -m eval.tiny_pair train | check."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict

from mi_kernels.errors import MIKernelsError

from ..engines.imports import hide_cuda_extras
from ..run.files import write_json

HERE = os.path.dirname(os.path.abspath(__file__))
MEASURED = "MEASURED.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.tiny_pair", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="make the pair from scratch, on one core in under 10 minutes")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", default="runs/tiny_pair", metavar="DIR", help="(default: runs/tiny_pair)")
    train.set_defaults(run=_train)
    check = commands.add_parser("check", help="measure Mean, Think #R and Token #N by lam, in a minute or two")
    check.add_argument("pair", nargs="?", default=HERE, metavar="DIR", help="(default: the pair of this repository)")
    check.add_argument("--save", action="store_true", help=f"also write {MEASURED} into DIR")
    check.set_defaults(run=_check)
    arguments = parser.parse_args()
    hide_cuda_extras()
    try:
        arguments.run(arguments)
    except MIKernelsError as error:
        print(f"{parser.prog}: {error.problem}\n  {error.remedy}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def _train(arguments: argparse.Namespace) -> None:
    from .pair import make

    make(arguments.out, arguments.seed, _say)
    print(f"{arguments.out}: holds the pair. To measure it: python -m eval.tiny_pair check {arguments.out}")


def _check(arguments: argparse.Namespace) -> None:
    from .check import check

    measured = check(arguments.pair, _say)
    if arguments.save:
        write_json(os.path.join(arguments.pair, MEASURED), [asdict(m) for m in measured])


def _say(line: str) -> None:
    print(line, flush=True)


sys.exit(main())
