"""The checksums of a model's files and tensors, taken piece by piece in any order: one pass over the bytes.

The CRC of a whole follows from those of its parts, so a stream only takes the CRC of each stretch it has at hand.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from ..backends import cpu
from ..dtypes import BYTES
from .crc import combine
from .record import BLOCK, FileSum, ShardSum, TensorSum


class Extent(NamedTuple):
    """A named range of bytes, and its dtype by the kernels' code where its values are to be looked at."""

    name: str
    begin: int
    end: int
    code: int = BYTES


class Layout(NamedTuple):
    """What lies where in a shard: bytes in all, bytes of its header (length prefix included), tensors in file order."""

    name: str
    size: int
    header: int
    tensors: Sequence[Extent]


class Accumulator:
    """The checksums of a model's shards, from pieces of them in any order and from any thread.

    Each byte of each shard is given once. The pieces of a shard are joined, and forgotten, when its last one has come.

    Args:
        shards: what will be written or read.
    """

    def __init__(self, shards: Iterable[Layout]) -> None:
        self._isa = cpu.isa()
        self._shards = [_Shard(s) for s in shards]

    def add(self, shard: int, offset: int, data: Any) -> list[tuple[int, int]]:
        """The bytes of shard number `shard` from `offset` on. They are read once, without the interpreter lock.

        Returns:
            Ranges of the shard, from byte to byte, of a tensor each, that hold values that are not finite.
        """
        from .. import _cpu

        lengths = self._shards[shard].pieces(offset, memoryview(data).nbytes)
        codes = self._shards[shard].codes(offset, len(lengths))
        crcs, nonfinite = _cpu.crc32c_pieces(data, lengths, codes, self._isa)
        self._shards[shard].add(offset, lengths, crcs)
        if True not in nonfinite:
            return []
        ends = list(accumulate(lengths, initial=offset))
        return [(ends[i], ends[i + 1]) for i, bad in enumerate(nonfinite) if bad]

    def shard(self, number: int) -> ShardSum:
        """The checksums of one shard, all of whose bytes must have been given."""
        return self._shards[number].sums()


class _Shard:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        blocks = (b for t in layout.tensors for b in range(t.begin, t.end, BLOCK))
        self._edges = sorted({0, layout.header, layout.size, *blocks, *(t.end for t in layout.tensors)})
        self._codes = [BYTES] * len(self._edges)  # of what begins at an edge
        for t in layout.tensors:
            for i in range(bisect_left(self._edges, t.begin), bisect_left(self._edges, t.end)):
                self._codes[i] = t.code
        self._found: list[tuple[int, int, int]] = []  # (offset, length, crc)
        self._missing = layout.size
        self._sums = self._joined() if layout.size == 0 else None
        self._lock = threading.Lock()

    def pieces(self, offset: int, length: int) -> list[int]:
        first, last = bisect_right(self._edges, offset), bisect_left(self._edges, offset + length)
        cuts = [offset, *self._edges[first:last], offset + length]
        return [end - begin for begin, end in pairwise(cuts)]

    def codes(self, offset: int, count: int) -> list[int]:
        """The dtypes of the first `count` pieces from `offset` on."""
        first = bisect_right(self._edges, offset) - 1
        return self._codes[first : first + count]

    def add(self, offset: int, lengths: Sequence[int], crcs: Sequence[int]) -> None:
        found = []
        for length, crc in zip(lengths, crcs):
            found.append((offset, length, crc))
            offset += length
        with self._lock:
            self._found += found
            self._missing -= sum(lengths)
            if self._missing == 0:
                self._sums = self._joined()
                self._found = []

    def sums(self) -> ShardSum:
        if self._sums is None:
            raise ValueError(f"{self.layout.name}: {self._missing} bytes have not been given")
        return self._sums

    def _joined(self) -> ShardSum:
        between = dict.fromkeys(self._edges, 0)  # by the edge where a stretch begins
        whole, position, start = 0, 0, 0
        for offset, length, crc in sorted(self._found):
            if offset != position:
                raise ValueError(f"{self.layout.name}: bytes {position} to {offset} were given twice or not at all")
            if offset in between:
                start = offset
            between[start] = combine(between[start], crc, length)
            whole, position = combine(whole, crc, length), offset + length
        tensors = {
            t.name: TensorSum(t.begin, t.end - t.begin, tuple(between[b] for b in range(t.begin, t.end, BLOCK)))
            for t in self.layout.tensors
        }
        header = FileSum(self.layout.header, between[0])
        return ShardSum(self.layout.size, whole, header, tensors)
