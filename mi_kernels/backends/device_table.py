"""Chunk tables in a CUDA device's memory: built on the host, uploaded without waiting, kept for calls that repeat.

For Triton's interpreter the device is the CPU, and nothing has to be uploaded or waited for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..dtypes import CODE_TORCH
from . import chunk_table as table

if TYPE_CHECKING:
    import torch

Triple = tuple[int, int, int]  # dtype codes of out, a and b


class DeviceTable(NamedTuple):
    """A ChunkTable in device memory.

    Attributes:
        packed: uint8, the sections at `offsets`.
        offsets: where they start, in bytes.
        chunks, chunk: how many chunks, and the elements in one.
        stream, ready: the stream that uploads it, and the event that tells when it has; None on the CPU.
    """

    packed: Any
    offsets: table.Offsets
    chunks: int
    chunk: int
    stream: Any
    ready: Any

    def sections(self) -> tuple[Any, ...]:
        """The fields of a ChunkTable, as views of `packed`: int64, float32, int32, int64."""
        import torch

        dtypes = (torch.int64, torch.float32, torch.int32, torch.int64)
        starts, ends = self.offsets[:-1], self.offsets[1:]
        return tuple(self.packed[start:end].view(dtype) for start, end, dtype in zip(starts, ends, dtypes))


def by_dtypes(
    outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]
) -> dict[Triple, npt.NDArray[np.intp]]:
    """Which pairs (indices, in order) have which dtypes."""
    import torch

    codes = {getattr(torch, name): code for code, name in enumerate(CODE_TORCH)}
    kinds = [{x.dtype for x in tensors} for tensors in (outs, a, b)]
    if all(len(kind) == 1 for kind in kinds):  # as checkpoints are; thousands of tensors one by one take their time
        o, x, y = (codes[kind.pop()] for kind in kinds)
        return {(o, x, y): np.arange(len(outs))}
    groups: dict[Triple, list[int]] = {}
    for i, triple in enumerate(zip(outs, a, b)):
        o, x, y = (codes[tensor.dtype] for tensor in triple)
        groups.setdefault((o, x, y), []).append(i)
    return {triple: np.array(rows, dtype=np.intp) for triple, rows in groups.items()}


def addresses_of(
    outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]
) -> npt.NDArray[np.int64]:
    """int64 [T, 3]."""
    found: npt.NDArray[np.int64] = np.array([[x.data_ptr() for x in tensors] for tensors in (outs, a, b)], np.int64).T
    return found


@lru_cache(maxsize=16)
def upload(device: torch.device, chunk: int, addresses: bytes, counts: bytes, weights: bytes) -> DeviceTable:
    """The table of these tensors (arrays as `table.build` takes them, as bytes) on its way to `device`.

    It follows from the arguments alone, so one that is still there from an earlier call is never stale. Uploaded on
    the current stream, from pinned memory that torch keeps until the copy is done; while that stream is captured, on
    one of its own, as the table is not the graph's work.
    """
    import torch

    built = table.build(
        np.frombuffer(addresses, np.int64).reshape(-1, 3),
        np.frombuffer(counts, np.int64),
        np.frombuffer(weights, np.float32),
        chunk,
    )
    host = torch.from_numpy(built.pack())
    if device.type == "cpu":
        return DeviceTable(host, built.offsets, len(built.chunk_tensor), chunk, None, None)
    capturing = torch.cuda.is_current_stream_capturing()
    stream = torch.cuda.Stream(device) if capturing else torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        packed = torch.empty_like(host, device=device)
        packed.copy_(host if capturing else host.pin_memory(), non_blocking=True)
        ready = torch.cuda.Event()
        ready.record(stream)
    return DeviceTable(packed, built.offsets, len(built.chunk_tensor), chunk, stream, ready)


_captured: list[DeviceTable] = []  # nothing tells when a graph is gone, so its tables stay until the process ends


def acquire(part: DeviceTable, stream: Any) -> None:
    """Lets work on `stream` read the table, and keeps the memory until that work is done."""
    import torch

    if torch.cuda.is_current_stream_capturing():
        part.ready.synchronize()
        _captured.append(part)
    elif stream != part.stream:
        stream.wait_event(part.ready)
        part.packed.record_stream(stream)


@contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """Makes `device` current; in a stream capture, also allows this thread to prepare what it captures.

    While a stream is captured CUDA refuses allocations and waits to its thread, on any stream. The driver's relaxed
    mode allows them.
    """
    if device.type == "cpu":
        yield
        return
    import torch

    with torch.cuda.device(device):
        if not torch.cuda.is_current_stream_capturing():
            yield
            return
        driver = ctypes.CDLL("libcuda.so.1")
        mode = ctypes.c_int(2)  # CU_STREAM_CAPTURE_MODE_RELAXED; the call swaps it with the thread's
        driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
        try:
            yield
        finally:
            driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
