"""In memory: `pytest bench/`. One question a test; no number on a wrong result (`memory.checked`)."""

from __future__ import annotations

import pytest

from mi_kernels import _cpu
from mi_kernels.backends import cpu

from . import memory
from .grow import thread_counts

KIB, MIB = 1 << 10, 1 << 20
SIZES = [
    *(("bf16", size) for size in (4 * KIB, 64 * KIB, MIB, 16 * MIB, 256 * MIB, 1024 * MIB)),
    *((dtype, size) for dtype in ("fp16", "fp32") for size in (4 * KIB, MIB, 256 * MIB)),
]
SLOW_NUMPY = 256 * MIB  # from here on a call of NumPy's 16-bit arithmetic, element by element, takes seconds
LISTS = ("0.6B", "4B", "30B-A3B")
LIST_BYTES = 1_200_000_000  # Qwen3-0.6B as it is; the larger ones' tensors are divided by what the group's name says


def show(nbytes: int) -> str:
    return f"{nbytes // MIB:,} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"


def make(dtype: str, nbytes: int) -> memory.Case:
    return memory.Case([nbytes // memory.DTYPES[dtype].itemsize], dtype, f"{show(nbytes)} {dtype}")


@pytest.fixture(scope="module", params=SIZES, ids=lambda p: f"{p[0]}-{show(p[1])}".replace(" ", ""))
def tensor(request: pytest.FixtureRequest) -> memory.Case:
    return make(*request.param)


@pytest.mark.parametrize("name", memory.SINGLE)
def test_size(measure: memory.Measure, tensor: memory.Case, name: str) -> None:
    """How does it compare on one tensor, of any size and dtype, as called: on all threads?"""
    if name == "numpy" and tensor.dtype != "fp32" and tensor.nbytes >= SLOW_NUMPY:
        pytest.skip("seconds a call")
    threads = cpu.default_threads()
    work = memory.SINGLE[name](tensor, threads)
    measure(tensor, f"one tensor, {tensor.label}", name, work, memory.roofline(tensor, threads), threads)


@pytest.fixture(scope="module", params=[("bf16", 256 * MIB)], ids=["bf16-256MiB"])
def large(request: pytest.FixtureRequest) -> memory.Case:
    return make(*request.param)


@pytest.mark.parametrize("name", ["roofline", "naive torch", "ours, out=", "torch.lerp, out="])
@pytest.mark.parametrize("threads", thread_counts(cpu.default_threads()))
def test_threads(measure: memory.Measure, large: memory.Case, name: str, threads: int) -> None:
    """What does each further thread give?"""
    work = memory.SINGLE[name](large, threads)
    measure(large, f"threads: {threads}, {large.label}", name, work, memory.roofline(large, threads), threads)


@pytest.fixture(
    scope="module",
    params=[(dtype, size) for dtype in memory.DTYPES for size in (256 * KIB, 256 * MIB)],
    ids=lambda p: f"{p[0]}-{show(p[1])}".replace(" ", ""),
)
def one_core(request: pytest.FixtureRequest) -> memory.Case:
    return make(*request.param)


@pytest.mark.parametrize("name", ["roofline", "ours"])
@pytest.mark.parametrize("isa", _cpu.isas())
def test_isa(measure: memory.Measure, one_core: memory.Case, name: str, isa: str) -> None:
    """What does each instruction set give, on one thread, in the cache and beyond it?"""
    roofline = memory.touch(one_core, isa, 1)
    work = memory.kernel(one_core, isa) if name == "ours" else roofline
    measure(one_core, f"ISA: {isa}, one thread, {one_core.label}", name, work, roofline, 1)


@pytest.fixture(scope="module", params=LISTS)
def checkpoint(request: pytest.FixtureRequest) -> memory.Case:
    counts, shrink = memory.counts_of(request.param, LIST_BYTES)
    divided = "" if shrink == 1 else f", elements divided by {shrink}"
    return memory.Case(counts, "bf16", f"Qwen3-{request.param}: {len(counts):,} tensors{divided}")


@pytest.mark.parametrize("name", memory.LISTED)
def test_list(measure: memory.Measure, checkpoint: memory.Case, name: str) -> None:
    """How does it compare on all tensors of a checkpoint in one call?"""
    threads = cpu.default_threads()
    work = memory.LISTED[name](checkpoint, threads)
    measure(checkpoint, f"list, {checkpoint.label}", name, work, memory.roofline(checkpoint, threads), threads)
