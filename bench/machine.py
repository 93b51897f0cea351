"""Describes the machine and the code that a figure was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import mi_kernels
from mi_kernels import _cpu

COMMIT = "COMMIT"  # in a folder that `bench.gpu pack` made: the commit it was made from
PACKAGES = ("numpy", "torch", "safetensors", "ml_dtypes", "pytest-benchmark")
_GENERATED = (":(exclude,top)bench/results", ":(exclude,top)README.md")  # a new result does not count as a change


def describe() -> dict[str, Any]:
    """Processor, cores, memory, kernel, commit, date and the versions of the packages."""
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "isas": _cpu.isas(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit(),
        "versions": {"mi_kernels": mi_kernels.__version__, **{name: _version(name) for name in PACKAGES}},
    }


def available_memory() -> int:
    """Bytes available to new processes without swapping, as Linux estimates them."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def commit() -> str | None:
    """The commit of this tree, with "-dirty" if files differ from it; None if nothing tells."""
    packed = Path(__file__).resolve().parents[1] / COMMIT
    if packed.exists():  # git would answer for whatever repository the folder lies in
        return packed.read_text().strip()
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *_GENERATED)
    return f"{commit}-dirty" if commit and changed else commit


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
