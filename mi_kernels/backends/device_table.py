"""Upload chunk tables to a CUDA device without waiting, and cache them for repeated calls.

With Triton's interpreter the device is the CPU, and there is nothing to upload or wait for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..dtypes import torch_codes
from ..errors import BackendError
from . import chunk_table as table

if TYPE_CHECKING:
    import torch


class Triple(NamedTuple):
    """The dtype codes of out, a and b."""

    out: int
    a: int
    b: int


class Rows(NamedTuple):
    """What a launch needs of T pairs and their outputs.

    Attributes:
        addresses: int64 [T, 3]: of out, a and b.
        elements: int64 [T].
        codes: int32 [T, 3]: dtype codes of out, a and b.
    """

    addresses: npt.NDArray[np.int64]
    elements: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]


class DeviceTable(NamedTuple):
    """A ChunkTable in device memory.

    Attributes:
        packed: uint8 tensor with the sections at `offsets`.
        offsets: the start of each section, in bytes.
        chunks, chunk: the number of chunks, and the elements in a chunk.
        stream, ready: the stream that uploads the table, and the event recorded after the upload; None on the CPU.
    """

    packed: Any
    offsets: table.Offsets
    chunks: int
    chunk: int
    stream: Any
    ready: Any

    def sections(self) -> tuple[Any, ...]:
        """Returns the fields of a ChunkTable as views of `packed`: int64, float32, int32, int64."""
        import torch

        dtypes = (torch.int64, torch.float32, torch.int32, torch.int64)
        starts, ends = self.offsets[:-1], self.offsets[1:]
        return tuple(self.packed[start:end].view(dtype) for start, end, dtype in zip(starts, ends, dtypes))


def by_dtypes(codes: npt.NDArray[np.int32]) -> dict[Triple, npt.NDArray[np.intp]]:
    """Returns the indices of the pairs with each dtype triple, in the order of their first pairs.

    Args:
        codes: int32 [T, 3]: dtype codes of out, a and b.
    """
    if len(codes) == 0:
        return {}
    if (codes == codes[0]).all():  # the usual case
        return {Triple(*map(int, codes[0])): np.arange(len(codes))}
    kinds, first, kind_of = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    return {Triple(*map(int, kinds[k])): np.flatnonzero(kind_of.ravel() == k) for k in np.argsort(first)}


def rows_of(outs: Sequence[torch.Tensor], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> Rows:
    """Returns the rows of lists of tensors."""
    known = torch_codes()
    columns = (outs, a, b)
    return Rows(
        np.array([[x.data_ptr() for x in tensors] for tensors in columns], np.int64).T,
        np.array([x.numel() for x in outs], np.int64),
        np.array([[known[x.dtype] for x in tensors] for tensors in columns], np.int32).T,
    )


@lru_cache(maxsize=16)
def upload(device: torch.device, chunk: int, addresses: bytes, counts: bytes, weights: bytes) -> DeviceTable:
    """Returns the table of these tensors on `device`, as `build` does. Equal arguments return the same table.

    The table depends only on the arguments, so a cached one is never stale.

    Args:
        addresses, counts, weights: the bytes of the arrays that `chunk_table.build` takes.
    """
    return build(
        device,
        chunk,
        np.frombuffer(addresses, np.int64).reshape(-1, 3),
        np.frombuffer(counts, np.int64),
        np.frombuffer(weights, np.float32),
    )


def build(
    device: torch.device,
    chunk: int,
    addresses: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32] | None = None,
) -> DeviceTable:
    """Builds a table and starts its upload to `device`.

    The current stream uploads it, from pinned memory that torch keeps until the copy is done. While the current stream
    is captured, another stream uploads it, because the upload must not become part of the graph.

    Args:
        addresses, counts, weights: see `chunk_table.build`. Without weights, those of the table are NaN.
    """
    import torch

    if weights is None:
        weights = np.full(len(counts), np.nan, np.float32)
    built = table.build(addresses, counts, weights, chunk)
    host = torch.from_numpy(built.pack())
    if device.type == "cpu":
        return DeviceTable(host, built.offsets, len(built.chunk_tensor), chunk, None, None)
    capturing = torch.cuda.is_current_stream_capturing()
    stream = own_stream(device) if capturing else torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        packed = torch.empty_like(host, device=device)
        packed.copy_(host if capturing else host.pin_memory(), non_blocking=True)
        ready = torch.cuda.Event()
        ready.record(stream)
    return DeviceTable(packed, built.offsets, len(built.chunk_tensor), chunk, stream, ready)


@cache
def own_stream(device: torch.device) -> Any:
    """Returns the stream that uploads to `device` while another stream is captured.

    `torch.cuda.Stream()` returns one of 32 streams in turn, and `torch.cuda.graph` captures one of the same 32. So it
    may return the stream that is being captured.

    Raises:
        BackendError: the driver cannot create a stream.
    """
    import torch

    handle = ctypes.c_void_p()
    non_blocking = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
    with torch.cuda.device(device):
        result = ctypes.CDLL("libcuda.so.1").cuStreamCreate(ctypes.byref(handle), non_blocking)
    if result != 0:
        raise BackendError(f"cuStreamCreate on {device}: error {result}", "Check the driver with `mi-kernels env`.")
    return torch.cuda.ExternalStream(handle.value, device)


# CUDA does not report when a graph is destroyed, so the tables of graphs are never freed. By `id`, so that a table that
# is captured again is kept once.
_captured: dict[int, DeviceTable] = {}


_kept: dict[tuple[torch.device, bytes], Any] = {}  # by content, for the same reason


def kept(device: torch.device, host: torch.Tensor) -> torch.Tensor:
    """Copies a tensor of the host to `device` during a stream capture, for a graph to read at every replay.

    Another stream copies it, so that the copy is not part of the graph. It stays on the device until the process ends;
    equal bytes are copied once.
    """
    import torch

    key = device, host.view(torch.uint8).numpy().tobytes()
    if key not in _kept:
        stream = own_stream(device)
        with torch.cuda.stream(stream):
            _kept[key] = host.to(device)
        stream.synchronize()
    found: torch.Tensor = _kept[key]
    return found


def acquire(part: DeviceTable, stream: Any) -> None:
    """Makes `stream` wait for the upload of the table, and keeps the table's memory until its work is done."""
    import torch

    if torch.cuda.is_current_stream_capturing():
        part.ready.synchronize()
        _captured[id(part)] = part
    elif stream != part.stream:
        stream.wait_event(part.ready)
        part.packed.record_stream(stream)


@contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """Makes `device` current. During a stream capture, also allows this thread to allocate memory and to wait.

    While a thread captures a stream, CUDA rejects its allocations and waits on every stream. The driver's relaxed
    capture mode allows them.
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
