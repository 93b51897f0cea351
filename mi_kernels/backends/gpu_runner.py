"""Run spans on GPUs: from memory maps through pinned memory to the device and back, one piece for each chunk of a file.

    map --worker--> pinned --copy_in--> device --compute--> device --copy_out--> pinned --worker--> slot

A piece is a block of pinned memory and a block of device memory, of equal size, which holds the operands, the tables
and the outputs of a chunk (`piece.py`). So a chunk needs one copy in, one launch for each combination of dtypes, and
one copy out, whatever the sizes of its tensors. A worker takes a free piece, packs it, waits for the last copy, unpacks
it, and gives it back. Meanwhile the pieces of other workers are copied and computed.

The worker copies from the maps (which reads the disk) and into the slots with the byte copies of the CPU kernels. They
hold no interpreter lock and leave no view of a map behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from itertools import cycle
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from ..dtypes import CODE_SIZES, CODE_TORCH
from ..errors import BackendError
from . import cpu
from .combine_table import CombineTask
from .launches import Kernels
from .piece import Group, Launch, Layout, Placed, parts
from .pinned import CudaPinning, PinnedArena, Pinning
from .spans import CombineSpan, Span

if TYPE_CHECKING:
    import torch

STAGING = 256 << 20  # bytes of pinned memory of all workers together, and the same amount on the devices together
_OVERLAP = 4  # pieces: one is packed, one is copied in, one is computed or copied out, one is unpacked


class Gpu(Protocol):
    """The operations that a SpanRunner needs from a device; implemented by `CudaGpu`.

    `copy`, `lerp` and `combine` queue work on a stream and return immediately. Streams and events have the methods of
    torch's: wait_event(event) and synchronize() of a stream, record(stream) and synchronize() of an event.

    Attributes:
        pinning: pins host memory for the device.
    """

    name: str
    pinning: Pinning
    copy_in: Any
    compute: Any
    copy_out: Any

    def memory(self, size: int) -> torch.Tensor: ...
    def event(self) -> Any: ...
    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Any) -> None: ...

    def chunk_for(self, elements: int) -> int:
        """Returns the elements in a chunk of a launch over `elements` in total."""

    def lerp(self, block: torch.Tensor, launches: Sequence[Launch], stream: Any) -> None:
        """Interpolates what the tables of the launches describe, which lie in `block`."""

    def combine(self, tasks: Sequence[CombineTask], stream: Any) -> None:
        """Computes formulas."""


class CudaGpu:
    """A CUDA device with one stream each for copies in, kernels and copies out. All workers share the streams."""

    def __init__(self, name: str, backend: str) -> None:
        import torch

        self.name = name
        self._torch, self._device, self._backend = torch, torch.device(name), backend
        self._kernels: Kernels = import_module(f".{backend}", __package__)
        self._launching = threading.Lock()
        self.pinning: Pinning = CudaPinning([self._device])
        self._kernels.load(self._device)
        with torch.cuda.device(self._device):
            self.copy_in, self.compute, self.copy_out = (torch.cuda.Stream(self._device) for _ in range(3))

    def memory(self, size: int) -> torch.Tensor:
        # On the stream that uses it first: torch may return memory that earlier work on another stream still uses.
        with self._torch.cuda.stream(self.copy_in):
            return self._torch.empty(size, dtype=self._torch.uint8, device=self._device)

    def event(self) -> Any:
        return self._torch.cuda.Event(blocking=True)  # a waiting worker releases its core

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Any) -> None:
        with self._torch.cuda.stream(stream):
            to.copy_(source, non_blocking=True)

    def chunk_for(self, elements: int) -> int:
        return self._kernels.chunk_for(elements)

    def lerp(self, block: torch.Tensor, launches: Sequence[Launch], stream: Any) -> None:
        # Triton compiles at the first launch, which is not thread-safe.
        with self._launching, self._torch.cuda.stream(stream):
            for launch in launches:
                self._kernels.launch(self._device, launch.table(block), launch.triple)

    def combine(self, tasks: Sequence[CombineTask], stream: Any) -> None:
        kernels = import_module(f".{self._backend}_combine", __package__)
        with self._launching, self._torch.cuda.stream(stream):
            kernels.multi_combine(tasks)


class _Piece:
    """A block of pinned memory and a block of device memory, and the events of its work."""

    def __init__(self, gpu: Gpu, host: torch.Tensor, device: torch.Tensor) -> None:
        self.gpu, self.host, self.device = gpu, host, device
        self.buffer, self.base = host.numpy(), device.data_ptr()
        self.uploaded, self.computed, self.done = gpu.event(), gpu.event(), gpu.event()

    def tensor(self, start: int, elements: int, code: int) -> torch.Tensor:
        """Returns elements of the device's block as a tensor."""
        import torch

        dtype: torch.dtype = getattr(torch, CODE_TORCH[code])
        return self.device[start : start + elements * CODE_SIZES[code]].view(dtype)

    def task(self, placed: Placed, span: CombineSpan) -> CombineTask:
        part, group = placed.part, placed.part.group
        operands = [self.tensor(at, part.elements, x.dtype) for at, x in zip(placed.operands, group.operands)]
        out = self.tensor(placed.outs[0], part.elements, span.out_dtype)
        return CombineTask(out, operands, span.first + part.first, span.formula)


