"""Spans on a fake GPU that runs late: the bits of the CPU for every order of the streams, bounded memory, failures."""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import BackendError
from mi_kernels._cpu import Formula
from mi_kernels.backends import cpu, gpu_runner
from mi_kernels.backends.chunk_table import Offsets
from mi_kernels.backends.combine_table import CombineTask
from mi_kernels.backends.device_table import Triple
from mi_kernels.backends.gpu_runner import STAGING, SpanRunner, staging
from mi_kernels.backends.piece import Launch, Space, least_size, size_for
from mi_kernels.backends.spans import CombineSpan, Operand, Span
from mi_kernels.dtypes import BYTES, CODE_SIZES
from mi_kernels.merge.plan import plan_buffers

from ..support.fake_gpu import ORDERS, POISON, FakeGpu
from ..support.formulas import random_formula

PIECE = 16384
LAMS = (0.0, 1.0, 0.3, 0.8, -0.75, 1.5)


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
        # Maps start at any offset, like tensors in files.
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

    def run(self, gpu: FakeGpu, piece: int = PIECE, pieces: int = 1) -> list[bytes]:
        with SpanRunner([gpu], piece, pieces) as runner:
            runner.run_groups(self.spans, self.group)
        return [slot.tobytes() for slot in self.slots]

    def expected(self) -> list[bytes]:
        before = [slot.copy() for slot in self.slots]
        cpu.run_groups(self.spans, 1, "scalar")
        results = [slot.tobytes() for slot in self.slots]
        for slot, bits in zip(self.slots, before):
            slot[:] = bits
        return results


BF16, F32, MIXED, RAW = (0, 0, 0), (2, 2, 2), (0, 2, 1), (BYTES, BYTES, BYTES)
# Tiny tensors, one that fills many pieces, bytes, mixed dtypes, and no tensor.
GROUPS = [*[(n, BF16) for n in range(12)], (30_001, BF16), (77, RAW), (900, MIXED), (0, F32), (5000, F32), (1, BF16)]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("weights", [(0.8,), LAMS])
def test_results_are_bit_identical_to_the_cpu_in_any_order_of_the_streams(
    order: Sequence[str], weights: tuple[float, ...]
) -> None:
    case, gpu = Case(GROUPS, weights, 1), FakeGpu(order)
    expected = case.expected()
    assert case.run(gpu) == expected
    assert gpu.idle


