"""The Triton backend: lists of CUDA tensors, one launch for each combination of dtypes.

The chunk table is built on the host and copied once; the last few stay on the device, so a call that repeats itself
(same memory, same weights) only launches. Under TRITON_INTERPRET=1 the same code runs on CPU tensors.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import table

if TYPE_CHECKING:
    import torch

CHUNK = 32768  # elements: a program's start costs little against it, and a small tensor is still shared by several
MINIMUM = (3, 2)  # the Triton the kernel was written for
MINIMUM_CAPABILITY = (8, 0)  # the GPUs Triton supports


def interpreted() -> bool:
    """Whether TRITON_INTERPRET asks Triton to run its kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def available() -> str | None:
    """None where CUDA tensors can be served, else why not, in a sentence. Does not import Triton."""
    try:
        import torch
    except ImportError:
        return "torch is not installed."
    if find_spec("triton") is None:
        return "triton is not installed."
    if interpreted():
        return "TRITON_INTERPRET=1 is set, and the interpreter works on CPU tensors."
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
    for package in ("triton", "pytorch-triton"):  # as PyPI and as torch's nightly builds call it
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def multi_lerp(
    outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], weights: Sequence[float]
) -> None:
    """outs[i] = lerp(a[i], b[i], weights[i]) in one launch on the current stream; one for each combination of dtypes.

    Args:
        outs, a, b: contiguous tensors of one CUDA device, equal shapes within a pair; bf16, float16 or float32. An
            output may be its own input and overlaps nothing else.
        weights: lam of each pair.

    A launch may be captured in a CUDA graph. Its table then stays on the device until the process ends, 12 bytes for
    every CHUNK elements: nothing tells when a graph is gone.
    """
    if not outs:
        return
    device = outs[0].device
    addresses = np.array([[x.data_ptr() for x in tensors] for tensors in (outs, a, b)], dtype=np.int64).T
    counts = np.array([x.numel() for x in outs], dtype=np.int64)
    lams = np.asarray(weights, dtype=np.float32)
    for triple, rows in _by_dtypes(outs, a, b).items():
        with _on(device):
            part = _upload(device, addresses[rows].tobytes(), counts[rows].tobytes(), lams[rows].tobytes())
            _launch(part, triple)


class _DeviceTable(NamedTuple):
    """A ChunkTable on the device: its sections are views of `packed`."""

    packed: torch.Tensor
    sections: tuple[torch.Tensor, ...]
    chunks: int


_captured: list[_DeviceTable] = []  # the tables of captured launches


def _by_dtypes(
    outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]
) -> dict[tuple[int, int, int], Any]:
    """The rows of each combination of dtype codes (out, a, b), as an index into NumPy arrays."""
    import torch

    codes = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
    dtypes = [{x.dtype for x in tensors} for tensors in (outs, a, b)]
    if all(len(kinds) == 1 for kinds in dtypes):  # as checkpoints are; thousands of triples take their time
        o, x, y = (codes[kinds.pop()] for kinds in dtypes)
        return {(o, x, y): slice(None)}
    groups: dict[tuple[int, int, int], list[int]] = {}
    for i, (o, x, y) in enumerate(zip(outs, a, b)):
        groups.setdefault((codes[o.dtype], codes[x.dtype], codes[y.dtype]), []).append(i)
    return groups


@lru_cache(maxsize=16)
def _upload(device: torch.device, addresses: bytes, counts: bytes, weights: bytes) -> _DeviceTable:
    """The table of these tensors on the device. What it holds follows from the arguments, so it is never stale.

    The copy runs on a stream of its own and is waited for: it waits for none of the device's work, and the table can
    then be read from any stream.
    """
    import torch

    built = table.build(
        np.frombuffer(addresses, np.int64).reshape(-1, 3),
        np.frombuffer(counts, np.int64),
        np.frombuffer(weights, np.float32),
        CHUNK,
    )
    host = torch.from_numpy(built.pack())
    if device.type == "cpu":
        packed = host
    else:
        side = _upload_stream(device)
        with torch.cuda.stream(side):
            packed = torch.empty_like(host, device=device)
            packed.copy_(host)
            side.synchronize()
    offsets = built.offsets
    widths = (torch.int64, torch.float32, torch.int32, torch.int64)
    ends = (*offsets[1:4], offsets.size)
    sections = tuple(packed[start:end].view(dtype) for start, end, dtype in zip(offsets, ends, widths))
    return _DeviceTable(packed, sections, len(built.chunk_tensor))


@cache
def _upload_stream(device: torch.device) -> Any:
    import torch

    return torch.cuda.Stream(device)


def _launch(part: _DeviceTable, triple: tuple[int, int, int]) -> None:
    import torch

    from . import triton_kernels as kernels

    if part.chunks == 0:
        return
    if part.packed.is_cuda:
        if torch.cuda.is_current_stream_capturing():
            _captured.append(part)
        else:  # the table may leave the cache while this stream still reads it
            part.packed.record_stream(torch.cuda.current_stream())
    kernels.lerp_chunks[(part.chunks,)](
        *part.sections, *triple, CHUNK, kernels.STEP, kernels.REST, kernels.INTERPRETED, **kernels.OPTIONS
    )


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Makes the device current, and lets a stream capture pass over the calls that prepare a launch.

    While a stream is captured CUDA refuses allocations and waits, on any stream, to the thread that captures. They
    belong to the preparation here, not to the graph, and the driver's relaxed mode allows them.
    """
    import torch

    if device.type == "cpu":
        yield
        return
    with torch.cuda.device(device):
        capturing = torch.cuda.is_current_stream_capturing()
        with _relaxed_capture() if capturing else nullcontext():
            yield


@contextmanager
def _relaxed_capture() -> Iterator[None]:
    driver = ctypes.CDLL("libcuda.so.1")
    mode = ctypes.c_int(2)  # CU_STREAM_CAPTURE_MODE_RELAXED; the call swaps it with the thread's
    driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    try:
        yield
    finally:
        driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
