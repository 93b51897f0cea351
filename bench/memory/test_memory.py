"""The in-memory benchmarks, run by `python -m bench.memory`. Each test answers one question, after `cases.checked`."""

from __future__ import annotations

import pytest

from mi_kernels import _cpu
from mi_kernels.backends import cpu

from ..files.grow import thread_counts
from . import cases

KIB, MIB = 1 << 10, 1 << 20
SIZES = [
    *(("bf16", size) for size in (4 * KIB, 64 * KIB, MIB, 16 * MIB, 256 * MIB, 1024 * MIB)),
    *((dtype, size) for dtype in ("fp16", "fp32") for size in (4 * KIB, MIB, 256 * MIB)),
]
SLOW_NUMPY = 256 * MIB  # from this size a call of NumPy's 16-bit arithmetic takes seconds
LISTS = ("0.6B", "4B", "30B-A3B")
LIST_BYTES = 1_200_000_000  # Qwen3-0.6B at full size; larger models are divided by the number in the name of the group


def show(nbytes: int) -> str:
    return f"{nbytes // MIB:,} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"


def make(dtype: str, nbytes: int) -> cases.Case:
    return cases.Case([nbytes // cases.DTYPES[dtype].itemsize], dtype, f"{show(nbytes)} {dtype}")


@pytest.fixture(scope="module", params=SIZES, ids=lambda p: f"{p[0]}-{show(p[1])}".replace(" ", ""))
def tensor(request: pytest.FixtureRequest) -> cases.Case:
    return make(*request.param)


@pytest.mark.parametrize("name", cases.SINGLE)
def test_size(measure: cases.Measure, tensor: cases.Case, name: str) -> None:
    """How fast is a call on one tensor, by size and dtype, with the default number of threads?"""
    if name == "numpy" and tensor.dtype != "fp32" and tensor.nbytes >= SLOW_NUMPY:
        pytest.skip("seconds a call")
    threads = cpu.default_threads()
    work = cases.SINGLE[name](tensor, threads)
    measure(tensor, f"one tensor, {tensor.label}", name, work, cases.roofline(tensor, threads), threads)


@pytest.fixture(scope="module", params=[("bf16", 256 * MIB)], ids=["bf16-256MiB"])
def large(request: pytest.FixtureRequest) -> cases.Case:
    return make(*request.param)


@pytest.mark.parametrize("name", ["roofline", "naive torch", "ours, out=", "torch.lerp, out="])
@pytest.mark.parametrize("threads", thread_counts(cpu.default_threads()))
def test_threads(measure: cases.Measure, large: cases.Case, name: str, threads: int) -> None:
    """How does speed grow with the number of threads?"""
    work = cases.SINGLE[name](large, threads)
    measure(large, f"threads: {threads}, {large.label}", name, work, cases.roofline(large, threads), threads)


@pytest.fixture(
    scope="module",
    params=[(dtype, size) for dtype in cases.DTYPES for size in (256 * KIB, 256 * MIB)],
    ids=lambda p: f"{p[0]}-{show(p[1])}".replace(" ", ""),
)
def one_core(request: pytest.FixtureRequest) -> cases.Case:
    return make(*request.param)


@pytest.mark.parametrize("name", ["roofline", "ours"])
@pytest.mark.parametrize("isa", _cpu.isas())
def test_isa(measure: cases.Measure, one_core: cases.Case, name: str, isa: str) -> None:
    """How fast is each instruction set on one thread, within the cache and beyond it?"""
    roofline = cases.touch(one_core, isa, 1)
    work = cases.kernel(one_core, isa) if name == "ours" else roofline
    measure(one_core, f"ISA: {isa}, one thread, {one_core.label}", name, work, roofline, 1)


@pytest.fixture(scope="module", params=LISTS)
def checkpoint(request: pytest.FixtureRequest) -> cases.Case:
    counts, shrink = cases.counts_of(request.param, LIST_BYTES)
    divided = "" if shrink == 1 else f", elements divided by {shrink}"
    return cases.Case(counts, "bf16", f"Qwen3-{request.param}: {len(counts):,} tensors{divided}")


@pytest.mark.parametrize("name", cases.LISTED)
def test_list(measure: cases.Measure, checkpoint: cases.Case, name: str) -> None:
    """How fast is one call on all tensors of a checkpoint?"""
    threads = cpu.default_threads()
    work = cases.LISTED[name](checkpoint, threads)
    measure(checkpoint, f"list, {checkpoint.label}", name, work, cases.roofline(checkpoint, threads), threads)
