"""Statistics that some methods need of whole tensors before they merge them: thresholds and angles.

Tensors are read in pieces of a fixed number of elements. The results of the pieces are added exactly, or counted in
whole numbers, so that nothing depends on threads, chunks or the ISA.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends import cpu
from ..backends.moments import PIECE, Moments, total
from ..backends.spans import Operand

_SAMPLE, _RUN = 1 << 16, 1 << 10
_MAGNITUDES = 0x7FFFFFFF
_HIGH_BINS, _LOW_BINS = 1 << 16, 1 << 15  # of the 31 bits of a float32's magnitude, see csrc/cpu/stats.h

# Called with (first, count): elements `first` to `first + count` of a tensor.
Reader = Callable[[int, int], Operand]


class OnDevice:
    """A Reader of a tensor on a CUDA device: its statistics are computed there, and nothing is copied to the CPU.

    Attributes:
        tensor: contiguous; bf16, float16 or float32.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __call__(self, first: int, count: int) -> Operand:
        raise TypeError("a tensor on a device has no elements for the CPU kernels")


def pieces(elements: int) -> Iterator[tuple[int, int]]:
    """(first, count) of each piece."""
    for first in range(0, elements, PIECE):
        yield first, min(PIECE, elements - first)


def moments(a: Reader, b: Reader, base: Reader | None, elements: int) -> Moments:
    """Moments of a and b, or of a - base and b - base (each difference rounded to float32)."""
    if isinstance(a, OnDevice) and isinstance(b, OnDevice) and (base is None or isinstance(base, OnDevice)):
        from ..backends import cuda_combine

        return cuda_combine.moments(a.tensor, b.tensor, None if base is None else base.tensor)
    from .. import _cpu

    isa = cpu.isa()
    found = [
        _cpu.moments(a(first, n), b(first, n), base(first, n) if base else None, n, isa)
        for first, n in pieces(elements)
    ]
    return total(found)


def kth_largest_difference(x: Reader, base: Reader, elements: int, k: int) -> float:
    """The k-th largest |x - base| in float32, k from 1: exact. NaN counts as larger than inf.

    A sample gives two magnitudes that most likely enclose it. One pass keeps the magnitudes between them and counts the
    larger ones, so that the answer is among those kept. Where the sample was not typical, or so many magnitudes are
    equal that keeping them is expensive, two passes of counting find it whatever the data.
    """
    if isinstance(x, OnDevice) and isinstance(base, OnDevice):
        from ..backends import cuda_combine

        return cuda_combine.kth_largest_difference(x.tensor, base.tensor, k)
    low, high = _bracket(x, base, elements, k)
    found = np.empty(max(_SAMPLE, elements // 16), np.uint32)
    above, kept = _select(x, base, [*pieces(elements)], low, high, found)
    if kept <= len(found) and above < k <= above + kept:
        rank = kept - (k - above)  # from below
        return _as_float(np.partition(found[:kept], rank)[rank])
    return _kth_by_counting(x, base, elements, k)


def _bracket(x: Reader, base: Reader, elements: int, k: int) -> tuple[int, int]:
    """Two magnitudes (31 bits) that most likely enclose the k-th largest, from evenly spaced runs of elements."""
    if elements <= _SAMPLE:
        return 0, _MAGNITUDES
    runs = [(int(first), _RUN) for first in np.linspace(0, elements - _RUN, _SAMPLE // _RUN)]
    sample = np.empty(_SAMPLE, np.uint32)
    _select(x, base, runs, 0, _MAGNITUDES, sample)
    sample.sort()
    share = k / elements
    # Eight standard deviations of the rank in an independent sample: neighbours in a tensor are not independent.
    margin = int(8 * math.sqrt(_SAMPLE * share * (1 - share))) + 16
    rank = int((1 - share) * _SAMPLE)  # from below
    low = int(sample[rank - margin]) if rank >= margin else 0
    high = int(sample[rank + margin]) if rank + margin < _SAMPLE else _MAGNITUDES
    return low, high


def _select(
    x: Reader, base: Reader, parts: Sequence[tuple[int, int]], low: int, high: int, found: npt.NDArray[np.uint32]
) -> tuple[int, int]:
    from .. import _cpu

    isa = cpu.isa()
    above = kept = 0
    for first, n in parts:
        more_above, more = _cpu.select(x(first, n), base(first, n), n, low, high, found, min(kept, len(found)), isa)
        above, kept = above + more_above, kept + more
    return above, kept


def _kth_by_counting(x: Reader, base: Reader, elements: int, k: int) -> float:
    """The first pass counts the upper 16 bits of the magnitudes, the second the lower 15 within the bin it found."""
    from .. import _cpu

    isa = cpu.isa()
    high = np.zeros(_HIGH_BINS, np.uint64)
    for first, n in pieces(elements):
        _cpu.histogram(x(first, n), base(first, n), n, high, None, isa)
    upper, above = _bin_of_rank(high, k)
    low = np.zeros(_LOW_BINS, np.uint64)
    for first, n in pieces(elements):
        _cpu.histogram(x(first, n), base(first, n), n, low, upper, isa)
    lower, _ = _bin_of_rank(low, k - above)
    return _as_float(np.uint32(upper << 15 | lower))


def _as_float(magnitude: np.uint32) -> float:
    return float(magnitude.view(np.float32))


def _bin_of_rank(counts: npt.NDArray[np.uint64], k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest, and how many are in the bins above it."""
    from_top = np.cumsum(counts[::-1])
    position = int(np.searchsorted(from_top, np.uint64(k)))
    above = int(from_top[position - 1]) if position else 0
    return len(counts) - 1 - position, above


def in_parallel(work: Sequence[Callable[[], None]], threads: int) -> None:
    """Runs every function, on `threads` threads. The first exception stops the others and is raised."""
    stop = threading.Event()

    def guarded(function: Callable[[], None]) -> None:
        if not stop.is_set():
            try:
                function()
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(threads) as pool:
        try:
            for future in [pool.submit(guarded, function) for function in work]:
                future.result()
        except BaseException:
            stop.set()
            raise
