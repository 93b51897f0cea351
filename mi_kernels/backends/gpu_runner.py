"""Run spans on a GPU: from memory maps through pinned memory to the device and back, one piece at a time.

    map --worker--> pinned --copy_in--> device --compute--> device --copy_out--> pinned --worker--> slot

A piece is a block of pinned memory and a block of device memory, of equal size. Inputs are packed from its front and
outputs from its back. A piece holds many small spans, and a large span uses many pieces. So a piece needs one copy in,
one launch and one copy out, whatever the sizes of its tensors. Each worker has a ring of a few pieces: while it packs
one, the others are being copied or computed. The worker reuses both blocks only after it has waited for the copy out,
which is the last operation on a piece.

The worker copies from the maps (which reads the disk) and into the slots with the byte copies of the CPU kernels. They
hold no interpreter lock and leave no view of a map behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import count
from typing import Any, Protocol

from ..dtypes import CODE_SIZES, CODE_TORCH
from ..errors import BackendError
from . import cpu
from .spans import Operand, Span

PIECES = 3  # one is packed, one is copied in or computed, one is copied out
PIECE = 4 << 20  # bytes: about 200 microseconds of PCIe transfer, as long as the launch of the copies and the kernel
STAGING = 256 << 20  # bytes of pinned memory of all workers together, and the same amount on the devices
_ALIGNMENT = 16  # bytes: the kernels' wide accesses
_SLIVER = 4096  # elements: a span is not divided to fill less than this
_PAGE = 4096


class Gpu(Protocol):
    """The operations that a SpanRunner needs from a device; implemented by `CudaGpu`.

    `copy` and `multi_lerp` queue work on a stream and return immediately. Streams and events have the methods of
    torch's: wait_event(event) and synchronize() of a stream, record(stream) and synchronize() of an event.
    """

    name: str
    copy_in: Any
    compute: Any
    copy_out: Any

    def pinned(self, size: int) -> Any: ...
    def memory(self, size: int) -> Any: ...
    def event(self) -> Any: ...
    def copy(self, to: Any, source: Any, stream: Any) -> None: ...
    def multi_lerp(
        self, outs: Sequence[Any], a: Sequence[Any], b: Sequence[Any], weights: Sequence[float], stream: Any
    ) -> None: ...


class CudaGpu:
    """A CUDA device with one stream each for copies in, kernels and copies out. All workers share the streams."""

    def __init__(self, name: str, backend: str) -> None:
        import torch

        self.name = name
        self._torch, self._device = torch, torch.device(name)
        self._kernels = import_module(f".{backend}", __package__)
        self._launching = threading.Lock()
        with torch.cuda.device(self._device):
            self.copy_in, self.compute, self.copy_out = (torch.cuda.Stream(self._device) for _ in range(3))

    def pinned(self, size: int) -> Any:
        with self._torch.cuda.device(self._device):  # otherwise torch also creates a context on the first device
            return self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)

    def memory(self, size: int) -> Any:
        # On the stream that uses it first: torch may return memory that earlier work on another stream still uses.
        with self._torch.cuda.stream(self.copy_in):
            return self._torch.empty(size, dtype=self._torch.uint8, device=self._device)

    def event(self) -> Any:
        return self._torch.cuda.Event(blocking=True)  # a waiting worker releases its core

    def copy(self, to: Any, source: Any, stream: Any) -> None:
        with self._torch.cuda.stream(stream):
            to.copy_(source, non_blocking=True)

    def multi_lerp(
        self, outs: Sequence[Any], a: Sequence[Any], b: Sequence[Any], weights: Sequence[float], stream: Any
    ) -> None:
        # Triton compiles at the first launch, which is not thread-safe.
        with self._launching, self._torch.cuda.stream(stream):
            self._kernels.multi_lerp(outs, a, b, weights)


class Runners:
    """Creates a SpanRunner for each worker, on the devices in turn.

    Args:
        devices: names of the devices, such as "cuda:0".
        backend: "cuda" or "triton".
        workers: the number of workers.
        outputs: the number of spans in a group.
    """

    def __init__(self, devices: Sequence[str], backend: str, workers: int, outputs: int = 1) -> None:
        with _named(f"{backend} on {', '.join(devices)}"):
            self._gpus: list[Gpu] = [CudaGpu(name, backend) for name in devices]
        self._size = piece_size(workers, outputs)
        self._turn = count()

    def __call__(self) -> SpanRunner:
        return SpanRunner(self._gpus[next(self._turn) % len(self._gpus)], self._size)


def piece_size(workers: int, outputs: int = 1) -> int:
    """Returns the bytes of a piece: all workers together use at most STAGING, if a group of one element still fits."""
    size = min(PIECE, STAGING // (PIECES * workers)) // _PAGE * _PAGE
    return max(size, (outputs + 2) * 2 * _ALIGNMENT)


class _Piece:
    """One piece of the ring, and the spans in it. The bytes from `low` to `high` are free."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self.host, self.device = gpu.pinned(size), gpu.memory(size)
        self.buffer = self.host.numpy()
        self.uploaded, self.computed, self.done = gpu.event(), gpu.event(), gpu.event()
        self.size = size
        self.clear()

    def clear(self) -> None:
        self.low, self.high = 0, self.size
        self.fills: list[Span] = []  # maps to pinned memory
        self.drains: list[Span] = []  # pinned memory to slots
        self.tensors: list[tuple[Any, Any, Any]] = []  # out, a, b
        self.weights: list[float] = []

    def room(self, item_sizes: Sequence[int]) -> int:
        """Returns how many elements of each of several tensors still fit, with every tensor aligned."""
        return (self.high - self.low - len(item_sizes) * (_ALIGNMENT - 1)) // sum(item_sizes)

    def add(self, group: Sequence[Span], operands: Sequence[Operand], first: int, n: int) -> None:
        """Adds elements `first` to `first + n` of a group. Each operand is added once."""
        at = {}
        for operand in operands:
            size = CODE_SIZES[operand.dtype]
            start = operand.offset + first * size
            self.fills.append(Span.copy(self.buffer, self.low, operand.buffer, start, n * size))
            at[_key(operand)] = self._tensor(self.low, n, operand.dtype)
            self.low = _aligned(self.low + n * size)
        for span in group:
            size = CODE_SIZES[span.out_dtype]
            self.high = (self.high - n * size) // _ALIGNMENT * _ALIGNMENT
            self.drains.append(Span.copy(span.out, span.out_offset + first * size, self.buffer, self.high, n * size))
            a, b = (at[_key(operand)] for operand in span.read)
            self.tensors.append((self._tensor(self.high, n, span.out_dtype), a, b))
            self.weights.append(span.weight)

    def _tensor(self, start: int, n: int, code: int) -> Any:
        import torch

        dtype = getattr(torch, CODE_TORCH[code])
        return self.device[start : start + n * CODE_SIZES[code]].view(dtype)


