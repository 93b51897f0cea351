"""Runs every kernel on buffers that begin or end at a guard page: an access beyond the buffer ends the process.

python -m tests.kernels.guard_pages             all kernels; prints how many calls there were
python -m tests.kernels.guard_pages --overrun   a call that is told of one element too many: shows that the guards hold
"""

from __future__ import annotations

import ctypes
import mmap
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mi_kernels import _cpu

PAGE = mmap.PAGESIZE
SIZES = {0: 2, 1: 2, 2: 4, 3: 1}  # bytes an element, by the kernels' dtype codes
COUNTS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 1000)
_MPROTECT = ctypes.CDLL(None, use_errno=True).mprotect
_MPROTECT.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Guarded:
    """Memory between two guard pages, for one buffer at a time."""

    def __init__(self, nbytes: int) -> None:
        inner = -(-nbytes // PAGE) * PAGE
        self._map = mmap.mmap(-1, inner + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for guard in (start, start + PAGE + inner):
            if _MPROTECT(guard, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._bytes = memoryview(self._map)[PAGE : PAGE + inner]

    def take(self, nbytes: int, at_end: bool, fill: np.random.Generator | None = None) -> memoryview:
        """Returns `nbytes` bytes next to the guard page behind or before them; with `fill`, their content is random."""
        part = self._bytes[len(self._bytes) - nbytes :] if at_end else self._bytes[:nbytes]
        part[:] = fill.bytes(nbytes) if fill else b"\xa5" * nbytes
        return part


class Buffers:
    """Guarded memory for each operand of a call, all at the end or all at the start."""

    def __init__(self, at_end: bool) -> None:
        self._at_end = at_end
        self._random = np.random.default_rng(1)
        self._memory = [Guarded(1 << 19) for _ in range(8)]
        self._next = 0

    def start(self) -> None:
        self._next = 0

    def new(self, nbytes: int, random: bool = True) -> memoryview:
        self._next += 1
        return self._memory[self._next - 1].take(nbytes, self._at_end, self._random if random else None)

    def operand(self, count: int, dtype: int) -> tuple[memoryview, int, int]:
        return self.new(count * SIZES[dtype]), 0, dtype


def _lerp(b: Buffers, n: int, isa: str, out: int, first: int, second: int, more: int = 0) -> None:
    for stores in (_cpu.Stores.CACHED, _cpu.Stores.STREAMING):
        b.start()
        to, x, y = b.new(n * SIZES[out], False), b.operand(n, first), b.operand(n, second)
        _cpu.lerp_spans([(to, 0, x[0], 0, y[0], 0, n + more, 0.3, out, first, second)], isa, 1, stores)
    if n:
        addresses = [ctypes.addressof(ctypes.c_char.from_buffer(m)) for m in (to, x[0], y[0])]
        table, lam = np.array([[*addresses, n + more]], np.int64), np.array([0.3])
        _cpu.lerp_addresses(table, lam, out, first, second, isa)
    group = [(to, 0, x[0], 0, y[0], 0, n, w, out, first, second) for w in (0.3, 0.7)]
    _cpu.lerp_groups(group, 2, isa)


def _combine(b: Buffers, n: int, isa: str, out: int, dtype: int) -> None:
    formula: dict[str, Any] = {"weights": [0.0, 0.5, 0.7], "thresholds": [0.0, 0.1, 0.1], "densities": [1.0, 0.5, 0.5]}
    for kind in _cpu.Formula:
        b.start()
        to, inputs = b.new(n * SIZES[out], False), [b.operand(n, dtype) for _ in range(3)]
        what: Any = {"formula": kind, **formula, "keys": [0, 1, 2], "scale": 0.5, "normalize": True}
        _cpu.combine_spans([(to, 0, out, inputs, n, 5, what)], isa)


def _statistics(b: Buffers, n: int, isa: str, dtype: int) -> None:
    b.start()
    x, y, base = (b.operand(n, dtype) for _ in range(3))
    _cpu.moments(x, y, None, n, isa)
    _cpu.moments(x, y, base, n, isa)
    counts = b.new(8 << 16, False)
    _cpu.histogram(x, base, n, counts, None, isa)
    _cpu.histogram(x, base, n, counts, 0x3F80, isa)
    for room in (0, 1, n):
        b.start()
        x, base, found = b.operand(n, dtype), b.operand(n, dtype), b.new(4 * room)
        _cpu.select(x, base, n, 0, (1 << 31) - 1, found, 0, isa)


def _virtual(b: Buffers, n: int, isa: str, dtype: int) -> None:
    rows, columns, rank = 3, max(1, -(-n // 2)), 5
    for block in ((1, 1), (2, 3), (128, 128), (1 << 63, (1 << 64) - 1)):
        b.start()
        blocks = -(-rows // block[0]) * -(-columns // block[1])
        first = rows * columns - n
        to, weight, scales = b.new(4 * n, False), b.new(n), b.operand(blocks, dtype)
        _cpu.scaled(to, (weight, 0), scales, (rows, columns), block, first, n, isa)
    for transposed in (False, True):
        b.start()
        to, w = b.new(4 * n, False), b.operand(n, dtype)
        a, c = (b.operand(rank * k, dtype) for k in ((rows, columns) if transposed else (columns, rows)))
        _cpu.low_rank(to, w, a, c, (rows, columns), rank, transposed, 0.5, rows * columns - n, n, isa)


def calls(b: Buffers, isa: str) -> Iterator[Callable[[], None]]:
    """Every kernel, dtype and count."""
    for n in COUNTS:
        for out in range(3):
            for first in range(3):
                yield lambda n=n, out=out, first=first: _combine(b, n, isa, out, first)  # type: ignore[misc]
                for second in range(3):
                    yield lambda n=n, o=out, f=first, s=second: _lerp(b, n, isa, o, f, s)  # type: ignore[misc]
        for dtype in range(3):
            yield lambda n=n, dtype=dtype: _statistics(b, n, isa, dtype)  # type: ignore[misc]
            yield lambda n=n, dtype=dtype: _virtual(b, n, isa, dtype)  # type: ignore[misc]


def main() -> None:
    if "--overrun" in sys.argv:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file means an unexpected crash
        b = Buffers(True)
        b.start()
        memory = b.new(64)
        ctypes.string_at(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 65)
        return
    count = 0
    for at_end in (True, False):
        buffers = Buffers(at_end)
        for isa in _cpu.isas():
            for call in calls(buffers, isa):
                call()
                count += 1
    print(f"{count} calls on {', '.join(_cpu.isas())}")


if __name__ == "__main__":
    main()
