"""A GPU on the CPU: streams that run late, in an order of the test's choice, as far as events let them.

What is queued runs only when somebody waits, so whoever reads before waiting, or overwrites what is still to be read,
gets other bytes than a device that ran everything at once would give.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch

from mi_kernels.backends import cpu
from mi_kernels.backends.combine_table import CombineTask
from mi_kernels.backends.cuda import chunk_for
from mi_kernels.backends.piece import Launch
from mi_kernels.backends.reference import torch_lerp as torch_reference
from mi_kernels.backends.spans import CombineSpan, Operand
from mi_kernels.dtypes import CODE_SIZES, CODE_TORCH, FROM_TORCH, code_of

ORDERS = list(permutations(("copy_in", "compute", "copy_out")))
POISON = 0xA5


class FakeEvent:
    """`recorded` and `reached` count records queued and executed; an event is complete when they are equal."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu, self.recorded, self.reached = gpu, 0, 0

    def record(self, stream: FakeStream) -> None:
        self.recorded += 1
        stream.queue.append(("record", self, self.recorded))

    def synchronize(self) -> None:
        self._gpu.run_until(lambda: self.reached >= self.recorded)


class FakeStream:
    def __init__(self, gpu: FakeGpu, name: str) -> None:
        self._gpu, self.name, self.queue = gpu, name, deque[tuple[Any, ...]]()

    def wait_event(self, event: FakeEvent) -> None:
        if (self.name, "wait") != self._gpu.forgotten:
            self.queue.append(("wait", event, event.recorded))

    def synchronize(self) -> None:
        self._gpu.run_until(lambda: not self.queue)

    def step(self) -> bool:
        """Runs the first operation. False when there is none, or it waits for an event."""
        if not self.queue:
            return False
        kind, what, number = self.queue[0]
        if kind == "wait" and what.reached < number:
            return False
        self.queue.popleft()
        if kind == "record":
            what.reached = number
        elif kind == "run":
            what()
            self._gpu.ran.append(self.name)
        return True


