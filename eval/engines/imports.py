"""Hides packages that break the import of vLLM and of transformers' models with a CPU build of torch.

vLLM's CPU build requires torchvision, torchaudio and torchcodec, but their builds on PyPI need a CUDA torch: importing
them fails, and so does importing Qwen3. None in `sys.modules` makes a package look as if it were not installed, which
its users handle. So nothing has to be uninstalled.
"""

from __future__ import annotations

import importlib.metadata
import sys

_EXTRAS = ("torchvision", "torchaudio", "torchcodec", "triton")


def hide_cuda_extras() -> None:
    """Must run before the first import of vLLM or transformers. Does nothing with a CUDA torch, or to CPU builds."""
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
