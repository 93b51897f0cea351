"""python -m eval run | sweep | report | demo. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from mi_kernels.errors import MIKernelsError, printable

from ..errors import EvalError

_PROGRAM = "python -m eval"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 2 for a refusal or a failed engine, 130 or 143 when stopped."""
    arguments = build_parser().parse_args(argv)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        status: int = arguments.run(arguments)
        return status
    except MIKernelsError as error:
        return _refuse(error.problem, error.remedy)
    except KeyboardInterrupt:
        return _refuse("interrupted", "Every finished response is kept: the same command goes on from there.", 130)
    except _Terminated:
        return _refuse("terminated", "Every finished response is kept: the same command goes on from there.", 143)
    except BrokenPipeError:
        # The reader of our output has gone: say nothing, also not when the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _refuse(printable(str(error)))
    finally:
        signal.signal(signal.SIGTERM, previous)


def _refuse(problem: str, remedy: str = "", status: int = 2) -> int:
    print(f"{_PROGRAM}: {problem}", *([f"  {remedy}"] if remedy else []), sep="\n", file=sys.stderr)
    return status


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that files are synced and engines stopped on the way out."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _Terminated


class _Parser(argparse.ArgumentParser):
    """argparse's, with its error in our two lines."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(_refuse(message, f"See `{self.prog} --help`."))


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_PROGRAM, description="Evaluates models as the paper does: AIME'25, IFEval, GPQA-Diamond.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_run(commands)
    _add_sweep(commands)
    _add_report(commands)
    _add_demo(commands)
    return parser


def _command(commands: Any, name: str, help: str, example: str) -> _Parser:
    parser: _Parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {_PROGRAM} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_run(commands: Any) -> None:
    p = _command(commands, "run", "evaluate one model", "run mi-0.8 --benchmark aime25,ifeval --samples paper")
    p.add_argument("model", metavar="MODEL", help="model folder or Hub id; with --url also what the server calls it")
    p.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/ and the model's name)")
    p.add_argument(
        "--role", metavar="ROLE", help="instruct, thinking or merged (default: from mi_kernels.json or name)"
    )
    p.add_argument("--name", metavar="NAME", help="how reports call it (default: the folder's name)")
    _add_choices(p)
    _add_engine(p)
    p.set_defaults(run=_run)


def _add_sweep(commands: Any) -> None:
    p = _command(
        commands,
        "sweep",
        "merge two models at many lam, evaluate each, and report",
        "sweep ./instruct ./thinking --lam 0:1:0.1 --benchmark aime25",
    )
    p.add_argument("instruct", metavar="INSTRUCT", help="model folder or Hub id: lam 0")
    p.add_argument("thinking", metavar="THINKING", help="the other model: lam 1")
    p.add_argument("--lam", required=True, metavar="LIST", help="values and START:STOP:STEP, STOP included")
    p.add_argument("--out", metavar="DIR", default="runs", help="where runs, merges and the report go (default: runs)")
    p.add_argument("--layers", metavar="RANGES", help="merge these decoder layers only, such as 12:36")
    p.add_argument("--modules", metavar="NAMES", help="merge these only: some of attn,ffn,router,norm,embed,head")
    p.add_argument(
        "--keep",
        choices=("none", "all"),
        default="none",
        help="merged models: none, one at a time and removed after its run; all, in one pass (default: none)",
    )
    p.add_argument("--adaptive", action="store_true", help="after --lam, go on where the three stages meet")
    p.add_argument("--points", type=int, default=16, metavar="N", help="lam in all with --adaptive (default: 16)")
    p.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="a task for each lam and benchmark on a Ray cluster with shared storage: auto, HOST:PORT or local",
    )
    _add_choices(p)
    _add_engine(p)
    p.set_defaults(run=_sweep)


def _add_choices(p: _Parser) -> None:
    what = p.add_argument_group("what is run")
    what.add_argument("--benchmark", required=True, metavar="NAMES", help="some of the benchmarks, with commas between")
    what.add_argument("--samples", default="paper", metavar="N", help="responses to each problem (default: paper)")
    what.add_argument("--limit", type=int, metavar="N", help="the first N problems of each benchmark only")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the first response (default: 0)")
    what.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="where a benchmark's data lie")
    what.add_argument("--temperature", type=float, metavar="X", help="in place of the paper's for the role")
    what.add_argument("--top-p", type=float, metavar="X", help="likewise")
    what.add_argument("--top-k", type=int, metavar="N", help="likewise; 0 for all tokens")
    what.add_argument("--max-tokens", type=int, metavar="N", help="in place of the paper's for the benchmark")


def _add_engine(p: _Parser) -> None:
    how = p.add_argument_group("the engine")
    how.add_argument("--engine", default=None, metavar="KIND", help="vllm, openai or transformers (default: vllm)")
    how.add_argument("--url", metavar="URL", help="an OpenAI-compatible server, such as http://localhost:8000/v1")
    how.add_argument("--concurrency", type=int, default=64, metavar="N", help="requests in flight there (default: 64)")
    how.add_argument("--engines", type=int, default=1, metavar="N", help="processes that share the work (default: 1)")
    how.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs of each engine (default: 1)")
    how.add_argument("--max-num-seqs", type=int, metavar="N", help="responses generated together by each engine")
    how.add_argument("--gpu-memory-utilization", type=float, metavar="X", help="vLLM's share of each GPU")
    how.add_argument("--kv-cache-memory", metavar="SIZE", help="of each engine on the CPU, such as 4GiB")
    how.add_argument("--threads", type=int, metavar="N", help="of each engine on the CPU (default: its share of cores)")
    how.add_argument("--dtype", default="auto", metavar="DTYPE", help="to compute in (default: the model's)")
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def _choices(arguments: argparse.Namespace) -> Any:
    from ..run.settings import Choices

    return Choices(
        samples=_samples(arguments.samples),
        limit=arguments.limit,
        seed=arguments.seed,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        max_tokens=arguments.max_tokens,
        data=dict(_named_path(text) for text in arguments.data),
    )


def _samples(text: str) -> int | None:
    if text == "paper":
        return None
    if not text.isdecimal():
        raise EvalError(f"--samples is {text!r}", "Give a whole number, or paper: 64 for AIME'25, 8 for the others.")
    return int(text)


def _named_path(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator or not path:
        raise EvalError(f"--data {text!r} is not NAME=PATH", "Write it as in --data gpqa=gpqa_diamond.csv.")
    return name, path


def _engine_options(arguments: argparse.Namespace) -> Any:
    from mi_kernels.cli.text import parse_size

    from ..engines import Options

    for name in ("concurrency", "engines", "tensor_parallel", "max_num_seqs", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise EvalError(f"--{name.replace('_', '-')} is {value}", "Give a whole number from 1.")
    kind = arguments.engine or ("openai" if arguments.url else "vllm")
    if arguments.url and kind != "openai":
        raise EvalError(f"--url goes with a server, and --engine is {kind}", "Leave one of them out.")
    return Options(
        kind=kind,
        url=arguments.url,
        concurrency=arguments.concurrency,
        engines=arguments.engines,
        tensor_parallel=arguments.tensor_parallel,
        max_num_seqs=arguments.max_num_seqs,
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        kv_cache_memory=parse_size(arguments.kv_cache_memory, "--kv-cache-memory"),
        threads=arguments.threads,
        dtype=arguments.dtype,
    )


def _names(arguments: argparse.Namespace) -> list[str]:
    return [name.strip() for name in arguments.benchmark.split(",") if name.strip()]


def _run(arguments: argparse.Namespace) -> int:
    from .. import engines
    from ..run import driver
    from .summary import summary

    options = _engine_options(arguments)
    out = arguments.out or os.path.join("runs", os.path.basename(os.path.abspath(arguments.model)))
    subject = driver.Subject(arguments.role, None, arguments.name, served=options.kind == "openai")
    with engines.create(options) as engine:
        driver.run(
            arguments.model, _names(arguments), out, engine, _choices(arguments), subject, progress=not arguments.quiet
        )
    if not arguments.quiet:
        print(summary(out, _names(arguments)))
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from mi_kernels.cli.text import parse_lams

    from .. import engines
    from ..sweep import sweep

    options = _engine_options(arguments)
    if options.kind == "openai":
        raise EvalError("a sweep makes its models, and a server holds one", "Use `run` with --url for each.")
    pair = sweep.Pair(arguments.instruct, arguments.thinking, arguments.layers, arguments.modules)
    plan = sweep.Plan(tuple(parse_lams(arguments.lam)), arguments.keep, arguments.adaptive, arguments.points)
    shown = not arguments.quiet
    if arguments.ray is None:
        with engines.create(options) as engine:
            sweep.run(pair, plan, _names(arguments), arguments.out, engine, _choices(arguments), progress=shown)
    else:
        from mi_kernels.integrations.ray.cluster import Cluster

        from ..sweep.cluster import Workers

        with Cluster(arguments.ray) as cluster:
            workers = Workers(cluster, options)
            choices = _choices(arguments)
            sweep.run(pair, plan, _names(arguments), arguments.out, None, choices, progress=shown, workers=workers)
    return _write_report(arguments.out, os.path.join(arguments.out, "report"), None, arguments.quiet)


def _add_report(commands: Any) -> None:
    p = _command(commands, "report", "tables, figures and advice from runs", "report runs/ --tokens-per-answer 8000")
    p.add_argument("runs", metavar="RUNS", help="a folder of runs, or one run's")
    p.add_argument("--out", metavar="DIR", help="the report's folder (default: RUNS/report)")
    p.add_argument("--tokens-per-answer", type=float, metavar="N", help="also recommend a model within this mean")
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    p.set_defaults(
        run=lambda a: _write_report(a.runs, a.out or os.path.join(a.runs, "report"), a.tokens_per_answer, a.quiet)
    )


def _write_report(runs: str, out: str, budget: float | None, quiet: bool) -> int:
    from .. import report

    page = report.write(runs, out, max_tokens_per_answer=budget)[0]
    if not quiet:
        print(page)
    return 0


def _add_demo(commands: Any) -> None:
    """Its module reads its arguments: none of them looks like an option here."""
    p = commands.add_parser(
        "demo", help="merge a tiny pair at 11 lam, evaluate and report", add_help=False, prefix_chars="\0"
    )
    p.add_argument("rest", nargs=argparse.REMAINDER)
    p.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from ..tiny_pair.demo import main as demo

    status: int = demo(arguments.rest)
    return status
