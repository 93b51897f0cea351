"""Says why the CPU kernels are missing. Python imports the compiled `_cpu` in place of this file where there is one."""

from __future__ import annotations

import glob
import os
import platform

from .errors import BackendError


class ExtensionError(BackendError, ImportError):
    """The compiled kernels are not where Python imports mi_kernels from."""


def _reason(folder: str) -> ExtensionError:
    """Returns the error for a package in `folder` that has no compiled kernels."""
    source = os.path.dirname(folder)
    if os.path.isfile(os.path.join(source, "setup.py")) and os.path.isdir(os.path.join(source, "csrc")):
        return ExtensionError(
            f"{source}: Python imports mi_kernels from this source folder, whose kernels are not built",
            "If mi_kernels is installed, run Python in another folder. Otherwise build the kernels here: "
            "`python -m pip install -e .`",
        )
    others = glob.glob(os.path.join(glob.escape(folder), "_cpu.*.so"))
    if others:
        return ExtensionError(
            f"{others[0]}: was built for another Python, and this is {platform.python_version()}",
            "Use that Python, or install mi_kernels with this one: `python -m pip install .` in its source folder.",
        )
    return ExtensionError(
        f"{folder}: mi_kernels is installed without its compiled kernels",
        "Install it again with a C++17 compiler: `python -m pip install --force-reinstall .` in its source folder.",
    )


raise _reason(os.path.dirname(os.path.abspath(__file__)))
