"""mi-kernels lerp: interpolates two checkpoints into one model folder or file."""

from __future__ import annotations

import argparse

from ..errors import ArgumentError
from .arguments import add_masks, add_output, add_pair
from .shell import Parser


def add(p: Parser) -> None:
    add_pair(p)
    p.add_argument("-o", "--out", required=True, metavar="OUT", help="the model folder to create, or NAME.safetensors")
    p.add_argument("--lam", required=True, help="weight of THINKING, from 0 to 1")
    add_masks(p)
    add_output(p)
    p.unknown_word = "To merge more than two models, write a recipe: mi-kernels merge RECIPE -o OUT."


def run(arguments: argparse.Namespace) -> int:
    from ..merge.api import plan_lerp
    from ..merge.options import Options
    from ..recipe.interpolation import Recipe
    from ..recipe.lam import checked_lam
    from .merging import finish, options_of

    if "," in arguments.lam or ":" in arguments.lam:
        raise ArgumentError(
            f"--lam {arguments.lam}: lerp takes one lam",
            "For several, use sweep: mi-kernels sweep INSTRUCT THINKING -o 'OUT-{lam}' --lam " + arguments.lam,
        )
    lam = checked_lam(arguments.lam, arguments.extrapolate)
    recipe = Recipe(lam, arguments.layers, arguments.modules, extrapolate=arguments.extrapolate)
    outs = [(arguments.out, recipe)]
    return finish(plan_lerp(arguments.instruct, arguments.thinking, outs, Options(**options_of(arguments))), arguments)
