"""mi-kernels: the command line. Each command imports what it needs when it runs, so that the program starts fast."""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from .._version import __version__
from ..errors import MIKernelsError, printable
from ..faults import problem, remedy

# Python looks for garbage after so many new objects, 700 by default. A plan for 20,000 tensors makes a million that
# stay: looking through them again and again took a quarter of the time.
_OBJECTS = 200_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 2 for a refusal, 130 or 143 after Ctrl-C or SIGTERM."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS)
    try:
        own, others = _split(list(sys.argv[1:] if argv is None else argv))
        arguments = build_parser().parse_args(own, argparse.Namespace(others=others))
        arguments.argv = [*own, *others]  # as typed, for the model card
        status: int = arguments.run(arguments)
        sys.stdout.flush()  # here, where a reader that has gone is handled
        return status
    except MIKernelsError as error:
        print(
            f"mi-kernels: {error.problem}", *([f"  {error.remedy}"] if error.remedy else []), sep="\n", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("mi-kernels: interrupted; no output is half-done", file=sys.stderr)
        return 130
    except _Terminated:
        print("mi-kernels: terminated; no output is half-done", file=sys.stderr)
        return 143
    except BrokenPipeError:
        # The reader of our output has gone: say nothing, also not when the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"mi-kernels: {printable(_described(error))}", f"  {remedy(error)}", sep="\n", file=sys.stderr)
        return 2
    finally:
        gc.set_threshold(*thresholds)
        signal.signal(signal.SIGTERM, previous)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those behind `--` that `serve` hands on (argparse takes no options for positional ones)."""
    if argv[:1] != ["serve"] or "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _described(error: OSError) -> str:
    return f"{os.fsdecode(error.filename)}: {problem(error)}" if error.filename else problem(error)


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that it cleans up on the way out as Ctrl-C does."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _Terminated


class _Parser(argparse.ArgumentParser):
    """argparse's, with its error in our two lines, and with -4: taken for a value as -4 is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-\d")

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"mi-kernels: {printable(message)}\n  See `{self.prog} --help`.\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mi-kernels",
        description="Interpolates checkpoints exactly: merged = (1 - lam) * INSTRUCT + lam * THINKING.",
        epilog="example: mi-kernels lerp Qwen/Qwen3-4B-Instruct-2507 Qwen/Qwen3-4B-Thinking-2507 -o mi-0.8 --lam 0.8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mi-kernels {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_lerp(commands)
    _add_sweep(commands)
    _add_merge(commands)
    _add_compare(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_demo(commands)
    _add_serve(commands)
    _add_env(commands)
    return parser


def _command(commands: argparse._SubParsersAction[_Parser], name: str, help: str, example: str) -> _Parser:
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_lerp(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands,
        "lerp",
        "merge two checkpoints by linear interpolation",
        "mi-kernels lerp ./instruct ./thinking -o ./mi-0.8 --lam 0.8 --layers 12:36 --modules ffn",
    )
    _add_pair(p)
    p.add_argument("-o", "--out", required=True, metavar="OUT", help="the model folder to make")
    p.add_argument("--lam", required=True, help="weight of THINKING, from 0 to 1")
    _add_masks(p)
    _add_output(p)
    p.set_defaults(run=_run_lerp)


def _run_lerp(arguments: argparse.Namespace) -> int:
    from .lerp import run

    return run(arguments)


def _add_sweep(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands,
        "sweep",
        "merge two checkpoints at many lam in one pass over both",
        "mi-kernels sweep ./instruct ./thinking -o 'runs/mi-{lam}' --lam 0.2,0.4:0.6:0.05,0.8",
    )
    _add_pair(p)
    p.add_argument("-o", "--out", required=True, metavar="PATTERN", help="the folders to make, with {lam} in the name")
    p.add_argument("--lam", required=True, metavar="LIST", help="values and START:STOP:STEP, STOP included")
    _add_masks(p)
    _add_output(p)
    p.set_defaults(run=_run_sweep)


def _run_sweep(arguments: argparse.Namespace) -> int:
    from .lerp import run_sweep

    return run_sweep(arguments)


def _add_merge(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands,
        "merge",
        "merge as a recipe says: ours, or a mergekit configuration as it is",
        "mi-kernels merge ties.yml -o ./ties",
    )
    p.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    p.add_argument("-o", "--out", required=True, metavar="OUT", help="the model folder to make")
    _add_output(p, copy_from=None)
    p.set_defaults(run=_run_merge)


def _run_merge(arguments: argparse.Namespace) -> int:
    from .lerp import run_merge

    return run_merge(arguments)


def _add_pair(p: _Parser) -> None:
    p.add_argument("instruct", metavar="INSTRUCT", help="model folder, or Hub id ORG/NAME[@REVISION]: lam 0")
    p.add_argument("thinking", metavar="THINKING", help="the other model: lam 1")


def _add_masks(p: _Parser) -> None:
    what = p.add_argument_group("what is merged (the rest keeps INSTRUCT's bytes)")
    what.add_argument(
        "--layers", metavar="RANGES", help="decoder layers: half-open ranges such as 12:36, :12,24: or 1/3:"
    )
    what.add_argument("--modules", metavar="NAMES", help="some of attn,ffn,router,norm,embed,head")
    what.add_argument("--extrapolate", action="store_true", help="allow lam outside [0, 1]")


def _add_output(p: _Parser, copy_from: str | None = "thinking") -> None:
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


def _add_compare(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands,
        "compare",
        "show how far apart two checkpoints are, overall, by module and by layer",
        "mi-kernels compare ./instruct ./thinking --plot sigma.png",
    )
    p.add_argument("instruct", metavar="INSTRUCT", help="model folder, or Hub id ORG/NAME[@REVISION]")
    p.add_argument("thinking", metavar="THINKING", help="the other model")
    p.add_argument("--json", action="store_true", help="print it as JSON, with every tensor's figures")
    p.add_argument("--plot", metavar="FILE", help="draw sigma by layer and module: a .png or .svg file")
    p.add_argument("--threads", metavar="N", help="computing threads (default: all cores)")
    p.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> int:
    from .compare import run

    return run(arguments)


def _add_inspect(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(commands, "inspect", "show what a checkpoint holds, after checking it", "mi-kernels inspect ./mi-0.8")
    p.add_argument("model", metavar="MODEL", help="model folder or Hub id")
    p.add_argument("--json", action="store_true", help="print it as JSON")
    p.set_defaults(run=_run_inspect)


def _run_inspect(arguments: argparse.Namespace) -> int:
    from .inspect import run

    return run(arguments)


def _add_verify(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands,
        "verify",
        "check every byte of a model folder against its checksums, or against the merge done again",
        "mi-kernels verify ./mi-0.8 --recompute ./instruct ./thinking",
    )
    p.add_argument("model", metavar="OUT", help="model folder")
    p.add_argument(
        "--recompute",
        nargs="*",
        metavar="MODEL",
        help="do the merge again in memory, from these models in mi_kernels.json's order (none: those named there)",
    )
    p.add_argument("--record", action="store_true", help="write the checksums of the files as they are now")
    p.add_argument("--overwrite", action="store_true", help="with --record: replace those that are there")
    p.add_argument("--threads", metavar="N", help="computing threads (default: all cores)")
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing but what is wrong")
    p.add_argument("--json", action="store_true", help="print what was found as JSON")
    p.set_defaults(run=_run_verify)


def _run_verify(arguments: argparse.Namespace) -> int:
    from .verify import run

    return run(arguments)


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands,
        "demo",
        "merge two made-up checkpoints, prove the result and time it",
        "mi-kernels demo --size 400MB",
    )
    p.add_argument("--size", metavar="SIZE", default="200MB", help="of each of the two checkpoints (default: 200MB)")
    p.add_argument("--folder", metavar="DIR", help="where to work (default: the system's temporary folder)")
    p.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> int:
    from .demo import run

    return run(arguments)


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands,
        "serve",
        "serve a merge with vLLM, with lam as a knob over HTTP; options behind -- go to vLLM",
        "mi-kernels serve ./instruct ./thinking --lam 0.55 -- --max-model-len 32768",
    )
    _add_pair(p)
    p.add_argument("--lam", required=True, help="weight of THINKING at the start, from 0 to 1")
    _add_masks(p)
    how = p.add_argument_group("how")
    how.add_argument("--host", default="127.0.0.1", help="address to listen on; others than this machine's need a key")
    how.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    how.add_argument(
        "--resident", choices=("device", "host"), default="device", help="where a GPU's copies of both models lie"
    )
    how.add_argument(
        "--copy-from", choices=("thinking", "instruct"), default="thinking", help="whose tokenizer and template serve"
    )
    how.add_argument("-q", "--quiet", action="store_true", help="do not print the address of the knob")
    p.set_defaults(run=_run_serve)


def _run_serve(arguments: argparse.Namespace) -> int:
    from .serve import run

    return run(arguments)


def _add_env(commands: argparse._SubParsersAction[_Parser]) -> None:
    p = _command(
        commands, "env", "show what this machine offers, and what missing pieces cost", "mi-kernels env --json"
    )
    p.add_argument("--json", action="store_true", help="print it as JSON")
    p.set_defaults(run=_run_env)


def _run_env(arguments: argparse.Namespace) -> int:
    from .env import run

    return run(arguments)
