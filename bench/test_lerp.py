"""In memory, one result line each: `pytest bench/ --benchmark-group-by=group`. Bits are checked before any timing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mi_kernels
from mi_kernels import _cpu
from mi_kernels.backends import cpu

LAM = 0.8
SIZES = {"64 KiB": 1 << 16, "4 MiB": 1 << 22, "256 MiB": 1 << 28}  # bytes of each of the three arrays


class Case:
    def __init__(self, nbytes: int) -> None:
        rng = np.random.default_rng(0)
        n = nbytes // 2
        self.a, self.b = (
            torch.from_numpy(rng.standard_normal(n, dtype=np.float32)).to(torch.bfloat16) for _ in range(2)
        )
        self.out = torch.full_like(self.a, float("nan"))
        self.nbytes = nbytes
        mi_kernels.lerp(self.a, self.b, LAM, self.out)
        expected = torch.lerp(self.a.float(), self.b.float(), LAM).to(torch.bfloat16)
        assert torch.equal(self.out, expected), "no number on a wrong result"

    @property
    def buffers(self) -> list[Any]:
        return [t.view(torch.uint16).numpy() for t in (self.out, self.a, self.b)]


@pytest.fixture(scope="module", params=SIZES, ids=lambda name: name.replace(" ", ""))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(SIZES[request.param])


def _ours(case: Case, threads: int) -> Any:
    return lambda: mi_kernels.lerp(case.a, case.b, LAM, case.out, threads=threads)


def _touch(case: Case, threads: int) -> Any:
    out, a, b = case.buffers
    return lambda: _cpu.touch(out, a, b, cpu.isa(), threads)


def _naive(case: Case, threads: int) -> Any:
    return lambda: case.a + LAM * (case.b - case.a)


def _torch_lerp(case: Case, threads: int) -> Any:
    return lambda: torch.lerp(case.a, case.b, LAM, out=case.out)


CONTESTANTS = {"roofline": _touch, "ours": _ours, "naive": _naive, "torch.lerp": _torch_lerp}


@pytest.mark.parametrize("threads", [1, cpu.default_threads()], ids=lambda n: f"{n}threads")
@pytest.mark.parametrize("name", CONTESTANTS)
def test_lerp(benchmark: Any, case: Case, name: str, threads: int) -> None:
    """roofline is the same loop with its arithmetic taken out: two reads, one write."""
    benchmark.group = f"{case.nbytes >> 10} KiB, {threads} threads"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        benchmark(CONTESTANTS[name](case, threads))
    finally:
        torch.set_num_threads(before)
    benchmark.extra_info["GB/s"] = 3 * case.nbytes / benchmark.stats.stats.median / 1e9
