"""What must look absent before vLLM or transformers' models are imported beside a CPU build of torch.

vLLM's CPU build asks for torchvision, torchaudio and torchcodec, and PyPI's builds of them belong to a CUDA torch:
their import fails, and that of every Qwen3 with it. None in `sys.modules` makes a package look as if it were not
installed, which all its users allow for; so nothing has to be uninstalled.
"""

from __future__ import annotations

import importlib.metadata
import sys

_EXTRAS = ("torchvision", "torchaudio", "torchcodec", "triton")


def hide_cuda_extras() -> None:
    """Call it before the first import of vLLM or transformers. Does nothing beside a CUDA torch, or to CPU builds."""
    if not _version("torch").endswith("+cpu"):
        return
    for name in _EXTRAS:
        if name not in sys.modules and "+cpu" not in _version(name):
            sys.modules[name] = None  # type: ignore[assignment]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
