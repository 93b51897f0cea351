"""When a chunk table may be read, and how long it is kept: on a fake GPU whose streams run as late as possible."""

from __future__ import annotations

import contextlib
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mi_kernels.backends import device_table
from mi_kernels.backends.chunk_table import Offsets
from mi_kernels.backends.device_table import DeviceTable

from ..support.fake_gpu import POISON, FakeGpu

CONTENT = 7


class Memory:
    """Memory of the device.

    Attributes:
        bytes: POISON until the upload has run.
        readers: the streams, besides that of the upload, whose work the allocator waits for before it gives the memory
            to somebody else.
    """

    def __init__(self) -> None:
        self.bytes = torch.full((64,), POISON, dtype=torch.uint8)
        self.readers: list[Any] = []

    def record_stream(self, stream: Any) -> None:
        self.readers.append(stream)


class Device:
    """A table whose upload is queued on the stream `copy_in`."""

    def __init__(self) -> None:
        self.gpu = FakeGpu(("compute", "copy_in", "copy_out"))  # work that does not wait runs first
        self.memory, ready = Memory(), self.gpu.event()
        self.gpu.copy_in.queue.append(("run", lambda: self.memory.bytes.fill_(CONTENT), 0))
        ready.record(self.gpu.copy_in)
        self.table = DeviceTable(self.memory, Offsets(0, 0, 0, 0, 64), 1, 16, self.gpu.copy_in, ready)

    def read(self, stream: Any) -> int:
        """Returns what work on `stream` reads from the table."""
        found: list[int] = []
        stream.queue.append(("run", lambda: found.append(int(self.memory.bytes[0])), 0))
        stream.synchronize()
        return found[0]


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list whose only element says whether the current stream is captured. Frees the tables of graphs at the end."""
    state = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[0])
    monkeypatch.setattr(device_table, "_captured", {})
    return state


@pytest.mark.usefixtures("capturing")
def test_another_stream_waits_for_the_upload_and_keeps_the_memory() -> None:
    device = Device()
    device_table.acquire(device.table, device.gpu.compute)
    assert device.memory.bytes[0] == POISON, "the caller does not wait"
    assert device.read(device.gpu.compute) == CONTENT
    assert device.memory.readers == [device.gpu.compute]


@pytest.mark.usefixtures("capturing")
def test_the_stream_of_the_upload_has_nothing_to_wait_for() -> None:
    device = Device()
    device_table.acquire(device.table, device.gpu.copy_in)
    assert len(device.gpu.copy_in.queue) == 2
    assert device.read(device.gpu.copy_in) == CONTENT
    assert device.memory.readers == []


def test_the_table_of_a_graph_is_kept_until_the_process_ends(capturing: list[bool]) -> None:
    """The upload is not part of the graph: it is finished before, and its memory is never reused."""
    device = Device()
    capturing[0] = True
    device_table.acquire(device.table, device.gpu.compute)
    assert device.memory.bytes[0] == CONTENT
    assert not device.gpu.compute.queue
    kept = weakref.ref(device.memory)
    del device
    gc.collect()
    assert kept() is not None


@pytest.mark.usefixtures("capturing")
def test_a_table_that_is_captured_again_is_kept_once(capturing: list[bool]) -> None:
    device = Device()
    capturing[0] = True
    for _ in range(3):
        device_table.acquire(device.table, device.gpu.compute)
    assert list(device_table._captured.values()) == [device.table]


def test_uploads_during_a_capture_use_a_stream_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.Stream() may return the captured stream: it has 32 for all who ask."""
    asked: list[Any] = []

    class Driver:
        def cuStreamCreate(self, handle: Any, flags: int) -> int:
            asked.append(flags)
            handle._obj.value = 0x5000 + len(asked)
            return 0

    monkeypatch.setattr(device_table.ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: (handle, device))
    monkeypatch.setattr(torch.cuda, "Stream", None)
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    try:
        device_table.own_stream.cache_clear()
        assert device_table.own_stream(first) == (0x5001, first)
        assert device_table.own_stream(second) == (0x5002, second)
        assert device_table.own_stream(first) == (0x5001, first)
        assert asked == [1, 1]
    finally:
        device_table.own_stream.cache_clear()


def test_what_a_graph_reads_is_copied_once_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    stream = SimpleNamespace(synchronize=lambda: waited.append("copied"))
    monkeypatch.setattr(device_table, "own_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(device_table, "_kept", {})
    cpu, values = torch.device("cpu"), torch.tensor([0.5, 0.25])
    first = device_table.kept(cpu, values)
    assert device_table.kept(cpu, values.clone()) is first
    assert device_table.kept(cpu, values + 1) is not first
    assert waited == ["copied"] * 2
    assert len(device_table._kept) == 2


def test_repeated_tables_are_built_once() -> None:
    """Tables with any different argument are different."""
    cpu = torch.device("cpu")
    arguments = {
        "chunk": 16,
        "addresses": np.arange(0, 96, 16, dtype=np.int64).tobytes(),
        "counts": np.array([40, 3], np.int64).tobytes(),
        "weights": np.array([0.25, 0.5], np.float32).tobytes(),
    }
    changed = {
        "chunk": 32,
        "addresses": np.arange(16, 112, 16, dtype=np.int64).tobytes(),
        "counts": np.array([41, 3], np.int64).tobytes(),
        "weights": np.array([0.25, 0.75], np.float32).tobytes(),
    }
    first = device_table.upload(cpu, **arguments)  # type: ignore[arg-type]
    assert device_table.upload(cpu, **arguments) is first  # type: ignore[arg-type]
    for name, value in changed.items():
        other = device_table.upload(cpu, **{**arguments, name: value})  # type: ignore[arg-type]
        assert (other.chunk, other.packed.tolist()) != (first.chunk, first.packed.tolist()), name