class FakePinning:
    """Takes the calls that pin host memory, and fills it with POISON. `pinned` has the size at each address."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.pinned: dict[int, int] = {}

    def register(self, address: int, size: int) -> None:
        ctypes.memset(address, POISON, size)
        self.pinned[address] = size
        self._gpu.blocks["pinned"].append(size)

    def wait(self) -> None:
        self._gpu.run_until(lambda: self._gpu.idle)

    def unregister(self, address: int) -> None:
        assert self._gpu.idle, "memory is unpinned under a pending copy"
        del self.pinned[address]


class FakeGpu:
    """`gpu_runner.Gpu` whose memory is the CPU's.

    Args:
        order: which stream goes first when somebody waits; it runs until an event stops it.
        forgotten: ("compute", "wait") for a stream whose waits are dropped, which must be noticed.
        fail_at: the number of the launch that fails.
        launch: the backend, called with the block and a launch; it must take CPU tensors.

    Attributes:
        ran: the streams whose operations ran, in order.
        queued: how many bytes were copied in, and how many out. copies: how many copies.
        blocks: the sizes of all memory handed out.
        launches: how many tensors each launch had, and each list of formulas.
    """

    name = "cuda:0"

    def __init__(
        self,
        order: Sequence[str] = ORDERS[0],
        forgotten: tuple[str, str] | None = None,
        fail_at: int | None = None,
        launch: Callable[[torch.Tensor, Launch], None] | None = None,
    ) -> None:
        self._launch = launch or self._reference
        self.forgotten, self.fail_at = forgotten, fail_at
        self._streams = {name: FakeStream(self, name) for name in order}
        self.copy_in, self.compute, self.copy_out = (self._streams[n] for n in ("copy_in", "compute", "copy_out"))
        self.pinning = FakePinning(self)
        self.ran: list[str] = []
        self.launches: list[int] = []
        self.queued = {"copy_in": 0, "copy_out": 0}
        self.copies = {"copy_in": 0, "copy_out": 0}
        self.blocks: dict[str, list[int]] = {"pinned": [], "device": []}
        self._lock = threading.RLock()

    def memory(self, size: int) -> torch.Tensor:
        self.blocks["device"].append(size)
        return torch.full((size,), POISON, dtype=torch.uint8)

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: FakeStream) -> None:
        assert to.numel() == source.numel()
        self.queued[stream.name] += to.numel()
        self.copies[stream.name] += 1
        stream.queue.append(("run", lambda: to.copy_(source), 0))

    def chunk_for(self, elements: int) -> int:
        return chunk_for(elements)

    def lerp(self, block: torch.Tensor, launches: Sequence[Launch], stream: FakeStream) -> None:
        for launch in launches:
            self._count((launch.offsets.weights - launch.offsets.tensors) // 32)
            stream.queue.append(("run", lambda launch=launch: self._launch(block, launch), 0))

    def combine(self, tasks: Sequence[CombineTask], stream: FakeStream) -> None:
        self._count(len(tasks))
        for task in tasks:
            assert all(x.data_ptr() % 16 == 0 for x in (task.out, *task.operands)), "wide accesses need 16 bytes"
        stream.queue.append(("run", lambda: combine_on_cpu(tasks), 0))

    def _count(self, tensors: int) -> None:
        self.launches.append(tensors)
        if len(self.launches) - 1 == self.fail_at:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")

    @staticmethod
    def _reference(block: torch.Tensor, launch: Launch) -> None:
        """Interpolates chunk by chunk, as the tables say. Stops at an address that is not in the block."""
        at = launch.offsets
        memory = block.numpy()[launch.start : launch.start + at.size]
        tensors = memory[at.tensors : at.weights].view(np.int64).reshape(-1, 4)
        weights = memory[at.weights : at.chunk_tensor].view(np.float32)
        rows = memory[at.chunk_tensor :].view(np.int32)[: launch.chunks]
        starts = memory[at.chunk_start :].view(np.int64)[: launch.chunks]
        lerps: list[list[Any]] = [[], [], [], []]
        for row, start in zip(rows.tolist(), starts.tolist()):
            if not 0 <= row < len(tensors):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            *addresses, count = tensors[row].tolist()
            for column, address, code in zip(lerps, addresses, launch.triple):
                column.append(_view(block, address, start, min(count - start, launch.chunk), code))
            lerps[3].append(float(weights[row]))
        torch_reference.multi_lerp(*lerps)

    @property
    def idle(self) -> bool:
        return not any(stream.queue for stream in self._streams.values())

    def run_until(self, done: Callable[[], bool]) -> None:
        with self._lock:
            try:
                while not done():
                    assert any(stream.step() for stream in self._streams.values()), "everything waits for ever"
            except RuntimeError:  # a device that has failed runs nothing more
                for stream in self._streams.values():
                    stream.queue.clear()
                raise


def combine_on_cpu(tasks: Sequence[CombineTask]) -> None:
    """Computes formulas on CPU tensors, as the kernels of a device would."""
    spans = []
    for task in tasks:
        out, *operands = (
            Operand(x.view(-1).view(torch.uint8).numpy(), 0, code_of(FROM_TORCH[str(x.dtype)]))
            for x in (task.out, *task.operands)
        )
        spans.append(CombineSpan(out.buffer, 0, out.dtype, operands, task.out.numel(), task.first, task.formula))
    cpu.run_combine(spans, "scalar")


def _view(block: torch.Tensor, address: int, start: int, count: int, code: int) -> torch.Tensor:
    """Elements `start` to `start + count` of the tensor at an address, which must be in the block."""
    assert address % 16 == 0, "the kernels' wide accesses need 16 bytes"
    size = CODE_SIZES[code]
    begin = address - block.data_ptr() + start * size
    if not (count > 0 and begin >= 0 and begin + count * size <= block.numel()):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return block[begin : begin + count * size].view(getattr(torch, CODE_TORCH[code]))
