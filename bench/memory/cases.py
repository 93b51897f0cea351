"""What the in-memory benchmarks time: tensors, contestants, the check before any timing, and the number of repeats."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import torch

import mi_kernels
from mi_kernels import _cpu
from mi_kernels.backends import cpu
from mi_kernels.dtypes import CODES

from ..models import MODELS

LAM = 0.8
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_BLOCK = 1 << 20  # elements compared at once
# Tolerance for other contestants, in units of the last place of the dtype: naive arithmetic rounds three times, and one
# more absorbs the rounding of the reference. A larger difference means that it did not compute the interpolation.
_ROUNDINGS = 4

Work = Callable[[], Any]
Contestant = Callable[["Case", int], Work]  # (tensors, threads) -> what is timed
# The fixture of pytest_plugin.py: tensors, group, name, work, the roofline that it alternates with, threads.
Measure = Callable[["Case", str, str, Work, Work, int], None]


class WrongBitsError(AssertionError):
    """A result is wrong, so that nothing may be timed."""


class Case:
    """Tensors a and b (normal, standard deviation 0.02) and out, of one dtype.

    Args:
        counts: elements of each tensor. All tensors share one allocation, as in a file.
        dtype: one of DTYPES.
        label: the name in the tables.
    """

    def __init__(self, counts: Sequence[int], dtype: str, label: str) -> None:
        self.dtype, self.label = dtype, label
        starts = np.cumsum([0, *counts])
        self.flat = [_normal(int(starts[-1]), DTYPES[dtype], seed) for seed in (0, 1)]
        self.flat.append(torch.full_like(self.flat[0], float("nan")))
        self.a, self.b, self.outs = (
            [x[start : start + n] for start, n in zip(starts, counts)] for x in map(torch.Tensor.detach, self.flat)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of a, and as many of b and of out."""
        return self.flat[0].nbytes

    @property
    def buffers(self) -> list[Any]:
        """out, a and b as NumPy arrays of int16."""
        return [x.view(torch.int16).numpy() for x in (self.flat[2], *self.flat[:2])]


