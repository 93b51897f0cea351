"""Spans on a GPU: from memory maps through pinned memory to the device and back, a piece at a time.

    map --worker--> pinned --copy_in--> device --compute--> device --copy_out--> pinned --worker--> slot

A piece is a block of pinned memory and one of the device, of equal size. Inputs are packed from its front, outputs from
its back, many spans to a piece and a large span over many; so a piece is one copy in, one launch and one copy out
whatever the sizes of its tensors. Each worker has a ring of a few pieces: while it packs one, others are on their way.
Both blocks are reused only after the worker has waited for the copy out, which comes after everything else.

The worker's own copies, from the maps (where the disk is read) and into the slots, are the CPU kernels' byte copies:
they hold no interpreter lock and leave no view of a map behind.
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

PIECES = 3  # one is packed, one is on its way in or computed, one comes back
PIECE = 4 << 20  # a third of what a chunk of 4 MiB moves; some 200 microseconds of PCIe, against as much for launching
STAGING = 256 << 20  # pinned memory of all workers together, and as much on the devices
_ALIGNMENT = 16  # bytes: the kernels' wide accesses
_SLIVER = 4096  # elements: less is not worth cutting a span for
_PAGE = 4096


class Gpu(Protocol):
    """What a SpanRunner needs of a device; `CudaGpu` is the one there is.

    `copy` and `multi_lerp` are queued on a stream and return at once. Streams have wait_event(event) and
    synchronize(), events record(stream) and synchronize(), as torch's have.
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
    """A CUDA device with a stream for each of its engines: copies in, kernels, copies out. All workers share them."""

    def __init__(self, name: str, backend: str) -> None:
        import torch

        self.name = name
        self._torch, self._device = torch, torch.device(name)
        self._kernels = import_module(f".{backend}", __package__)
        self._launching = threading.Lock()
        with torch.cuda.device(self._device):
            self.copy_in, self.compute, self.copy_out = (torch.cuda.Stream(self._device) for _ in range(3))

    def pinned(self, size: int) -> Any:
        with self._torch.cuda.device(self._device):  # else the first device gets a context too
            return self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)

    def memory(self, size: int) -> Any:
        # On the stream that uses it first: torch may hand out memory that earlier work on a stream still uses.
        with self._torch.cuda.stream(self.copy_in):
            return self._torch.empty(size, dtype=self._torch.uint8, device=self._device)

    def event(self) -> Any:
        return self._torch.cuda.Event(blocking=True)  # a worker that waits leaves its core to others

    def copy(self, to: Any, source: Any, stream: Any) -> None:
        with self._torch.cuda.stream(stream):
            to.copy_(source, non_blocking=True)

    def multi_lerp(
        self, outs: Sequence[Any], a: Sequence[Any], b: Sequence[Any], weights: Sequence[float], stream: Any
    ) -> None:
        # Triton compiles at the first launch, and not for several threads at once.
        with self._launching, self._torch.cuda.stream(stream):
            self._kernels.multi_lerp(outs, a, b, weights)


class Runners:
    """Makes a SpanRunner for each worker; the devices take turns.

    Args:
        devices: their names, "cuda:0" and so on.
        backend: "cuda" or "triton".
        workers: how many there will be.
        outputs: spans in a group.
    """

    def __init__(self, devices: Sequence[str], backend: str, workers: int, outputs: int = 1) -> None:
        with _named(f"{backend} on {', '.join(devices)}"):
            self._gpus: list[Gpu] = [CudaGpu(name, backend) for name in devices]
        self._size = piece_size(workers, outputs)
        self._turn = count()

    def __call__(self) -> SpanRunner:
        return SpanRunner(self._gpus[next(self._turn) % len(self._gpus)], self._size)


def piece_size(workers: int, outputs: int = 1) -> int:
    """Bytes of a piece: all workers together stay within STAGING, where an element of every output still fits."""
    size = min(PIECE, STAGING // (PIECES * workers)) // _PAGE * _PAGE
    return max(size, (outputs + 2) * 2 * _ALIGNMENT)


class _Piece:
    """One block of the ring, and the spans in it. `low` and `high`: the bytes between them are free."""

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
        """How many elements of several tensors still fit, each tensor aligned."""
        return (self.high - self.low - len(item_sizes) * (_ALIGNMENT - 1)) // sum(item_sizes)

    def add(self, group: Sequence[Span], operands: Sequence[Operand], first: int, n: int) -> None:
        """Elements first to first + n of a group; each of its operands once."""
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
    """Runs the spans of one worker on one device, with the bits of the CPU kernels.

    Args:
        gpu: the device; several workers may share it.
        piece, pieces: the size of a piece in bytes, and how many there are: as much pinned memory, and as much on the
            device.
    """

    def __init__(self, gpu: Gpu, piece: int = PIECE, pieces: int = PIECES) -> None:
        self._gpu, self._isa = gpu, cpu.isa()
        with _named(gpu.name):
            self._pieces = [_Piece(gpu, piece) for _ in range(pieces)]
        self._next = 0  # the oldest piece, which is the one to be packed

    def run_groups(self, spans: Sequence[Span], group: int) -> None:
        """As `cpu.run_groups`; done when it returns. Bytes that are only copied stay on the CPU.

        Args:
            group: so many consecutive spans share their inputs, which reach the device once.

        Raises:
            BackendError: the device failed, or its memory is full; names it. Nothing is under way any more.
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
        """Sends the piece that is being packed on its way, and makes room in the next one."""
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
        """Waits for the piece that is packed next, and takes what came back with it."""
        piece = self._pieces[self._next]
        if piece.drains:
            piece.done.synchronize()
            cpu.run_groups(piece.drains, 1, self._isa)
            piece.clear()

    def _abandon(self) -> None:
        """Waits for what is under way, so that nothing touches memory that its owner takes back."""
        for stream in (self._gpu.copy_in, self._gpu.compute, self._gpu.copy_out):
            with suppress(Exception):  # the failure itself is what is told
                stream.synchronize()
        for piece in self._pieces:
            piece.clear()


def _key(operand: Operand) -> tuple[int, int, int]:
    """Equal keys are the same elements."""
    return id(operand.buffer), operand.offset, operand.dtype


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


@contextmanager
def _named(device: str) -> Iterator[None]:
    """Errors of torch and CUDA as ours."""
    try:
        yield
    except BackendError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()
        raise BackendError(
            f"merging on {device} failed: {reason[0] if reason else type(error).__name__}",
            "`mi-kernels env` shows driver and versions; device 'cpu' gives the same bits.",
        ) from error
