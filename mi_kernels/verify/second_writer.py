"""In place of files that are written: those that are there, compared with what would be written."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoint.files import read_file
from ..checkpoint.mapped import MappedFile
from ..checksums.damage import Damage
from ..dtypes import item_size
from ..output.layout import OutputShard

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_MAX_SMALL = 256 << 20  # bytes


@dataclass(frozen=True)
class Difference:
    """A tensor, or a file's header, or a small file, that is not what was computed.

    Attributes:
        file, tensor: which; None for what is no tensor, whose elements are bytes.
        count: elements that differ. elements: how many there are.
        element, begin, file_offset: the first of them: its number, its byte in the tensor and in the file.
        expected, found: its bits, in hexadecimal.
    """

    file: str
    tensor: str | None
    count: int
    elements: int
    element: int
    begin: int
    file_offset: int
    expected: str
    found: str

    def __str__(self) -> str:
        values = f"is {self.found}, computed {self.expected}"
        if self.tensor is None:
            return f"{self.file}: byte {self.begin} {values}; {self.count} bytes differ"
        return (
            f"{self.file}: {self.tensor}: element {self.element} (byte {self.begin}, byte {self.file_offset} of the "
            f"file) {values}; {self.count} of {self.elements} elements differ"
        )


class _Region(NamedTuple):
    """A tensor, or the header where `name` is None: bytes of the file, and of an element."""

    name: str | None
    begin: int
    end: int
    item: int


class Comparison:
    """Shards in `root` against the bytes that a stream computes for them, chunk by chunk."""

    def __init__(self, root: str, shards: Sequence[OutputShard]) -> None:
        self._root = root
        self._shards = {s.name: s for s in shards}
        self._files: list[Damage] = []
        self._found: dict[tuple[str, int], Difference] = {}  # by file and first byte of the region
        self._lock = threading.Lock()

    def open(self, path: str, size: int, io: str) -> _ComparedShard:
        """As `checkpoint.writer.ShardFile`: of the file at `path`, which is only read."""
        name = os.path.basename(path)
        there = os.path.getsize(path) if os.path.isfile(path) else None
        with self._lock:
            if there is None:
                self._files.append(Damage(name, "missing"))
            elif there != size:
                kind = "shorter" if there < size else "longer"
                self._files.append(Damage(name, kind, None, size, there, min(there, size)))
        return _ComparedShard(self, self._shards[name], path if there else None)

    def add(self, new: Difference, region: int) -> None:
        """One chunk's differences in the region that begins at the byte `region`."""
        with self._lock:
            old = self._found.get((new.file, region))
            if old is not None:
                first = min(old, new, key=lambda d: d.element)
                new = Difference(**{**first.__dict__, "count": old.count + new.count})
            self._found[new.file, region] = new

    def found(self, small: Mapping[str, bytes]) -> list[Damage | Difference]:
        """All that differs, `small` files included: in the order of the files, missing ones first."""
        for name, content in small.items():
            self._compare_small(name, content)
        strangers = sorted(n for n in os.listdir(self._root) if n.endswith(".safetensors") and n not in self._shards)
        extra = [Damage(name, "extra") for name in strangers]
        return [*self._files, *extra, *(self._found[key] for key in sorted(self._found))]

    def _compare_small(self, name: str, content: bytes) -> None:
        path = os.path.join(self._root, name)
        if not os.path.lexists(path):
            self._files.append(Damage(name, "missing"))
            return
        there = read_file(path, _MAX_SMALL)
        if len(there) != len(content):
            kind = "shorter" if len(there) < len(content) else "longer"
            self._files.append(Damage(name, kind, None, len(content), len(there), min(len(there), len(content))))
        wrong = [i for i, (x, y) in enumerate(zip(content, there)) if x != y]
        if wrong:
            i = wrong[0]
            values = f"0x{content[i]:02x}", f"0x{there[i]:02x}"
            self.add(Difference(name, None, len(wrong), len(content), i, i, i, *values), 0)


class _ComparedShard:
    """One shard. Without a path there is nothing to compare with, and that has been told."""

    def __init__(self, comparison: Comparison, shard: OutputShard, path: str | None) -> None:
        self._comparison, self._shard = comparison, shard
        self._file = MappedFile(path) if path is not None else None
        tensors = [_Region(t.name, t.begin, t.end, item_size(t.dtype)) for t in shard.tensors]
        self._regions = [_Region(None, 0, len(shard.header), 1), *tensors]
        self._ends = [r.end for r in self._regions]

    def write(self, data: memoryview, offset: int) -> None:
        """Compares `data` with what stands at `offset`; what reaches beyond the end of either is left out.

        Raises:
            CheckpointError: it cannot be read.
        """
        if self._file is None:
            return
        length = min(len(data), min(self._shard.size, len(self._file.data)) - offset)
        if length > 0:
            self._compare_bytes(data[:length], self._file.data[offset : offset + length], offset)
            self._file.check()

    def _compare_bytes(self, data: memoryview, found: memoryview, offset: int) -> None:
        import numpy as np

        length = len(data)
        computed, there = (np.frombuffer(memory, np.uint8) for memory in (data, found))
        if not _same(computed, there):
            for region, begin, end in self._touched(offset, offset + length):
                at = slice(begin - offset, end - offset)
                self._compare(region, begin, computed[at], there[at])

    def _touched(self, begin: int, end: int) -> Iterator[tuple[_Region, int, int]]:
        for region in self._regions[bisect_right(self._ends, begin) :]:
            if region.begin >= end:
                return
            if region.begin < region.end:
                yield region, max(begin, region.begin), min(end, region.end)

    def _compare(self, region: _Region, begin: int, computed: Bytes, there: Bytes) -> None:
        import numpy as np

        wrong = np.flatnonzero(computed != there)
        if len(wrong) == 0:
            return
        elements = np.unique((wrong + (begin - region.begin)) // region.item)
        first = int(elements[0])
        start = first * region.item + region.begin - begin
        bits = [int.from_bytes(x[start : start + region.item].tobytes(), "little") for x in (computed, there)]
        expected, found = (f"0x{value:0{2 * region.item}x}" for value in bits)
        self._comparison.add(
            Difference(
                self._shard.name,
                region.name,
                len(elements),
                (region.end - region.begin) // region.item,
                first,
                first * region.item,
                region.begin + first * region.item,
                expected,
                found,
            ),
            region.begin,
        )

    def close(self) -> None:
        if self._file is not None:
            self._file.__exit__()

    abandon = close


def _same(x: Bytes, y: Bytes) -> bool:
    """Eight bytes at a time, and the rest."""
    import numpy as np

    whole = len(x) // 8 * 8
    return np.array_equal(x[:whole].view(np.uint64), y[:whole].view(np.uint64)) and np.array_equal(x[whole:], y[whole:])
