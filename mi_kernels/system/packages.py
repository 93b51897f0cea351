"""Optional packages: which versions we need, and the command that installs them.

The command names the package itself and not an extra of ours, so that it works in a clone and without an index that has
mi_kernels. A test compares the versions with pyproject.toml.
"""

from __future__ import annotations

import shlex

REQUIREMENTS = {
    "torch": "torch>=2.6",
    "triton": "triton>=3.2",
    "transformers": "transformers>=4.51",
    "ml_dtypes": "ml_dtypes>=0.4",
    "matplotlib": "matplotlib>=3.8",
    "mergekit": "mergekit==0.1.5",
    "ray": "ray>=2.40",
    "shtab": "shtab>=1.8",
}

CUDA_PART = (
    "Add the CUDA part to mi_kernels: `MI_KERNELS_CUDA=cu128 python -m pip install .` in its source folder, with the "
    "CUDA version of your torch for cu128"
)


def install(package: str) -> str:
    """Returns the command that installs an optional package, for a remedy.

    >>> install("ray")
    "`python -m pip install 'ray>=2.40'`"
    """
    return f"`python -m pip install {shlex.quote(REQUIREMENTS[package])}`"