class SpanRunner:
    """Runs the spans of all workers on GPUs. The results are bit-identical to those of the CPU kernels.

    A context: leaving it, or `close`, releases the memory. Any thread may run spans.

    Args:
        gpus: the devices; pieces are on them in turn.
        size: the size of a piece in bytes; see `piece.least_size`.
        pieces: the number of pieces. The runner uses `size * pieces` bytes of pinned memory, and of device memory.

    Raises:
        BackendError: the memory of the host or of a device is full.
    """

    def __init__(self, gpus: Sequence[Gpu], size: int, pieces: int) -> None:
        import torch

        self._gpus, self._size, self._isa = gpus, size, cpu.isa()
        self._free: SimpleQueue[_Piece] = SimpleQueue()
        with ExitStack() as stack, _named(", ".join(gpu.name for gpu in gpus)):
            # Memory that is pinned for one device is pinned for all.
            arena = stack.enter_context(PinnedArena(size * pieces, gpus[0].pinning))
            for gpu, _ in zip(cycle(gpus), range(pieces)):
                self._free.put(_Piece(gpu, arena.tensor((size,), torch.uint8), gpu.memory(size)))
            self._arena = stack.pop_all()

    def run_groups(self, spans: Sequence[Span], group: int) -> None:
        """Runs spans like `cpu.run_groups`, and returns when all work is done. The CPU does the byte copies.

        Args:
            group: the number of consecutive spans that share their inputs, which are copied to the device once.

        Raises:
            BackendError: the device failed. The message names the device. No work is pending.
        """
        lerps = ([s for s in spans[i : i + group] if not s.copies] for i in range(0, len(spans), group))
        self._run([Group.of_lerps(part) for part in lerps if part], [span for span in spans if span.copies])

    def run_combine(self, spans: Sequence[CombineSpan]) -> None:
        """Runs spans like `cpu.run_combine`, and returns when all work is done.

        Raises:
            BackendError: the device failed. The message names the device. No work is pending.
        """
        self._run([Group.of_combine(span) for span in spans], [])

    def close(self) -> None:
        """Releases the memory. No spans may be running."""
        self._free = SimpleQueue()
        self._arena.close()

    def __enter__(self) -> SpanRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, groups: Sequence[Group], copies: list[Span]) -> None:
        work = [Layout(piece, self._size) for piece in parts(groups, self._size)]
        if not work:
            cpu.run_groups(copies, 1, self._isa)
            return
        piece = self._free.get()
        try:
            with _named(piece.gpu.name):
                for layout in work:
                    self._send(piece, layout)
                    cpu.run_groups(copies, 1, self._isa)  # while the device works
                    copies = []
                    piece.done.synchronize()
                    cpu.run_groups(layout.drains(piece.buffer), 1, self._isa)
        except BaseException:
            # The device must not access the block after its next owner has packed it.
            for stream in (piece.gpu.copy_in, piece.gpu.compute, piece.gpu.copy_out):
                with suppress(Exception):  # the first failure is the one to report
                    stream.synchronize()
            raise
        finally:
            self._free.put(piece)

    def _send(self, piece: _Piece, layout: Layout) -> None:
        """Packs a piece, and queues its copies and its launches."""
        gpu = piece.gpu
        cpu.run_groups(layout.fills(piece.buffer), 1, self._isa)
        launches = layout.add_tables(piece.buffer, piece.base, gpu.chunk_for)
        gpu.copy(piece.device[: layout.end], piece.host[: layout.end], gpu.copy_in)
        piece.uploaded.record(gpu.copy_in)
        gpu.compute.wait_event(piece.uploaded)
        if launches:
            gpu.lerp(piece.device, launches, gpu.compute)
        combines = [(placed, placed.part.group.combine) for placed in layout.placed]
        tasks = [piece.task(placed, span) for placed, span in combines if span is not None]
        if tasks:
            gpu.combine(tasks, gpu.compute)
        piece.computed.record(gpu.compute)
        gpu.copy_out.wait_event(piece.computed)
        gpu.copy(piece.host[layout.start :], piece.device[layout.start :], gpu.copy_out)
        piece.done.record(gpu.copy_out)


def runner_for(devices: Sequence[str], backend: str, workers: int, needed: int, least: int) -> SpanRunner:
    """Creates a SpanRunner that uses at most STAGING bytes of pinned memory, and the same amount on the devices.

    Args:
        devices: names of the devices, such as "cuda:0".
        backend: "cuda" or "triton".
        workers: the number of threads that run spans.
        needed: the size of a piece that holds a chunk. A chunk is cut into equal parts if this is too much.
        least: the smallest size of a piece.

    Raises:
        BackendError: a device cannot be used, or memory is full.
    """
    with _named(f"{backend} on {', '.join(devices)}"):
        gpus: list[Gpu] = [CudaGpu(name, backend) for name in devices]
    size, pieces = staging(workers, needed, least, len(devices))
    return SpanRunner(gpus, size, pieces)


def staging(workers: int, needed: int, least: int, devices: int = 1) -> tuple[int, int]:
    """Returns the size of a piece and the number of pieces; see `runner_for`."""
    wanted = min(workers, max(_OVERLAP, devices))
    size = max(min(needed, STAGING // wanted // 4096 * 4096), least)
    return size, max(min(workers, STAGING // size), 1)


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
            "Check driver and versions with `mi-kernels env`, or use `device='cpu'`, which gives the same bits.",
        ) from error
