"""Interpolate lists of CUDA tensors with the Triton kernel, one launch per dtype combination.

With TRITON_INTERPRET=1 the same code runs on CPU tensors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from . import device_table
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
    if not outs:
        return
    device = outs[0].device
    addresses = device_table.addresses_of(outs, a, b)
    counts = np.array([x.numel() for x in outs], dtype=np.int64)
    lams = np.asarray(weights, dtype=np.float32)
    with device_table.on_device(device):
        for triple, rows in device_table.by_dtypes(outs, a, b).items():
            if counts[rows].any():
                table = addresses[rows].tobytes(), counts[rows].tobytes(), lams[rows].tobytes()
                _launch(device, device_table.upload(device, CHUNK, *table), triple)


def _launch(device: torch.device, part: DeviceTable, triple: Triple) -> None:
    import torch

    from . import triton_kernels as kernels

    if device.type == "cuda":
        device_table.acquire(part, torch.cuda.current_stream(device))
    kernels.lerp_chunks[(part.chunks,)](
        *part.sections(), *triple, CHUNK, kernels.STEP, kernels.REST, kernels.INTERPRETED, **kernels.OPTIONS
    )
