"""Run `mi-kernels serve`: serve a merge with vLLM's OpenAI-compatible server, and let clients change lam.

Whatever can be refused is refused before vLLM is imported, or by vLLM's own parser before its engine starts. Then the
server runs in this process, so that signals and the exit status are vLLM's own.

With `--check`, test that lam of this pair can be changed, and serve nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ArgumentError, BackendError, CheckpointError, printable, shortened
from ..system.sizes import show_bytes
from .arguments import add_masks, add_pair
from .shell import Parser, Terminated
from .vllm_options import REFUSED, REPLACED, may_have_key, refuse_clashes, require_key, written

if TYPE_CHECKING:
    from ..checkpoint.record import Checkpoint
    from ..integrations.vllm.efforts import Efforts
    from ..integrations.vllm.options import LoaderOptions


def add(p: Parser) -> None:
    add_pair(p, files=False)  # vLLM loads folders
    p.add_argument("--lam", required=True, help="initial weight of THINKING, from 0 to 1")
    add_masks(p)
    each = p.add_argument_group("lam per request")
    each.add_argument(
        "--effort",
        action="append",
        default=[],
        metavar="NAME=LAM",
        help="let requests choose lam by reasoning_effort, by the model's name (NAME@high, NAME@0.6) or by a "
        "field lam: low=0.2,high=0.9, and masks and rules as max=recipe.yml",
    )
    each.add_argument(
        "--max-wait",
        type=float,
        metavar="SECONDS",
        help="with --effort: a request that has waited this long goes before new ones of the current lam (default: 10)",
    )
    each.add_argument(
        "--ui",
        nargs="?",
        const="",
        metavar="REPORT",
        help="serve a page at /ui: chat with a slider for lam; with the report of a sweep, it shows where lam is",
    )
    how = p.add_argument_group("server")
    how.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1); an address that other machines can reach needs an API key",
    )
    how.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    how.add_argument(
        "--resident",
        choices=("device", "host"),
        default="device",
        help="keep the copies of both models in the GPU's memory or in host memory (default: device)",
    )
    how.add_argument(
        "--copy-from",
        choices=("thinking", "instruct"),
        default="thinking",
        help="use the tokenizer, chat template and sampling settings of this model (default: thinking)",
    )
    how.add_argument(
        "--check",
        action="store_true",
        help="do not serve: test that changing lam of this pair gives the same tensors as loading it afresh",
    )
    how.add_argument("-q", "--quiet", action="store_true", help="print neither notes nor the address of the server")


_THRESHOLDS = (700, 10, 10)  # Python's own: `shell.guarded` raises them for merges, and a server creates other objects


class Server(NamedTuple):
    """What vLLM is to serve.

    Attributes:
        model: INSTRUCT for vLLM: the folder, or a snapshot if the user gave a Hub id.
        names: of the model that is served: the pair's, and INSTRUCT as the user gave it.
        small: the folder whose tokenizer and sampling settings are used.
        config: model_loader_extra_config.
        nbytes: the size of both models.
        parameters: of INSTRUCT.
        efforts: what requests may choose; None if they cannot choose.
        page: the sweeps of the page, see `report_sweep.read_stages`; None without a page.
        notes: one line for each irregularity of the models that is handled.
    """

    model: str
    names: tuple[str, str]
    small: str
    config: dict[str, Any]
    nbytes: int
    parameters: int
    notes: list[str]
    efforts: Efforts | None
    page: list[dict[str, Any]] | None


def run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("vllm") is None:
        from ..integrations.vllm.import_failure import INSTALL

        raise BackendError("vLLM is not installed", INSTALL)
    from ..integrations.vllm.server import Stopped

    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _stopped(130)
    except Terminated:
        return _stopped(143)
    except Stopped as signal:
        return _stopped(128 + signal.number)


def _run(arguments: argparse.Namespace) -> int:
    server = checked(arguments)
    os.environ.update(environment(os.environ))
    if arguments.check:
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the result
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a refusal stays an exception of its own type
    options = vllm_options(arguments, server)
    _check_gpus(arguments.resident, server.parameters, options)
    if not (arguments.check or arguments.quiet):
        for note in server.notes:
            _say(f"note: {note}")
        _say(
            f"starting vLLM with {show_bytes(server.nbytes)} of models; "
            "that takes half a minute and the time to read them. The address follows when the server answers."
        )
    if arguments.check:
        return _check(options)
    from ..integrations.vllm.server import run_server

    gc.set_threshold(*_THRESHOLDS)
    if server.page is not None:
        options.mi_kernels_page = server.page
    if server.efforts is not None:
        options.mi_kernels_efforts = replace(server.efforts, models=tuple(options.served_model_name))
    run_server(options, lambda: None if arguments.quiet else _announce(options, server.config["lam"]))
    return 0


def _check(options: Namespace) -> int:
    from ..integrations.vllm.check import check_engine

    results = check_engine(options)
    for number, result in enumerate(results):
        print(f"worker {number}: compared {result.compared:,} tensors, lam changed to {result.lam} by {result.way}")
        if result.ignored:
            names, count = shortened(list(result.ignored)), len(result.ignored)
            what = "tensor" if count == 1 else "tensors"
            print(f"  not compared: {count:,} {what} that two loads do not agree on ({names})")
    sys.stdout.flush()  # before the message of an error
    for result in results:
        result.require()
    print("OK: the same bits as the merge loaded afresh")
    return 0


def checked(arguments: argparse.Namespace) -> Server:
    """Checks everything that can be checked without vLLM: options, models, masks, the port. Takes about a second.

    Raises:
        MIKernelsError: the server would not start, or other machines could reach it without an API key.
    """
    from ..recipe.lam import checked_lam

    lam = checked_lam(arguments.lam, arguments.extrapolate)
    found = written(arguments.others)
    refuse_clashes(found)
    if not arguments.check:
        from ..integrations.vllm.listening import check_free

        if not may_have_key(arguments.others):
            require_key(arguments.host, bool(os.environ.get("VLLM_API_KEY")))
        if "uds" not in found:
            check_free(arguments.host, arguments.port)

    from ..integrations.vllm.options import LoaderOptions
    from ..integrations.vllm.preflight import check_models, has_tokenizer

    config: dict[str, Any] = {"other": arguments.thinking, "lam": lam, "live": True, "resident": arguments.resident}
    config.update({k: v for k, v in (("layers", arguments.layers), ("modules", arguments.modules)) if v is not None})
    if arguments.extrapolate:
        config["extrapolate"] = True
    if arguments.check:
        config["check"] = True
    loader = LoaderOptions.read(config)
    efforts, page = _efforts(arguments, loader), _page(arguments.ui)
    models, notes = check_models(arguments.instruct, loader, list(efforts.named.values()) if efforts else [])
    instruct, thinking = models
    if thinking.revision is not None and thinking.adapter is None:
        config["other"] = thinking.root  # the commit that was checked, whatever the Hub has when the engine loads
    # As in merged folders: THINKING's template opens the thinking block, and the paper uses its sampling settings.
    small, other = (thinking, "instruct") if arguments.copy_from == "thinking" else (instruct, "thinking")
    elsewhere = {"tokenizer", "skip_tokenizer_init"} & set(found) or "--config" in arguments.others
    if not has_tokenizer(small) and not elsewhere:
        raise CheckpointError(
            f"{small.source}: has no tokenizer", f"Use --copy-from {other}, or give vLLM's --tokenizer FOLDER after --."
        )
    _check_memory(arguments.resident, sum(model.nbytes for model in models))
    return Server(
        model=instruct.root,
        names=(pair_name(arguments.instruct, arguments.thinking), arguments.instruct),
        small=small.root,
        config=config,
        nbytes=sum(model.nbytes for model in models),
        parameters=_parameters(instruct),
        notes=notes,
        efforts=efforts,
        page=page,
    )


def _efforts(arguments: argparse.Namespace, loader: LoaderOptions) -> Efforts | None:
    """Raises:
    ArgumentError: an effort is invalid, or --max-wait has no effect.
    """
    if not arguments.effort and arguments.ui is None:
        if arguments.max_wait is not None:
            raise ArgumentError(
                "--max-wait has no effect without --effort",
                "Name the efforts that requests may choose, as in --effort low=0.2,high=0.9, or leave it out.",
            )
        return None
    from ..integrations.vllm.efforts import Efforts, read_efforts

    assert loader.recipe is not None
    named = read_efforts(arguments.effort, loader.recipe, (arguments.instruct, arguments.thinking))
    max_wait = 10.0 if arguments.max_wait is None else arguments.max_wait
    if not 0 <= max_wait < float("inf"):
        raise ArgumentError(f"--max-wait is {max_wait:g}", "Give a number of seconds from 0.")
    return Efforts((), named, loader.recipe, max_wait)  # the names are known when vLLM has read its options


def _page(report: str | None) -> list[dict[str, Any]] | None:
    """Raises:
    ArgumentError: there is no report of a sweep.
    """
    if report is None:
        return None
    from ..integrations.vllm.report_sweep import read_stages

    return read_stages(report) if report else []


def pair_name(instruct: str, thinking: str) -> str:
    """Returns the name of a pair: the last parts of both names, with the words that they share once.

    >>> pair_name("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Thinking-2507")
    'Qwen3-4B-Instruct+Thinking-2507'
    """
    from ..checkpoint.hub import cached_id

    names = [cached_id(name) or os.path.basename(os.path.abspath(name)) for name in (instruct, thinking)]
    a, b = (os.path.basename(name).partition("@")[0].split("-") for name in names)
    if a == b:
        return "-".join(a)
    start = _equal(a, b)
    end = min(_equal(a[::-1], b[::-1]), len(a) - start, len(b) - start)
    middle = ["-".join(words[start : len(words) - end]) for words in (a, b)]
    return "-".join(part for part in [*a[:start], "+".join(filter(None, middle)), *a[len(a) - end :]] if part)


def _equal(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns how many of the first words are equal."""
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b))))


