"""Which PyPI packages compile the kernels for a CUDA version, and for which chips.

A version is named as PyTorch names its wheels: cu126 is CUDA 12.6. NVRTC (the compiler as a library) and nvFatbin are
on PyPI for every version since 12.4; the nvcc front end is only there since 13.0. So the same two libraries build every
wheel, and neither a toolkit installation nor a GPU is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

# Machine code for the chips of today, as far as a version knows them. A cubin also runs on later chips of its major
# version (8.0 on 8.7, 10.0 on 10.3), so one for each major would do; the minors get better schedules.
SASS = (80, 86, 89, 90, 100, 120)
# The oldest PTX: the driver compiles it for whatever has no machine code above, be it later, between (11.0) or Turing.
# Newer PTX would exclude chips and gain nothing: the kernels use no instruction that came after it.
PTX = 75


class ToolkitError(Exception):
    """The CUDA version is unknown, or its libraries are not installed."""


def version_of(tag: str) -> tuple[int, int]:
    """(12, 6) for "cu126".

    Raises:
        ToolkitError: not a tag, or of a version without nvFatbin.
    """
    match = re.fullmatch(r"cu(\d\d)(\d)", tag)
    if not match or (version := (int(match[1]), int(match[2]))) < (12, 4):
        raise ToolkitError(f"MI_KERNELS_CUDA={tag}: give a CUDA version from 12.4 on, such as cu126, cu128 or cu130")
    return version


def requirements(tag: str) -> list[str]:
    """What pip installs to compile for `tag`. The packages lost the version in their names with CUDA 13."""
    major, minor = version_of(tag)
    suffix = f"-cu{major}" if major < 13 else ""
    return [f"nvidia-{name}{suffix}=={major}.{minor}.*" for name in ("cuda-nvrtc", "nvfatbin")]


def library(tag: str, name: str) -> Path:
    """The path of "libnvrtc" or "libnvfatbin" as installed by pip for the version of `tag`.

    Raises:
        ToolkitError: not installed, or for another version.
    """
    for requirement in requirements(tag):
        package, wanted = requirement.split("==")
        if name.removeprefix("lib") not in package:
            continue
        try:
            installed = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            break
        if not installed.version.startswith(wanted.rstrip("*")):
            break
        for file in installed.files or ():
            if re.fullmatch(rf"{name}\.so\.\d+", file.name):
                return Path(str(file.locate()))
    raise ToolkitError(
        f"{name} for {tag} is not installed: python -m pip install " + " ".join(f'"{r}"' for r in requirements(tag))
    )


def installed() -> str | None:
    """The tag of an NVRTC that is installed with its nvFatbin, the newest first; None without."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            major, minor = metadata.version(package).split(".")[:2]
            tag = f"cu{major}{minor}"
            library(tag, "libnvrtc"), library(tag, "libnvfatbin")
        except (metadata.PackageNotFoundError, ToolkitError):
            continue
        return tag
    return None


def cuobjdump() -> Path | None:
    """The disassembler, from PATH or from PyPI's nvidia-cuda-cuobjdump (with nvidia-cuda-nvdisasm); None without."""
    try:
        files = metadata.files("nvidia-cuda-cuobjdump") or ()
    except metadata.PackageNotFoundError:
        found = shutil.which("cuobjdump")
        return Path(found) if found and shutil.which("nvdisasm") else None
    return next((Path(str(f.locate())) for f in files if f.name == "cuobjdump"), None)


def run_cuobjdump(*arguments: str | Path) -> str:
    """What cuobjdump prints. It looks for nvdisasm on PATH, so its own folder goes first."""
    program = cuobjdump()
    if program is None:
        raise ToolkitError("cuobjdump is missing: python -m pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
