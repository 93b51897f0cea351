"""mi-kernels merge: merges models into a model folder or file as a recipe describes."""

from __future__ import annotations

import argparse

from .arguments import add_output
from .shell import Parser


def add(p: Parser) -> None:
    p.add_argument("recipe", metavar="RECIPE", help="a YAML file: a recipe, or a mergekit configuration")
    p.add_argument("-o", "--out", required=True, metavar="OUT", help="the model folder to create, or NAME.safetensors")
    add_output(p, recipe=True)
    recipe = "The recipe sets it; to merge two models without a recipe, use lerp."
    pair = (
        "lam",
        "layers",
        "layer",
        "modules",
        "module",
        "extrapolate",
        "alpha",
        "lambda",
        "weight",
        "density",
        "method",
    )
    p.elsewhere = {**dict.fromkeys((*pair, "base", "base-model"), recipe), "sigma": "Only lerp and sweep have it."}
    p.unknown_word = "A recipe names the models. To merge two models without a recipe, use lerp."


def run(arguments: argparse.Namespace) -> int:
    from ..merge.api import plan_merge
    from .early import Announcer
    from .merging import finish, options_of

    options = options_of(arguments)
    if options["dtype"] is None:  # the recipe decides
        del options["dtype"]
    if options["copy_from"] is None:
        del options["copy_from"]
    announcer = Announcer(arguments)
    job = plan_merge(arguments.recipe, arguments.out, early=announcer.early, **options)
    return finish(job, arguments, announcer)
