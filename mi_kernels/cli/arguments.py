"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os

from .shell import Parser


def add_pair(p: Parser, files: bool = True) -> None:
    """Adds the two models. `files`: they may be single files."""
    file = ", NAME.safetensors" if files else ""
    p.add_argument(
        "instruct", metavar="INSTRUCT", help=f"the model at lam 0: a folder{file} or a Hub id ORG/NAME[@REVISION]"
    )
    p.add_argument("thinking", metavar="THINKING", help="the model at lam 1")


def add_masks(p: Parser) -> None:
    what = p.add_argument_group("tensors to merge (others keep the bytes of INSTRUCT)")
    what.add_argument(
        "--layers", metavar="RANGES", help="decoder layers: half-open ranges such as 12:36, :12,24: or 1/3:"
    )
    what.add_argument(
        "--modules", metavar="NAMES", help="modules, separated by commas: attn,ffn,router,norm,embed,head"
    )
    what.add_argument("--extrapolate", action="store_true", help="allow lam outside [0, 1]")


def add_output(p: Parser, recipe: bool = False) -> None:
    """Adds the options of `merge.options.Options`, and the options that only the command line has.

    Args:
        recipe: the command takes a recipe. It provides the defaults of some options.
    """
    from ..merge.options import FLAGS, HOW, WRITTEN

    groups = {name: p.add_argument_group(name) for name in (WRITTEN, HOW)}
    for option in FLAGS:
        flag, facts = "--" + option.name.replace("_", "-"), option.metadata
        if facts["kind"] == "flag":
            if option.name != "sigma" or not recipe:  # a recipe may have more than two models
                groups[facts["group"]].add_argument(flag, action="store_true", help=facts["help"])
            continue
        help, default = facts["help"], option.default
        if option.name == "copy_from":
            help += f" (default: {'as in the recipe' if recipe else default})"
            default = None if recipe else default
        groups[facts["group"]].add_argument(flag, metavar=facts["metavar"], default=default, help=help)
    output, how = groups[WRITTEN], groups[HOW]
    output.add_argument("--dry-run", action="store_true", help="check the inputs and show the plan, but write nothing")
    output.add_argument("--push", metavar="REPO", help="upload OUT to the Hub as ORG/NAME (sweep: 'ORG/NAME-{lam}')")
    output.add_argument("--private", action="store_true", help="with --push: create a private repository")
    how.add_argument("-q", "--quiet", action="store_true", help="print only errors")
    how.add_argument("--json", action="store_true", help="print the report as JSON")
    cluster = p.add_argument_group("on a Ray cluster with shared storage (docs/ray.md)")
    cluster.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="distribute the shards over the nodes of a cluster: auto, HOST:PORT, or local for this machine",
    )
    cluster.add_argument("--nodes", metavar="N", help="with --dry-run: plan for N nodes like this machine")
    cluster.add_argument(
        "--node-speed",
        metavar="SIZE",
        help="with --dry-run: bytes per second that a node reads and writes (default: 1GB)",
    )


def silence_downloads(arguments: argparse.Namespace) -> None:
    """With --quiet or --json: prints neither the progress of downloads nor their size. Call it before any download."""
    if getattr(arguments, "quiet", False) or arguments.json:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # huggingface_hub reads it when it is imported
