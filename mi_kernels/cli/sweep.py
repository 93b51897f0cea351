"""mi-kernels sweep: interpolates two checkpoints into one model folder for each lam."""

from __future__ import annotations

import argparse

from .arguments import add_masks, add_output, add_pair
from .shell import Parser


def add(p: Parser) -> None:
    add_pair(p)
    p.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="PATTERN",
        help="the folders to create, or files NAME.safetensors, with {lam} in the name",
    )
    p.add_argument(
        "--lam", required=True, metavar="LIST", help="values, or START:STOP:STEP including STOP, separated by commas"
    )
    add_masks(p)
    add_output(p)
    p.unknown_word = "A sweep takes two models. Write all lam in one word: --lam 0.2,0.8."


def run(arguments: argparse.Namespace) -> int:
    from ..merge.api import plan_sweep
    from .merging import finish, options_of
    from .text import parse_lams

    job = plan_sweep(
        arguments.instruct,
        arguments.thinking,
        arguments.out,
        parse_lams(arguments.lam),
        layers=arguments.layers,
        modules=arguments.modules,
        extrapolate=arguments.extrapolate,
        **options_of(arguments),
    )
    return finish(job, arguments)
