"""A GPU on the CPU: streams that run late, in an order of the test's choice, as far as events let them.

What is queued runs only when somebody waits, so whoever reads before waiting, or overwrites what is still to be read,
gets other bytes than a device that ran everything at once would give.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import torch

from mi_kernels.backends.reference import torch_lerp as torch_reference

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


class FakeGpu:
    """`gpu_runner.Gpu` whose memory is the CPU's.

    Args:
        order: which stream goes first when somebody waits; it runs until an event stops it.
        forgotten: ("compute", "wait") for a stream whose waits are dropped, which must be noticed.
        fail_at: the number of the launch that fails.
        multi_lerp: the backend; it must take CPU tensors.

    Attributes:
        ran: the streams whose operations ran, in order.
        queued: how many bytes were copied in, and how many out. blocks: the sizes of all memory handed out.
        launches: how many tensors each launch had.
    """

    name = "cuda:0"

    def __init__(
        self,
        order: Sequence[str] = ORDERS[0],
        forgotten: tuple[str, str] | None = None,
        fail_at: int | None = None,
        multi_lerp: Callable[..., None] = torch_reference.multi_lerp,
    ) -> None:
        self._multi_lerp = multi_lerp
        self.forgotten, self.fail_at = forgotten, fail_at
        self._streams = {name: FakeStream(self, name) for name in order}
        self.copy_in, self.compute, self.copy_out = (self._streams[n] for n in ("copy_in", "compute", "copy_out"))
        self.ran: list[str] = []
        self.launches: list[int] = []
        self.queued = {"copy_in": 0, "copy_out": 0}
        self.blocks: dict[str, list[int]] = {"pinned": [], "device": []}
        self._lock = threading.RLock()

    def pinned(self, size: int) -> Any:
        self.blocks["pinned"].append(size)
        return torch.full((size,), POISON, dtype=torch.uint8)

    def memory(self, size: int) -> Any:
        self.blocks["device"].append(size)
        return torch.full((size,), POISON, dtype=torch.uint8)

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def copy(self, to: Any, source: Any, stream: FakeStream) -> None:
        assert to.numel() == source.numel()
        self.queued[stream.name] += to.numel()
        stream.queue.append(("run", lambda: to.copy_(source), 0))

    def multi_lerp(
        self, outs: Sequence[Any], a: Sequence[Any], b: Sequence[Any], weights: Sequence[float], stream: FakeStream
    ) -> None:
        assert len({x.dtype for x in outs}) > 0
        assert all(x.data_ptr() % 16 == 0 for x in (*outs, *a, *b)), "the kernels' wide accesses need 16 bytes"
        self.launches.append(len(outs))
        if len(self.launches) - 1 == self.fail_at:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")
        stream.queue.append(("run", lambda: self._multi_lerp(outs, a, b, weights), 0))

    @property
    def idle(self) -> bool:
        return not any(stream.queue for stream in self._streams.values())

    def run_until(self, done: Callable[[], bool]) -> None:
        with self._lock:
            while not done():
                assert any(stream.step() for stream in self._streams.values()), "everything waits for ever"
