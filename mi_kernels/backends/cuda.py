"""The compiled CUDA backend (csrc/cuda): lists of CUDA tensors, one launch for each combination of dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendError
from . import device_table
from .device_table import DeviceTable, Triple

if TYPE_CHECKING:
    import torch

# A block goes through 8192 bf16 elements in one round of its loop, so that is the least worth a block. Larger chunks
# make smaller tables, but a large GPU holds some 700 blocks at a time, and the last of them to finish leave it idle:
# with 16 rounds of blocks that costs a few per cent at most.
MIN_CHUNK, MAX_CHUNK, CHUNKS_WANTED = 8192, 65536, 16 * 700
MINIMUM_CAPABILITY = (7, 5)  # of the PTX in the fat binary (tools/cuda_toolkit.py)


def available() -> str | None:
    """None where CUDA tensors can be served, else why not, in a sentence. Does not import torch."""
    if find_spec("mi_kernels._cuda") is None:
        return "this build of mi_kernels is for the CPU only."
    try:
        from .. import _cuda
    except ImportError as error:
        return f"mi_kernels._cuda cannot be loaded: {error}."
    try:
        driver = _cuda.driver_version()
        capabilities = [_cuda.compute_capability(device) for device in range(_cuda.device_count())]
    except _cuda.CudaError as error:
        return f"{error}."
    if not capabilities:
        return "the NVIDIA driver shows no device."
    if max(capabilities) < MINIMUM_CAPABILITY:
        major, minor = max(capabilities)
        return f"the GPU has compute capability {major}.{minor}; 7.5 or higher is needed."
    return too_old(driver, _cuda.CUDA_VERSION)


def too_old(driver: int, wheel: str) -> str | None:
    """Why a driver for CUDA `driver` (12040 is 12.4) cannot run the kernels of `wheel` ("cu128"), or None.

    Machine code runs on any driver of its major version or later.
    """
    if driver // 1000 < int(wheel[2:4]):
        return (
            f"the NVIDIA driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, "
            f"this build of mi_kernels for CUDA {wheel[2:4]}.{wheel[4:]}."
        )
    return None


def chunk_for(elements: int) -> int:
    """Elements in a chunk for so many in all: the largest power of two that makes CHUNKS_WANTED, within the limits."""
    chunk = MAX_CHUNK
    while chunk > MIN_CHUNK and elements < chunk * CHUNKS_WANTED:
        chunk //= 2
    return chunk


def multi_lerp(
    outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], weights: Sequence[float]
) -> None:
    """outs[i] = lerp(a[i], b[i], weights[i]) in one launch on the current stream; one for each combination of dtypes.

    Args:
        outs, a, b: contiguous tensors of one CUDA device, aligned to their elements, equal shapes within a pair; bf16,
            float16 or float32. An output may be its own input and overlaps nothing else.
        weights: lam of each pair.

    Returns before the work is done, like every operation of torch. Can be captured in a CUDA graph; its tables then
    stay on the device until the process ends, 12 bytes a chunk.

    Raises:
        BackendError: CUDA reports an error; names the call and the error.
    """
    if not outs:
        return
    from .. import _cuda

    device = outs[0].device
    addresses = device_table.addresses_of(outs, a, b)
    counts = np.array([x.numel() for x in outs], dtype=np.int64)
    lams = np.asarray(weights, dtype=np.float32)
    groups = device_table.by_dtypes(outs, a, b)
    try:
        with device_table.on_device(device):
            _cuda.prepare(device.index)
            for triple, rows in groups.items():
                if not (elements := int(counts[rows].sum())):
                    continue
                part = device_table.upload(
                    device,
                    chunk_for(elements),
                    addresses[rows].tobytes(),
                    counts[rows].tobytes(),
                    lams[rows].tobytes(),
                )
                _launch(device, part, triple)
    except _cuda.CudaError as error:
        raise BackendError(
            f"backend 'cuda' on {device}: {error}",
            "`mi-kernels env` shows driver and versions; backend='triton' needs no compiled kernels.",
        ) from error


def _launch(device: torch.device, part: DeviceTable, triple: Triple) -> None:
    import torch

    from .. import _cuda

    stream = torch.cuda.current_stream(device)
    device_table.acquire(part, stream)
    base, at = part.packed.data_ptr(), part.offsets
    _cuda.launch(
        device.index,
        stream.cuda_stream,
        tensors=base + at.tensors,
        weights=base + at.weights,
        chunk_tensor=base + at.chunk_tensor,
        chunk_start=base + at.chunk_start,
        chunks=part.chunks,
        chunk=part.chunk,
        out_dtype=triple[0],
        a_dtype=triple[1],
        b_dtype=triple[2],
    )