def _check_memory(resident: str, nbytes: int) -> None:
    """Raises:
    ArgumentError: this machine does not have the memory for both models.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if resident == "host" and nbytes > memory:
        raise ArgumentError(
            f"--resident host needs {show_bytes(nbytes)} of memory for both models, and this machine has "
            f"{show_bytes(memory)}",
            "Leave out --resident host, or use a machine with more memory.",
        )


def _parameters(model: Checkpoint) -> int:
    tied = model.config.get("tie_word_embeddings", False)
    return sum(t.elements for t in model.tensors.values() if not (tied and t.name == "lm_head.weight"))


def _check_gpus(resident: str, parameters: int, options: Namespace) -> None:
    """Raises:
    ArgumentError: the GPUs are too small. With vLLM's CPU build, it does not matter what they are.
    """
    from ..integrations.vllm.gpu_memory import check_gpus, gpus, need_of
    from ..integrations.vllm.import_failure import version

    if not version("torch").endswith("+cpu"):
        check_gpus(need_of(parameters, options, resident), gpus())


def vllm_options(arguments: argparse.Namespace, server: Server) -> Namespace:
    """Returns the options of vLLM's server, from vLLM's own parser.

    Raises:
        BackendError: vLLM cannot be imported.
        ArgumentError: options after `--` are invalid or clash with ours; or other machines could reach the server
            without an API key.
    """
    from ..integrations.vllm.server import ServerOptions, has_key

    parser = ServerOptions()
    given = parser.given(arguments.others, [*REFUSED, *REPLACED])
    refuse_clashes([name for name in given if name not in REPLACED])
    options = parser.parse(command(arguments, server, given))
    if not (arguments.check or options.uds):
        require_key(options.host, has_key(options, os.environ))
    return options


def command(arguments: argparse.Namespace, server: Server, given: Mapping[str, Any]) -> list[str]:
    """Returns the command line for vLLM's parser.

    Args:
        given: which of `REPLACED` the user has given.
    """
    defaults = [("tokenizer", server.small), ("generation_config", server.small)]
    replaceable = [(f"--{name.replace('_', '-')}", value) for name, value in defaults if name not in given]
    return [
        *("--model", server.model, "--served-model-name", *server.names, "--load-format", "mi_kernels"),
        *("--model-loader-extra-config", json.dumps(server.config)),
        *("--worker-extension-cls", "mi_kernels.integrations.vllm.worker.LiveWorker"),
        *(word for pair in replaceable for word in pair),
        *("--host", arguments.host, "--port", str(arguments.port)),
        *arguments.others,
    ]


def environment(now: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment `now` with VLLM_PLUGINS that names mi_kernels and all plugins that vLLM loads anyway."""
    if "VLLM_PLUGINS" in now:
        named = [name for name in now["VLLM_PLUGINS"].split(",") if name]
    else:
        from importlib.metadata import entry_points

        groups = ("general", "platform", "io_processor", "stat_logger")
        named = [entry.name for group in groups for entry in entry_points(group=f"vllm.{group}_plugins")]
    return {**now, "VLLM_PLUGINS": ",".join(dict.fromkeys([*named, "mi_kernels"]))}


def _announce(options: Namespace, lam: float) -> None:
    from ..integrations.vllm.listening import example, has_tls, url
    from ..integrations.vllm.server import has_key

    where = f"unix:{options.uds}" if options.uds else f"{url(options.host, options.port, has_tls(options))}/v1"
    _say(f"lam {lam:g} at {where}")
    efforts: Efforts | None = getattr(options, "mi_kernels_efforts", None)
    if efforts is not None and efforts.named:
        _say(f"requests choose reasoning_effort {', '.join(efforts.named)}, or a model: {', '.join(efforts.listed())}")
    if getattr(options, "mi_kernels_page", None) is not None and not options.uds:
        _say(f"the page is at {url(options.host, options.port, has_tls(options))}/ui/")
    _say(f"to change it: {example(options, lam, has_key(options, os.environ))}")


def _say(text: str) -> None:
    # Not with print, because vLLM adds the name of its process to each line of sys.stderr.
    os.write(2, f"mi-kernels: {printable(text)}\n".encode())


def _stopped(status: int) -> int:
    _say("stopped before the server answered")
    return status