def _normal(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    pool = torch.randn(min(n, 1 << 22), generator=torch.Generator().manual_seed(seed)).mul_(0.02).to(dtype)
    return pool.repeat(-(-n // len(pool)))[:n].contiguous()


def counts_of(model: str, most: int) -> tuple[list[int], int]:
    """Elements of each tensor of the model, divided so that all take at most `most` bytes; and the divisor."""
    sizes = [math.prod(shape) for shape in MODELS[model]().values()]
    shrink = max(1, -(-2 * sum(sizes) // most))
    return [max(1, n // shrink) for n in sizes], shrink


def roofline(case: Case, threads: int) -> Work:
    """`touch` with the ISA that mi_kernels selected."""
    return touch(case, cpu.isa(), threads)


def _numpy_lerp(case: Case, threads: int) -> Work:
    a, b = _numpy(case.a[0]), _numpy(case.b[0])
    lam = a.dtype.type(LAM)
    return lambda: a + lam * (b - a)


def _torch_loop(case: Case, threads: int) -> Work:
    def loop() -> Any:
        for x, y, out in zip(case.a, case.b, case.outs):
            torch.lerp(x, y, LAM, out=out)
        return case.outs

    return loop


def _our_loop(case: Case, threads: int) -> Work:
    def loop() -> Any:
        for x, y, out in zip(case.a, case.b, case.outs):
            mi_kernels.lerp(x, y, LAM, out, threads=threads)
        return case.outs

    return loop


# Contestants without `out` allocate their result in each call. The others are compared with the first two.
SINGLE: dict[str, Contestant] = {
    "roofline": roofline,
    "naive torch": lambda c, threads: lambda: c.a[0] + LAM * (c.b[0] - c.a[0]),
    "ours, out=": lambda c, threads: lambda: mi_kernels.lerp(c.a[0], c.b[0], LAM, c.outs[0], threads=threads),
    "ours": lambda c, threads: lambda: mi_kernels.lerp(c.a[0], c.b[0], LAM, threads=threads),
    "torch.lerp, out=": lambda c, threads: lambda: torch.lerp(c.a[0], c.b[0], LAM, out=c.outs[0]),
    "torch.lerp": lambda c, threads: lambda: torch.lerp(c.a[0], c.b[0], LAM),
    "torch._foreach_lerp": lambda c, threads: lambda: torch._foreach_lerp(c.a, c.b, LAM),
    "numpy": _numpy_lerp,
}
LISTED: dict[str, Contestant] = {
    "roofline": roofline,
    "naive torch": lambda c, threads: lambda: [x + LAM * (y - x) for x, y in zip(c.a, c.b)],
    "ours, multi_lerp, outs=": lambda c, threads: lambda: mi_kernels.multi_lerp(c.a, c.b, LAM, c.outs, threads=threads),
    "ours, lerp one by one, out=": _our_loop,
    "torch.lerp one by one, out=": _torch_loop,
    "torch._foreach_lerp": lambda c, threads: lambda: torch._foreach_lerp(c.a, c.b, LAM),
}


def kernel(case: Case, isa: str) -> Work:
    """The kernel of one ISA on one thread, without the checks of the public function."""
    code = CODES[{"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[case.dtype]]
    out, a, b = case.buffers
    spans = [(out, 0, a, 0, b, 0, case.flat[0].numel(), LAM, code, code, code)]

    def run() -> Any:
        cpu.run_spans(spans, isa)
        return case.outs

    return run


def touch(case: Case, isa: str, threads: int) -> Work:
    """The roofline: the loop of the kernel without its arithmetic, two reads and one write."""
    out, a, b = case.buffers
    return lambda: _cpu.touch(out, a, b, isa, threads)


def _numpy(x: torch.Tensor) -> Any:
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


def checked(case: Case, name: str, work: Work) -> float | None:
    """The share of elements that differ from torch.lerp in float32, rounded once; None for the roofline.

    Raises:
        WrongBitsError: ours differs, or another contestant differs by more than its roundings explain.
    """
    if name == "roofline":
        return None
    case.flat[2].fill_(float("nan"))
    result = work()
    results = result if isinstance(result, list | tuple) else [result]
    wrong = sum(_wrong(name, *columns) for columns in zip(case.a, case.b, map(_tensor, results), strict=True))
    if name.startswith("ours") and wrong:
        raise WrongBitsError(f"{case.label}: {name} differs from the contract in {wrong:,} elements")
    return wrong / case.flat[0].numel()


def _tensor(x: Any) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x
    is_bf16 = x.dtype == ml_dtypes.bfloat16
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if is_bf16 else torch.from_numpy(x)


def _wrong(name: str, a: torch.Tensor, b: torch.Tensor, found: torch.Tensor) -> int:
    wrong = 0
    limit = _ROUNDINGS * torch.finfo(a.dtype).eps * 0.2  # no value exceeds 0.2, ten standard deviations
    bits = torch.int32 if a.dtype == torch.float32 else torch.int16
    for at in range(0, a.numel(), _BLOCK):
        x, y, got = (t[at : at + _BLOCK] for t in (a, b, found))
        wanted = torch.lerp(x.float(), y.float(), LAM).to(a.dtype)
        if not bool(((got.float() - wanted.float()).abs() <= limit).all()):
            raise WrongBitsError(f"{name} did not compute the interpolation")
        wrong += int(torch.count_nonzero(got.view(bits) != wanted.view(bits)))
    return wrong


def repeats(work: Work) -> tuple[int, int]:
    """The number of rounds, and of calls in a round: a round takes at least 100 us, all take about 0.4 s.

    One call warms up first.
    """
    work()
    started = time.perf_counter()
    work()
    once = max(time.perf_counter() - started, 1e-7)
    calls = max(1, math.ceil(1e-4 / once))
    return max(3, min(200, int(0.4 / (calls * once)))), calls


def call(work: Work, times: int) -> None:
    """Calls `work` so many times."""
    for _ in range(times):
        work()


def seconds(work: Work, times: int) -> float:
    """Mean seconds of a call, over so many."""
    started = time.perf_counter()
    call(work, times)
    return (time.perf_counter() - started) / times


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch uses so many threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
