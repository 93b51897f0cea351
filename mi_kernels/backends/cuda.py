"""Interpolate lists of CUDA tensors with the compiled CUDA kernels (csrc/cuda), one launch per dtype combination."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import BackendError
from . import device_table, launches
from .device_table import DeviceTable, Triple

if TYPE_CHECKING:
    import torch

# A block handles 8192 bf16 elements in one iteration of its loop, so a smaller chunk would waste a block. Larger chunks
# make smaller tables. But a large GPU runs about 700 blocks at a time, and is partly idle while the last ones finish.
# With 16 rounds of blocks this costs a few percent at most.
MIN_CHUNK, MAX_CHUNK, CHUNKS_WANTED = 8192, 65536, 16 * 700
_REMEDY = "Check driver and versions with `mi-kernels env`, or use backend='triton'."
MINIMUM_CAPABILITY = (7, 5)  # of the PTX in the fat binary (tools/cuda_toolkit.py)


def available() -> str | None:
    """Returns None if this backend can serve CUDA tensors, otherwise the reason as a sentence.

    Does not import torch.
    """
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
        return "the NVIDIA driver finds no device."
    if max(capabilities) < MINIMUM_CAPABILITY:
        major, minor = max(capabilities)
        return f"the GPU has compute capability {major}.{minor}; 7.5 or higher is needed."
    return too_old(driver, _cuda.CUDA_VERSION)


def too_old(driver: int, wheel: str) -> str | None:
    """Returns why a driver for CUDA `driver` (12040 is 12.4) cannot run the kernels of `wheel` ("cu128"), or None.

    Machine code runs on drivers of the same major version of CUDA or later.
    """
    if driver // 1000 < int(wheel[2:4]):
        return (
            f"the NVIDIA driver supports CUDA {driver // 1000}.{driver % 1000 // 10}, "
            f"and this build of mi_kernels needs CUDA {wheel[2:4]}.{wheel[4:]}."
        )
    return None


def chunk_for(elements: int) -> int:
    """Returns the elements in a chunk, for a launch over `elements` in total.

    This is the largest power of two from MIN_CHUNK to MAX_CHUNK that gives at least CHUNKS_WANTED chunks, or MIN_CHUNK.
    """
    chunk = MAX_CHUNK
    while chunk > MIN_CHUNK and elements < chunk * CHUNKS_WANTED:
        chunk //= 2
    return chunk


def multi_lerp(
    outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], weights: Sequence[float]
) -> None:
    """Computes outs[i] = lerp(a[i], b[i], weights[i]) with one launch on the current stream per dtype combination.

    The call is asynchronous, like every CUDA operation of torch. It can be captured in a CUDA graph; the tables of a
    graph stay on the device until the process ends, 12 bytes per chunk.

    Args:
        outs, a, b: contiguous bf16, float16 or float32 tensors on one CUDA device, aligned to their elements. The
            shapes of a pair are equal. An output may be one of its own inputs, and must not overlap anything else.
        weights: lam of each pair.

    Raises:
        BackendError: CUDA reports an error. The message names the call and the error.
    """
    if outs:
        launches.run(sys.modules[__name__], outs[0].device, device_table.rows_of(outs, a, b), weights)


def load(device: torch.device) -> None:
    """Loads the kernels onto `device`, which no launch does: a stream capture would not allow it."""
    from .. import _cuda

    with named(device):
        _cuda.prepare(device.index or 0)


def launch(device: torch.device, part: DeviceTable, triple: Triple, weights: torch.Tensor | None = None) -> None:
    """Launches the kernel of `triple` over a table on the current stream.

    Args:
        weights: float32 [T] on the device; None: those of the table.
    """
    import torch

    from .. import _cuda

    base, at = part.packed.data_ptr(), part.offsets
    with named(device):
        _cuda.launch(
            device.index or 0,
            torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0,
            tensors=base + at.tensors,
            weights=base + at.weights if weights is None else weights.data_ptr(),
            chunk_tensor=base + at.chunk_tensor,
            chunk_start=base + at.chunk_start,
            chunks=part.chunks,
            chunk=part.chunk,
            out_dtype=triple.out,
            a_dtype=triple.a,
            b_dtype=triple.b,
        )


@contextmanager
def named(device: torch.device, remedy: str = _REMEDY) -> Iterator[None]:
    """Turns an error of CUDA into a BackendError that names the device."""
    from .. import _cuda

    try:
        yield
    except _cuda.CudaError as error:
        raise BackendError(f"backend 'cuda' on {device}: {error}", remedy) from error
