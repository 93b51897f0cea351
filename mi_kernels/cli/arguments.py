"""Arguments that several commands share."""

from __future__ import annotations

from ..merge.options import FLAGS, HOW, WRITTEN
from .shell import Parser


def add_pair(p: Parser) -> None:
    p.add_argument("instruct", metavar="INSTRUCT", help="model folder, or Hub id ORG/NAME[@REVISION]: lam 0")
    p.add_argument("thinking", metavar="THINKING", help="the other model: lam 1")


def add_masks(p: Parser) -> None:
    what = p.add_argument_group("what is merged (the rest keeps INSTRUCT's bytes)")
    what.add_argument(
        "--layers", metavar="RANGES", help="decoder layers: half-open ranges such as 12:36, :12,24: or 1/3:"
    )
    what.add_argument("--modules", metavar="NAMES", help="some of attn,ffn,router,norm,embed,head")
    what.add_argument("--extrapolate", action="store_true", help="allow lam outside [0, 1]")


def add_output(p: Parser, recipe: bool = False) -> None:
    """The options of `merge.options.Options`, and what only the command line has.

    Args:
        recipe: the command takes a recipe, which says what these options leave out.
    """
    groups = {name: p.add_argument_group(name) for name in (WRITTEN, HOW)}
    for option in FLAGS:
        flag, facts = "--" + option.name.replace("_", "-"), option.metadata
        if facts["kind"] == "flag":
            if option.name != "sigma" or not recipe:  # a recipe may have more than two models
                groups[facts["group"]].add_argument(flag, action="store_true", help=facts["help"])
            continue
        help, default = facts["help"], option.default
        if option.name == "copy_from":
            help += f" (default: {'the recipe says' if recipe else default})"
            default = None if recipe else default
        groups[facts["group"]].add_argument(flag, metavar=facts["metavar"], default=default, help=help)
    output, how = groups[WRITTEN], groups[HOW]
    output.add_argument("--dry-run", action="store_true", help="check the inputs, show the plan, write nothing")
    output.add_argument("--push", metavar="REPO", help="upload OUT to the Hub as ORG/NAME (sweep: 'ORG/NAME-{lam}')")
    output.add_argument("--private", action="store_true", help="with --push: as a private model")
    how.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    how.add_argument("--json", action="store_true", help="print the report as JSON")
    cluster = p.add_argument_group("on a Ray cluster with shared storage (docs/ray.md)")
    cluster.add_argument(
        "--ray", metavar="ADDRESS", help="share the shards among its nodes: auto, HOST:PORT, or local for this machine"
    )
    cluster.add_argument("--nodes", metavar="N", help="with --dry-run: plan for N nodes like this one, without them")
    cluster.add_argument(
        "--node-speed",
        metavar="SIZE",
        help="with --dry-run: bytes a second that a node moves (default: 1GB)",
    )