class SpanRunner:
    """Runs the spans of one worker on one device. The results are bit-identical to those of the CPU kernels.

    Args:
        gpu: the device; several workers may share it.
        piece: the size of a piece in bytes.
        pieces: the number of pieces. The runner uses `piece * pieces` bytes of pinned memory and of device memory.
    """

    def __init__(self, gpu: Gpu, piece: int = PIECE, pieces: int = PIECES) -> None:
        self._gpu, self._isa = gpu, cpu.isa()
        with _named(gpu.name):
            self._pieces = [_Piece(gpu, piece) for _ in range(pieces)]
        self._next = 0  # the oldest piece, which is packed next

    def run_groups(self, spans: Sequence[Span], group: int) -> None:
        """Runs spans like `cpu.run_groups`, and returns when all work is done. The CPU does the byte copies.

        Args:
            group: the number of consecutive spans that share their inputs, which are copied to the device once.

        Raises:
            BackendError: the device failed, or its memory is full. The message names the device. No work is pending.
        """
        copies = [span for span in spans if span.copies]
        try:
            with _named(self._gpu.name):
                for start in range(0, len(spans), group):
                    self._add([span for span in spans[start : start + group] if not span.copies])
                self._send()
                cpu.run_groups(copies, 1, self._isa)  # while the device works
                for _ in self._pieces:
                    self._receive()
                    self._turn()
        except BaseException:
            self._abandon()
            raise

    def _add(self, group: Sequence[Span]) -> None:
        if not group:
            return
        operands = list({_key(operand): operand for span in group for operand in span.read}.values())
        sizes = [CODE_SIZES[operand.dtype] for operand in operands] + [CODE_SIZES[span.out_dtype] for span in group]
        first, length = 0, group[0].elements
        while first < length:
            piece = self._pieces[self._next]
            n = min(piece.room(sizes), length - first)
            if piece.fills and n < min(_SLIVER, length - first):
                self._send()
                continue
            piece.add(group, operands, first, n)
            first += n

    def _send(self) -> None:
        """Queues the copies and the launch of the current piece, and makes room in the next one."""
        piece, gpu = self._pieces[self._next], self._gpu
        if not piece.fills:
            return
        cpu.run_groups(piece.fills, 1, self._isa)
        gpu.copy(piece.device[: piece.low], piece.host[: piece.low], gpu.copy_in)
        piece.uploaded.record(gpu.copy_in)
        gpu.compute.wait_event(piece.uploaded)
        outs, a, b = zip(*piece.tensors)
        gpu.multi_lerp(outs, a, b, piece.weights, gpu.compute)
        piece.computed.record(gpu.compute)
        gpu.copy_out.wait_event(piece.computed)
        gpu.copy(piece.host[piece.high :], piece.device[piece.high :], gpu.copy_out)
        piece.done.record(gpu.copy_out)
        self._turn()
        self._receive()

    def _turn(self) -> None:
        self._next = (self._next + 1) % len(self._pieces)

    def _receive(self) -> None:
        """Waits for the piece that is packed next, and copies its outputs to their slots."""
        piece = self._pieces[self._next]
        if piece.drains:
            piece.done.synchronize()
            cpu.run_groups(piece.drains, 1, self._isa)
            piece.clear()

    def _abandon(self) -> None:
        """Waits for pending work, so that the device does not access memory after its owner has freed it."""
        for stream in (self._gpu.copy_in, self._gpu.compute, self._gpu.copy_out):
            with suppress(Exception):  # the first failure is the one to report
                stream.synchronize()
        for piece in self._pieces:
            piece.clear()


def _key(operand: Operand) -> tuple[int, int, int]:
    """Returns a key that is equal for operands with the same elements."""
    return id(operand.buffer), operand.offset, operand.dtype


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


@contextmanager
def _named(device: str) -> Iterator[None]:
    """Turns errors of torch and CUDA into BackendError."""
    try:
        yield
    except BackendError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()
        raise BackendError(
            f"merging on {device} failed: {reason[0] if reason else type(error).__name__}",
            "Check driver and versions with `mi-kernels env`, or use device 'cpu', which gives the same bits.",
        ) from error
