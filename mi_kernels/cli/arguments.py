"""Arguments that several commands share."""

from __future__ import annotations

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


def add_output(p: Parser, copy_from: str | None = "thinking") -> None:
    output = p.add_argument_group("what is written")
    output.add_argument("--dtype", metavar="DTYPE", help="bfloat16, float16 or float32 (default: the first model's)")
    output.add_argument("--max-shard-size", metavar="SIZE", help="such as 5GB (default: the first model's shards)")
    output.add_argument(
        "--copy-from",
        metavar="SIDE",
        default=copy_from,
        help=f"thinking or instruct: whose config, tokenizer and template (default: {copy_from or 'the recipe says'})",
    )
    output.add_argument("--overwrite", action="store_true", help="replace a model that stands at OUT")
    output.add_argument(
        "--restart", action="store_true", help="drop what a killed merge left of OUT, instead of going on with it"
    )
    output.add_argument(
        "--strict",
        action="store_true",
        help="refuse NaN and inf, one model twice, and tokenizers or settings that do not fit together",
    )
    output.add_argument(
        "--dry-run", action="store_true", help="check the inputs, show what would be done, write nothing"
    )
    output.add_argument("--push", metavar="REPO", help="upload OUT to the Hub as ORG/NAME (sweep: 'ORG/NAME-{lam}')")
    output.add_argument("--private", action="store_true", help="with --push: as a private model")
    if copy_from is not None:
        output.add_argument(
            "--sigma", action="store_true", help="measure the models' distance for the card (--push does, too)"
        )
    how = p.add_argument_group("how")
    how.add_argument(
        "--device", metavar="DEVICE", default="auto", help="cpu, cuda, cuda:1, cuda:0,cuda:1 or auto (default: auto)"
    )
    how.add_argument("--backend", metavar="NAME", help="cpu, cuda or triton (default: the device's best)")
    how.add_argument("--threads", metavar="N", help="computing threads (default: all cores)")
    how.add_argument("--max-memory", metavar="SIZE", help="for buffers, such as 64MiB (default: at most 128MiB)")
    how.add_argument("--io", metavar="MODE", default="auto", help="direct, buffered or auto (default: auto)")
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
