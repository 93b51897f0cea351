"""Spans on a GPU that runs late: the CPU's bits, whatever order the streams take; bounded memory; failures that end."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import BackendError
from mi_kernels.backends import cpu, gpu_runner
from mi_kernels.backends.gpu_runner import PIECES, STAGING, SpanRunner, piece_size
from mi_kernels.backends.reference import torch_lerp as torch_reference
from mi_kernels.backends.spans import Span
from mi_kernels.dtypes import BYTES, CODE_SIZES

from ..support.fake_gpu import ORDERS, POISON, FakeGpu

PIECE = 8192
LAMS = (0.0, 1.0, 0.3, 0.8, -0.75, 1.5)
BYTES = BYTES


class Case:
    """Random inputs in one map each, and groups of spans into one slot for each output.

    Args:
        groups: for each group its number of elements and the codes of out, a and b.
        weights: for each output; a group of bytes is copied from a.
        both: a copy's span names both inputs; else the one that it reads twice, as `stream` has it.
    """

    def __init__(
        self,
        groups: Sequence[tuple[int, tuple[int, int, int]]],
        weights: Sequence[float],
        seed: int,
        both: bool = False,
    ) -> None:
        rng = np.random.default_rng(seed)
        sizes = CODE_SIZES
        # Maps start anywhere, as tensors in files do.
        total = sum(n * 4 + 7 for n, _ in groups) + 64
        self.inputs = []
        for _ in range(2):
            data = mmap.mmap(-1, total)
            data.write(rng.integers(0, 256, total, np.uint8).tobytes())
            self.inputs.append(data)
        self.slots = [np.full(total, 0x5A, np.uint8) for _ in weights]
        self.group, self.spans = len(weights), []
        a_at = b_at = 3
        out_at = 1
        for n, (out, a, b) in groups:
            for slot, weight in zip(self.slots, weights):
                lam = 0.0 if BYTES in (out, a, b) else weight
                x, y = (self.inputs[0], a_at, a), (self.inputs[1], b_at, b)
                if lam == 1 and not both:
                    x = y
                if lam == 0 and not both:
                    y = x
                self.spans.append(Span(slot, out_at, x[0], x[1], y[0], y[1], n, lam, out, x[2], y[2]))
            a_at, b_at, out_at = a_at + n * sizes[a] + 3, b_at + n * sizes[b] + 5, out_at + n * sizes[out]

    def run(self, gpu: FakeGpu, piece: int = PIECE) -> list[bytes]:
        SpanRunner(gpu, piece).run_groups(self.spans, self.group)
        return [slot.tobytes() for slot in self.slots]

    def expected(self) -> list[bytes]:
        before = [slot.copy() for slot in self.slots]
        cpu.run_groups(self.spans, 1, "scalar")
        results = [slot.tobytes() for slot in self.slots]
        for slot, bits in zip(self.slots, before):
            slot[:] = bits
        return results


BF16, F32, MIXED, RAW = (0, 0, 0), (2, 2, 2), (0, 2, 1), (BYTES, BYTES, BYTES)
# Tiny tensors, one that fills many pieces, bytes, mixed dtypes, nothing.
GROUPS = [*[(n, BF16) for n in range(12)], (30_001, BF16), (77, RAW), (900, MIXED), (0, F32), (5000, F32), (1, BF16)]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("weights", [(0.8,), LAMS])
def test_the_bits_are_the_cpus_in_any_order_of_the_streams(order: Sequence[str], weights: tuple[float, ...]) -> None:
    case, gpu = Case(GROUPS, weights, 1), FakeGpu(order)
    expected = case.expected()
    assert case.run(gpu) == expected
    assert gpu.idle


@pytest.mark.parametrize("stream", ["compute", "copy_out"])
def test_a_wait_that_is_left_out_is_noticed(stream: str) -> None:
    """What the test above is worth: some order gives other bits when a stream does not wait."""
    found = []
    for order in ORDERS:
        case = Case(GROUPS, (0.8,), 1)
        expected = case.expected()
        found.append(case.run(FakeGpu(order, forgotten=(stream, "wait"))) == expected)
    assert not all(found)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_slot_read_before_its_copy_is_noticed(order: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(GROUPS, (0.8,), 1)
    expected = case.expected()
    monkeypatch.setattr("tests.support.fake_gpu.FakeEvent.synchronize", lambda self: None)
    assert case.run(FakeGpu(order)) != expected
    assert POISON in case.slots[0]


def test_several_pieces_are_under_way() -> None:
    """While one piece is packed the others wait for the device: nothing runs before the ring is full."""
    gpu = FakeGpu()
    depth: list[int] = []
    original = gpu.run_until

    def run_until(done: Any) -> None:
        depth.append(sum(1 for kind, *_ in gpu.copy_in.queue if kind == "run"))
        original(done)

    gpu.run_until = run_until  # type: ignore[method-assign]
    Case([(40_000, BF16)], (0.8,), 2).run(gpu)
    assert max(depth) == PIECES


def test_a_group_uploads_its_inputs_once() -> None:
    n = 1000
    gpu = FakeGpu()
    case = Case([(n, BF16)], (0.2, 0.4, 0.6, 0.8), 3)
    expected = case.expected()
    assert case.run(gpu, 1 << 16) == expected
    assert gpu.queued["copy_in"] == 2 * 2 * n
    assert gpu.launches == [4]
    assert 4 * 2 * n <= gpu.queued["copy_out"] < 4 * 2 * n + 4 * 16


def test_many_tensors_are_one_launch() -> None:
    gpu = FakeGpu()
    case = Case([(50, BF16)] * 40, (0.3,), 4)
    expected = case.expected()
    assert case.run(gpu, 1 << 16) == expected
    assert gpu.launches == [40]


def test_copies_never_reach_the_device() -> None:
    gpu = FakeGpu()
    case = Case([(3000, BF16), (500, RAW)], (0.0, 1.0), 5)
    expected = case.expected()
    assert case.run(gpu) == expected
    assert gpu.launches == []
    assert gpu.queued == {"copy_in": 0, "copy_out": 0}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_conversion_uploads_the_side_it_reads(weight: float, both: bool) -> None:
    gpu = FakeGpu()
    case = Case([(1000, (2, 0, 0))], (weight,), 6, both)
    expected = case.expected()
    assert case.run(gpu, 1 << 16) == expected
    assert gpu.launches == [1]
    assert gpu.queued["copy_in"] == 2000


def test_memory_is_that_of_the_pieces() -> None:
    gpu = FakeGpu()
    case = Case([(200_000, BF16)], (0.8,), 7)
    runner = SpanRunner(gpu, PIECE)
    for _ in range(3):
        runner.run_groups(case.spans, 1)
    assert gpu.blocks == {"pinned": [PIECE] * PIECES, "device": [PIECE] * PIECES}


@given(workers=st.integers(1, 1028), outputs=st.integers(1, 2000))
def test_all_pieces_stay_within_their_budget(workers: int, outputs: int) -> None:
    size = piece_size(workers, outputs)
    assert size * PIECES * workers <= STAGING
    assert size <= gpu_runner.PIECE


@given(
    groups=st.lists(st.tuples(st.integers(0, 3000), st.sampled_from([BF16, F32, MIXED, RAW])), max_size=8),
    weights=st.lists(st.sampled_from(LAMS), min_size=1, max_size=3),
    order=st.sampled_from(ORDERS),
    piece=st.sampled_from([512, 4096, 1 << 16]),
    seed=st.integers(0, 1000),
)
def test_any_spans(
    groups: list[tuple[int, tuple[int, int, int]]], weights: list[float], order: Sequence[str], piece: int, seed: int
) -> None:
    case = Case(groups, weights, seed)
    expected = case.expected()
    assert case.run(FakeGpu(order), piece) == expected


def test_a_failing_launch_names_the_device_and_leaves_nothing_under_way() -> None:
    gpu = FakeGpu(fail_at=4)
    case = Case([(40_000, BF16)], (0.8,), 8)
    with pytest.raises(BackendError, match="cuda:0 failed: CUDA error: an illegal memory access") as failure:
        case.run(gpu)
    assert "more lines" not in str(failure.value)
    assert gpu.idle
    for data in case.inputs:  # no view of a map is left in the error's frames
        data.close()


def test_workers_take_the_devices_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []

    def gpu(name: str, backend: str) -> FakeGpu:
        made.append((name, backend))
        fake = FakeGpu()
        fake.name = name
        return fake

    monkeypatch.setattr(gpu_runner, "CudaGpu", gpu)
    runners = gpu_runner.Runners(["cuda:0", "cuda:1"], "triton", workers=5)
    assert made == [("cuda:0", "triton"), ("cuda:1", "triton")]
    assert [runners()._gpu.name for _ in range(5)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]


def test_a_device_without_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()

    def memory(size: int) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 4.00 MiB")

    monkeypatch.setattr(gpu, "memory", memory)
    with pytest.raises(BackendError, match=r"cuda:0 failed: CUDA out of memory[^\n]*\n.*device 'cpu'"):
        SpanRunner(gpu, PIECE)


class Recorder:
    """What torch.cuda is asked for, with the stream that is current: CPU tensors stand for all others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: list[Any] = []
        self.calls: list[tuple[Any, ...]] = []
        empty = torch.empty

        @contextmanager
        def entered(what: Any) -> Iterator[None]:
            self.now.append(what)
            yield
            self.now.pop()

        def recorded_empty(size: int, **options: Any) -> Any:
            self.calls.append(("empty", self.now[-1], options.pop("pin_memory", options.pop("device", None))))
            return empty(size, **options)

        streams = iter(["in", "kernels", "out"])
        monkeypatch.setattr(torch, "empty", recorded_empty)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(streams))
        monkeypatch.setattr(torch.cuda, "stream", entered)
        monkeypatch.setattr(torch.cuda, "device", entered)
        monkeypatch.setattr(torch_reference, "multi_lerp", lambda *given: self.calls.append((*given, self.now[-1])))


def test_work_on_a_real_device_is_queued_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Recorder(monkeypatch)
    gpu, device = gpu_runner.CudaGpu("cuda:1", "reference.torch_lerp"), torch.device("cuda:1")
    assert (gpu.copy_in, gpu.compute, gpu.copy_out) == ("in", "kernels", "out")
    gpu.pinned(64)
    gpu.memory(64)
    assert seen.calls == [("empty", device, True), ("empty", "in", device)]
    gpu.multi_lerp(["o"], ["a"], ["b"], [0.5], gpu.compute)
    assert seen.calls[-1] == (["o"], ["a"], ["b"], [0.5], "kernels")

    class Target:
        def copy_(self, source: str, non_blocking: bool) -> None:
            seen.calls.append((source, non_blocking, seen.now[-1]))

    gpu.copy(Target(), "bytes", gpu.copy_out)
    assert seen.calls[-1] == ("bytes", True, "out")
    assert seen.now == []