@pytest.mark.parametrize("stream", ["compute", "copy_out"])
def test_a_missing_wait_changes_the_result(stream: str) -> None:
    """Shows that the test above can fail: without a wait, some order gives other bits."""
    found = []
    for order in ORDERS:
        case = Case(GROUPS, (0.8,), 1)
        expected = case.expected()
        try:
            found.append(case.run(FakeGpu(order, forgotten=(stream, "wait"))) == expected)
        except BackendError:  # a launch whose table has not arrived
            found.append(False)
    assert not all(found)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_reading_a_slot_before_its_copy_changes_the_result(
    order: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(GROUPS, (0.8,), 1)
    expected = case.expected()
    monkeypatch.setattr("tests.support.fake_gpu.FakeEvent.synchronize", lambda self: None)
    assert case.run(FakeGpu(order)) != expected
    assert POISON in case.slots[0]


def chunk_case(elements: int, outputs: int = 1) -> Case:
    """Spans of one chunk of a shard: a large tensor, a few small ones."""
    return Case([(elements - 3 * 2560, BF16), *[(2560, BF16)] * 3], LAMS[2 : 2 + outputs], 2)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("threads", [1, 12])
def test_a_chunk_is_one_piece(threads: int, outputs: int) -> None:
    """One copy in, with the table, one launch, one copy out: with the chunks and the workers of a merge."""
    buffers = plan_buffers(threads, None, outputs)
    elements = buffers.chunk // 2
    needed = size_for(4 * Space.of([0, 0], [0] * outputs).fixed + elements * 2 * (2 + outputs))
    size, pieces = staging(buffers.workers, needed, 0)
    gpu, case = FakeGpu(), chunk_case(elements, outputs)
    expected = case.expected()
    assert case.run(gpu, size, pieces) == expected
    assert gpu.copies == {"copy_in": 1, "copy_out": 1}
    assert gpu.launches == [4 * outputs]


def test_a_chunk_that_does_not_fit_is_cut_into_equal_parts() -> None:
    gpu, case = FakeGpu(), chunk_case(100_000)
    expected, sizes = case.expected(), []
    copy = gpu.copy

    def recorded(to: Any, source: Any, stream: Any) -> None:
        if stream is gpu.copy_out:
            sizes.append(to.numel())
        copy(to, source, stream)

    gpu.copy = recorded  # type: ignore[method-assign]
    assert case.run(gpu, 3 * 100_000 * 2 // 4) == expected
    assert len(sizes) == 5  # 600,000 bytes do not fit into four pieces of 150,000 bytes with tables
    assert max(sizes) - min(sizes) < 1024


def run_at_once(runner: SpanRunner, cases: Sequence[Case]) -> None:
    """Runs each case in a thread of its own."""
    threads = [threading.Thread(target=runner.run_groups, args=(case.spans, 1)) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_pieces_of_several_workers_are_in_flight() -> None:
    """While one worker waits, others pack: their work is queued, in the pieces of all devices."""
    gpus = [FakeGpu(), FakeGpu()]
    gpus[1].name = "cuda:1"
    barrier, cases = threading.Barrier(4), [Case(GROUPS, (0.8,), seed) for seed in range(4)]
    expected = [case.expected() for case in cases]
    for gpu in gpus:
        original = gpu.run_until

        def run_until(done: Any, original: Any = original) -> None:
            barrier.wait(60)  # all four have queued their work
            original(done)

        gpu.run_until = run_until  # type: ignore[method-assign]
    with SpanRunner(gpus, 1 << 20, 4) as runner:
        run_at_once(runner, cases)
        assert [[slot.tobytes() for slot in case.slots] for case in cases] == expected
        assert [len(gpu.blocks["device"]) for gpu in gpus] == [2, 2]
        assert [gpu.copies["copy_in"] for gpu in gpus] == [2, 2]
        barrier.abort()
        for gpu in gpus:
            gpu.run_until = lambda done: None  # type: ignore[method-assign]


def test_more_workers_than_pieces_wait_for_one() -> None:
    gpu, cases = FakeGpu(), [Case(GROUPS, (0.8,), seed) for seed in range(6)]
    expected = [case.expected() for case in cases]
    with SpanRunner([gpu], PIECE, 2) as runner:
        run_at_once(runner, cases)
    assert [[slot.tobytes() for slot in case.slots] for case in cases] == expected
    assert gpu.blocks["device"] == [PIECE] * 2


def test_a_group_uploads_its_inputs_once() -> None:
    n = 1000
    gpu = FakeGpu()
    case = Case([(n, BF16)], (0.2, 0.4, 0.6, 0.8), 3)
    expected = case.expected()
    assert case.run(gpu, 1 << 16) == expected
    table = 4 * (4 * 8 + 4) + 4 * 4 + 4 * 8  # rows and weights of four outputs, tensor and start of four chunks
    assert gpu.queued["copy_in"] == 2 * 2 * n + table
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
    assert gpu.queued["copy_in"] == 2000 + 32 + 3 * 16  # and the table


def test_only_the_pieces_use_memory_and_it_is_pinned_once() -> None:
    """torch's allocator would round each block of pinned memory up to a power of two."""
    gpu = FakeGpu()
    case = Case([(200_000, BF16)], (0.8,), 7)
    with SpanRunner([gpu], 5 * 4096, 3) as runner:
        for _ in range(3):
            runner.run_groups(case.spans, 1)
        assert list(gpu.pinning.pinned.values()) == [3 * 5 * 4096]
    assert gpu.pinning.pinned == {}
    assert gpu.blocks == {"pinned": [3 * 5 * 4096], "device": [5 * 4096] * 3}


@given(
    workers=st.integers(1, 1028),
    needed=st.integers(1, 1 << 30),
    least=st.integers(1, 1 << 19),
    devices=st.integers(1, 8),
)
def test_all_pieces_stay_within_their_budget(workers: int, needed: int, least: int, devices: int) -> None:
    size, pieces = staging(workers, needed, least, devices)
    assert size * pieces <= STAGING
    assert size >= least
    assert pieces >= min(workers, max(4, devices))  # enough to copy, compute and pack at the same time
    assert size >= min(needed, 32 << 20)


@given(
    groups=st.lists(st.tuples(st.integers(0, 3000), st.sampled_from([BF16, F32, MIXED, RAW])), max_size=8),
    weights=st.lists(st.sampled_from(LAMS), min_size=1, max_size=3),
    order=st.sampled_from(ORDERS),
    pages=st.integers(0, 16),
    seed=st.integers(0, 1000),
)
def test_any_spans(
    groups: list[tuple[int, tuple[int, int, int]]], weights: list[float], order: Sequence[str], pages: int, seed: int
) -> None:
    case = Case(groups, weights, seed)
    expected = case.expected()
    least = least_size(Space.of([2, 2], [2] * len(weights)))
    assert case.run(FakeGpu(order), least + 4096 * pages) == expected


class CombineCase:
    """Random models in one map each, and spans of random formulas into one slot."""

    def __init__(self, sizes: Sequence[int], models: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        total = sum(sizes) * 4 + 64
        self.inputs = [mmap.mmap(-1, total) for _ in range(models)]
        for data in self.inputs:
            data.write(rng.integers(0, 256, total, np.uint8).tobytes())
        self.slot = np.full(total, 0x5A, np.uint8)
        self.spans, at = [], 1
        for i, n in enumerate(sizes):
            formula = random_formula(list(Formula)[i % len(Formula)], models, seed + i)
            codes = rng.integers(0, 3, models + 1).tolist()
            operands = [Operand(data, at + k, code) for k, (data, code) in enumerate(zip(self.inputs, codes))]
            self.spans.append(CombineSpan(self.slot, at, codes[-1], operands, n, (1 << 33) * i + 7, formula))
            at += n * CODE_SIZES[codes[-1]]

    def expected(self) -> bytes:
        before = self.slot.copy()
        cpu.run_combine(self.spans, "scalar")
        found = self.slot.tobytes()
        self.slot[:] = before
        return found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("models", [2, 3, 16])
def test_formulas_are_bit_identical_to_the_cpu(order: Sequence[str], models: int) -> None:
    """Every formula, in parts too: the random numbers of DARE depend on an element's place in its whole tensor."""
    case, gpu = CombineCase([1, 30_001, 0, 77, 5000, 300, 2, 640], models, 3), FakeGpu(order)
    expected = case.expected()
    with SpanRunner([gpu], 1 << 17, 1) as runner:
        runner.run_combine(case.spans)
    assert case.slot.tobytes() == expected
    assert gpu.copies["copy_in"] == gpu.copies["copy_out"] == len(gpu.launches) > 1


def test_the_formulas_of_a_chunk_are_one_piece() -> None:
    case, gpu = CombineCase([3000, 5, 4096], 3, 4), FakeGpu()
    expected = case.expected()
    with SpanRunner([gpu], 1 << 18, 1) as runner:
        runner.run_combine(case.spans)
        runner.run_combine([])
    assert case.slot.tobytes() == expected
    assert gpu.copies == {"copy_in": 1, "copy_out": 1}
    assert gpu.launches == [3]


def test_a_failed_launch_names_the_device_and_leaves_no_pending_work() -> None:
    gpu = FakeGpu(fail_at=4)
    case = Case([(40_000, BF16)], (0.8,), 8)
    with SpanRunner([gpu], PIECE, 1) as runner:
        with pytest.raises(BackendError, match="cuda:0 failed: CUDA error: an illegal memory access") as failure:
            runner.run_groups(case.spans, 1)
        assert gpu.idle  # already, because another worker may pack the piece now
    assert "more lines" not in str(failure.value)
    for data in case.inputs:  # the frames of the error hold no view of a map
        data.close()


def test_a_failed_piece_is_used_again() -> None:
    gpu, case = FakeGpu(fail_at=0), Case([(1000, BF16)], (0.8,), 8)
    expected = case.expected()
    with SpanRunner([gpu], PIECE, 1) as runner:
        with pytest.raises(BackendError):
            runner.run_groups(case.spans, 1)
        runner.run_groups(case.spans, 1)
    assert case.slots[0].tobytes() == expected[0]


def test_pieces_are_on_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeGpu] = []

    def gpu(name: str, backend: str) -> FakeGpu:
        fake = FakeGpu()
        fake.name, fake.backend = name, backend  # type: ignore[attr-defined]
        made.append(fake)
        return fake

    monkeypatch.setattr(gpu_runner, "CudaGpu", gpu)
    with gpu_runner.runner_for(["cuda:0", "cuda:1"], "triton", 5, 12 << 20, 4096):
        assert [(fake.name, fake.backend) for fake in made] == [("cuda:0", "triton"), ("cuda:1", "triton")]  # type: ignore[attr-defined]
        assert [fake.blocks["device"] for fake in made] == [[12 << 20] * 3, [12 << 20] * 2]
        assert [fake.blocks["pinned"] for fake in made] == [[60 << 20], []]  # pinned for all


def test_a_device_without_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()

    def memory(size: int) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 4.00 MiB")

    monkeypatch.setattr(gpu, "memory", memory)
    with pytest.raises(BackendError, match=r"cuda:0 failed: CUDA out of memory[^\n]*\n.*`device='cpu'`"):
        SpanRunner([gpu], PIECE, 1)
    assert gpu.pinning.pinned == {}


def test_a_host_that_cannot_pin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()

    def register(address: int, size: int) -> None:
        raise RuntimeError("cuMemHostRegister_v2: out of memory")

    monkeypatch.setattr(gpu.pinning, "register", register)
    with pytest.raises(BackendError, match=r"cannot pin 16,384 bytes of host memory: cuMemHostRegister_v2: out of mem"):
        SpanRunner([gpu], PIECE, 1)


class Recorder:
    """Records the calls of torch.cuda with the current stream. CPU tensors replace CUDA tensors."""

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
            self.calls.append(("empty", self.now[-1], options.pop("device")))
            return empty(size, **options)

        streams = iter([SimpleNamespace(cuda_stream=number) for number in (11, 22, 33)])
        monkeypatch.setattr(torch, "empty", recorded_empty)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(streams))
        monkeypatch.setattr(torch.cuda, "stream", entered)
        monkeypatch.setattr(torch.cuda, "device", entered)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.now[-1])


class FakeCudaError(RuntimeError):
    """The error that the compiled kernels have."""


LAUNCH = Launch(Triple(0, 2, 1), 64, Offsets(0, 64, 80, 96, 128), 3, 8192)


def test_work_on_a_cuda_device_is_queued_on_the_right_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Recorder(monkeypatch)
    kernels: Any = ModuleType("mi_kernels._cuda")
    kernels.CudaError = FakeCudaError
    kernels.prepare = lambda index: seen.calls.append(("prepare", index))
    kernels.launch = lambda *given, **named: seen.calls.append(("launch", seen.now[-1], given, named))
    formulas: Any = ModuleType("mi_kernels.backends.cuda_combine")
    formulas.multi_combine = lambda tasks: seen.calls.append(("combine", seen.now[-1], tasks))
    monkeypatch.setitem(sys.modules, "mi_kernels._cuda", kernels)
    monkeypatch.setattr("mi_kernels._cuda", kernels, raising=False)
    monkeypatch.setitem(sys.modules, "mi_kernels.backends.cuda_combine", formulas)
    gpu, device = gpu_runner.CudaGpu("cuda:1", "cuda"), torch.device("cuda:1")
    assert seen.calls == [("prepare", 1)]
    assert [s.cuda_stream for s in (gpu.copy_in, gpu.compute, gpu.copy_out)] == [11, 22, 33]
    block = gpu.memory(256)
    assert seen.calls[-1] == ("empty", gpu.copy_in, device)
    gpu.lerp(block, [LAUNCH], gpu.compute)
    base = block.data_ptr() + 64
    addresses = {"tensors": base, "weights": base + 64, "chunk_tensor": base + 80, "chunk_start": base + 96}
    dtypes = {"out_dtype": 0, "a_dtype": 2, "b_dtype": 1}
    assert seen.calls[-1] == ("launch", gpu.compute, (1, 22), {**addresses, **dtypes, "chunks": 3, "chunk": 8192})
    tasks = [CombineTask(block, [block], 5, {})]
    gpu.combine(tasks, gpu.compute)
    assert seen.calls[-1] == ("combine", gpu.compute, tasks)

    class Target:
        def copy_(self, source: str, non_blocking: bool) -> None:
            seen.calls.append((source, non_blocking, seen.now[-1]))

    gpu.copy(Target(), "bytes", gpu.copy_out)  # type: ignore[arg-type]
    assert seen.calls[-1] == ("bytes", True, gpu.copy_out)
    assert seen.now == []


@pytest.mark.parametrize(("backend", "chunk"), [("cuda", 8192), ("triton", 32768)])
def test_each_backend_has_its_chunk(monkeypatch: pytest.MonkeyPatch, backend: str, chunk: int) -> None:
    Recorder(monkeypatch)
    kernels: Any = ModuleType("mi_kernels._cuda")
    kernels.CudaError = FakeCudaError
    kernels.prepare = lambda index: None
    monkeypatch.setitem(sys.modules, "mi_kernels._cuda", kernels)
    monkeypatch.setattr("mi_kernels._cuda", kernels, raising=False)
    assert gpu_runner.CudaGpu("cuda:0", backend).chunk_for(2 << 20) == chunk
