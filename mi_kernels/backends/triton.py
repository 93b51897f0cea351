"""Interpolate lists of CUDA tensors with the Triton kernel, one launch per dtype combination.

With TRITON_INTERPRET=1 the same code runs on CPU tensors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from . import device_table, launches
from .device_table import DeviceTable, Triple

if TYPE_CHECKING:
    import torch

CHUNK = 32768  # elements: large against the cost of starting a program, yet several programs share a small tensor
MINIMUM = (3, 2)  # the version of Triton that the kernel was written for
MINIMUM_CAPABILITY = (8, 0)  # of the GPUs that Triton supports


def interpreted() -> bool:
    """Returns whether TRITON_INTERPRET makes Triton run its kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def available() -> str | None:
    """Returns None if this backend can serve CUDA tensors, otherwise the reason as a sentence.

    Does not import Triton.
    """
    try:
        import torch
    except ImportError:
        return "torch is not installed."
    if find_spec("triton") is None:
        return "triton is not installed."
    if interpreted():
        return "TRITON_INTERPRET=1 is set, and the interpreter supports only CPU tensors."
    version = _version()
    if version is not None and tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        return f"triton {version} is installed; {'.'.join(map(str, MINIMUM))} or newer is needed."
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA."
    if not torch.cuda.is_available():
        return "torch finds no GPU: no NVIDIA driver, or no device is visible."
    capability = torch.cuda.get_device_capability()
    if capability < MINIMUM_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; 8.0 or higher is needed."
    return None


def _version() -> str | None:
    for package in ("triton", "pytorch-triton"):  # the names on PyPI and in torch's nightly builds
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def multi_lerp(
    outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], weights: Sequence[float]
) -> None:
    """Computes outs[i] = lerp(a[i], b[i], weights[i]) with one launch on the current stream per dtype combination.

    The call is asynchronous, like every CUDA operation of torch. It can be captured in a CUDA graph; the tables of a
    graph stay on the device until the process ends, 12 bytes for every CHUNK elements.

    Args:
        outs, a, b: contiguous bf16, float16 or float32 tensors on one CUDA device. The shapes of a pair are equal. An
            output may be one of its own inputs, and must not overlap anything else.
        weights: lam of each pair.
    """
    if outs:
        launches.run(sys.modules[__name__], outs[0].device, device_table.rows_of(outs, a, b), weights)


def chunk_for(elements: int) -> int:
    """Returns the elements in a chunk, for a launch over `elements` in total."""
    return CHUNK


def load(device: torch.device) -> None:
    """Does nothing: Triton compiles a kernel at its first launch."""


def launch(device: torch.device, part: DeviceTable, triple: Triple, weights: torch.Tensor | None = None) -> None:
    """Launches the kernel for `triple` over a table on the current stream.

    Args:
        weights: float32 [T] on the device; None: those of the table.
    """
    from . import triton_kernels as kernels

    tensors, own, chunk_tensor, chunk_start = part.sections()
    kernels.lerp_chunks[(part.chunks,)](
        tensors, own if weights is None else weights, chunk_tensor, chunk_start,
        *triple, part.chunk, kernels.STEP, kernels.REST, kernels.INTERPRETED, **kernels.OPTIONS,
    )  # fmt: skip
