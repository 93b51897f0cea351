"""The arguments that `run` and `sweep` share, and what they mean."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from ..errors import EvalError


def add_quiet(p: argparse.ArgumentParser) -> None:
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def show_notes() -> None:
    """Prints the notes of `eval`, such as the logs of engines, on stderr. Otherwise only its warnings are printed."""
    import logging

    logger = logging.getLogger("eval")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("note: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)


class Common(NamedTuple):
    """What commands that generate have in common.

    Attributes:
        engine: `engines.Options`. benchmarks: their names. choices: `run.settings.Choices`.
        session: `run.session.Session`, with its time running. shown: whether notes and results are printed.
    """

    engine: Any
    benchmarks: list[str]
    choices: Any
    session: Any
    shown: bool


def add_common(p: argparse.ArgumentParser) -> None:
    """Adds the options that `common_of` reads."""
    add_choices(p)
    add_engine(p)
    add_limits(p)
    add_quiet(p)


def common_of(arguments: argparse.Namespace) -> Common:
    """Reads what commands that generate have in common, and shows notes from here on.

    Raises:
        EvalError: an option is invalid.
    """
    if not arguments.quiet:
        show_notes()
    return Common(
        engine_options_of(arguments),
        benchmarks_of(arguments),
        choices_of(arguments),
        session_of(arguments),
        not arguments.quiet,
    )


def add_choices(p: argparse.ArgumentParser) -> None:
    what = p.add_argument_group("what to evaluate")
    what.add_argument("--benchmark", required=True, metavar="NAMES", help="benchmarks, separated by commas")
    what.add_argument("--samples", default="paper", metavar="N", help="responses to each problem (default: paper)")
    what.add_argument("--limit", type=int, metavar="N", help="only the first N problems of each benchmark")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the first response (default: 0)")
    what.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="the file or folder of a benchmark's data"
    )
    what.add_argument("--temperature", type=float, metavar="X", help="replaces the paper's value for the role")
    what.add_argument("--top-p", type=float, metavar="X", help="replaces the paper's value for the role")
    what.add_argument("--top-k", type=int, metavar="N", help="replaces the paper's value; 0 means all tokens")
    what.add_argument("--max-tokens", type=int, metavar="N", help="replaces the paper's limit for the benchmark")


def add_engine(p: argparse.ArgumentParser) -> None:
    how = p.add_argument_group("engine")
    how.add_argument("--engine", default=None, metavar="KIND", help="vllm, openai or transformers (default: vllm)")
    how.add_argument("--url", metavar="URL", help="an OpenAI-compatible server, such as http://localhost:8000/v1")
    how.add_argument(
        "--concurrency", type=int, default=64, metavar="N", help="requests in flight with --url (default: 64)"
    )
    how.add_argument("--engines", type=int, default=1, metavar="N", help="processes that share the work (default: 1)")
    how.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs of each engine (default: 1)")
    how.add_argument("--max-num-seqs", type=int, metavar="N", help="responses that each engine generates together")
    how.add_argument("--gpu-memory-utilization", type=float, metavar="X", help="vLLM's share of each GPU's memory")
    how.add_argument("--kv-cache-memory", metavar="SIZE", help="of each engine on the CPU, such as 4GiB")
    how.add_argument("--threads", type=int, metavar="N", help="of each engine on the CPU (default: its share of cores)")
    how.add_argument("--dtype", default="auto", metavar="DTYPE", help="dtype of the computation (default: the model's)")


def add_limits(p: argparse.ArgumentParser) -> None:
    limits = p.add_argument_group("limits")
    limits.add_argument(
        "-y", "--yes", action="store_true", help="do not ask before more than half an hour or 10 M tokens of work"
    )
    limits.add_argument(
        "--time", metavar="TIME", help="stop after this time, such as 4h, 90m or 1h30m; everything finished is kept"
    )
    limits.add_argument(
        "--tokens", metavar="N", help="stop after generating this many tokens, such as 50M or 2G, in the same way"
    )


def session_of(arguments: argparse.Namespace) -> Any:
    """The `run.session.Session` in `arguments`, with its time running.

    Raises:
        EvalError: --time or --tokens cannot be parsed.
    """
    from ..run.budget import Budget, parse_time, parse_tokens
    from ..run.session import Session
    from .confirm import Confirm

    budget = Budget(parse_time(arguments.time), parse_tokens(arguments.tokens))
    return Session(budget, Confirm(arguments.yes, budget), shown=not arguments.quiet)


def choices_of(arguments: argparse.Namespace) -> Any:
    """The `run.settings.Choices` in `arguments`."""
    from ..run.settings import Choices

    return Choices(
        samples=_samples(arguments.samples),
        limit=arguments.limit,
        seed=arguments.seed,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        max_tokens=arguments.max_tokens,
        data=data_of(arguments),
    )


def data_of(arguments: argparse.Namespace) -> dict[str, str]:
    return dict(_named_path(text) for text in arguments.data)


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


def engine_options_of(arguments: argparse.Namespace) -> Any:
    """The `engines.Options` in `arguments`."""
    from mi_kernels.cli.text import parse_size

    from ..engines import Options

    for name in ("concurrency", "engines", "tensor_parallel", "max_num_seqs", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise EvalError(f"--{name.replace('_', '-')} is {value}", "Give a whole number of at least 1.")
    kind = arguments.engine or ("openai" if arguments.url else "vllm")
    if arguments.url and kind != "openai":
        raise EvalError(f"--url needs the engine openai, and --engine is {kind}", "Remove one of the two options.")
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


def benchmarks_of(arguments: argparse.Namespace) -> list[str]:
    names = [name.strip() for name in arguments.benchmark.split(",") if name.strip()]
    if not names:
        raise EvalError("--benchmark names no benchmark", "Give names such as aime25,ifeval,gpqa.")
    return names
