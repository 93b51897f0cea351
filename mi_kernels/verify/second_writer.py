"""Compare the shards of an existing folder with computed shards: a writer that compares instead of writing."""

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
    """A tensor, the header of a shard, or a small file that differs from the computed one.

    Attributes:
        file: the name of the file.
        tensor: the name of the tensor, or None for a header or a small file. Their elements are bytes.
        count: the number of elements that differ.
        elements: the number of elements in total.
        element: the index of the first element that differs.
        begin: the offset of this element in the tensor, in bytes.
        file_offset: the offset of this element in the file, in bytes.
        expected, found: the bits of this element as computed and in the file, in hexadecimal.
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
        values = f"is {self.found}, expected {self.expected}"
        if self.tensor is None:
            return f"{self.file}: byte {self.begin:,} {values}; {self.count:,} of {self.elements:,} bytes differ"
        return (
            f"{self.file}: {self.tensor}: element {self.element:,} (byte {self.begin:,}, byte {self.file_offset:,} of "
            f"the file) {values}; {self.count:,} of {self.elements:,} elements differ"
        )


class _Region(NamedTuple):
    """The byte range of a tensor in its file, or of the header if `name` is None. `item` is the size of an element."""

    name: str | None
    begin: int
    end: int
    item: int


class Comparison:
    """Compares the shards in `root` with the bytes that a stream computes for them, chunk by chunk."""

    def __init__(self, root: str, shards: Sequence[OutputShard]) -> None:
        self._root = root
        self._shards = {s.name: s for s in shards}
        self._files: list[Damage] = []
        self._found: dict[tuple[str, int], Difference] = {}  # by file and first byte of the region
        self._lock = threading.Lock()

    def open(self, path: str, size: int, io: str) -> _ComparedShard:
        """Opens the file at `path` for comparison. The result has the interface of a writer, but only reads."""
        name = os.path.basename(path)
        actual = os.path.getsize(path) if os.path.isfile(path) else None
        with self._lock:
            if actual is None:
                self._files.append(Damage(name, "missing"))
            elif actual != size:
                kind = "shorter" if actual < size else "longer"
                self._files.append(Damage(name, kind, None, size, actual, min(actual, size)))
        return _ComparedShard(self, self._shards[name], path if actual else None)

    def add(self, new: Difference, region: int) -> None:
        """Adds the differences of one chunk to those of the region that begins at byte `region` of the file."""
        with self._lock:
            old = self._found.get((new.file, region))
            if old is not None:
                first = min(old, new, key=lambda d: d.element)
                new = Difference(**{**first.__dict__, "count": old.count + new.count})
            self._found[new.file, region] = new

    def found(self, small: Mapping[str, bytes]) -> list[Damage | Difference]:
        """Returns all differences, including those of the `small` files: missing and extra files, then the contents."""
        for name, content in small.items():
            self._compare_small(name, content)
        unknown = sorted(n for n in os.listdir(self._root) if n.endswith(".safetensors") and n not in self._shards)
        extra = [Damage(name, "extra") for name in unknown]
        return [*self._files, *extra, *(self._found[key] for key in sorted(self._found))]

    def _compare_small(self, name: str, content: bytes) -> None:
        path = os.path.join(self._root, name)
        if not os.path.lexists(path):
            self._files.append(Damage(name, "missing"))
            return
        actual = read_file(path, _MAX_SMALL)
        if len(actual) != len(content):
            kind = "shorter" if len(actual) < len(content) else "longer"
            self._files.append(Damage(name, kind, None, len(content), len(actual), min(len(actual), len(content))))
        import numpy as np

        length = min(len(content), len(actual))
        computed, found = (np.frombuffer(memory, np.uint8, length) for memory in (content, actual))
        wrong = computed != found
        if count := int(np.count_nonzero(wrong)):
            i = int(wrong.argmax())
            values = f"0x{content[i]:02x}", f"0x{actual[i]:02x}"
            self.add(Difference(name, None, count, len(content), i, i, i, *values), 0)


class _ComparedShard:
    """One shard. A `path` of None is a missing or empty file, which `Comparison.open` has reported."""

    def __init__(self, comparison: Comparison, shard: OutputShard, path: str | None) -> None:
        self._comparison, self._shard = comparison, shard
        self._file = MappedFile(path) if path is not None else None
        tensors = [_Region(t.name, t.begin, t.end, item_size(t.dtype)) for t in shard.tensors]
        self._regions = [_Region(None, 0, len(shard.header), 1), *tensors]
        self._ends = [r.end for r in self._regions]

    def write(self, data: memoryview, offset: int) -> None:
        """Compares `data` with the bytes at `offset` of the file, up to the end of the shorter one.

        Raises:
            CheckpointError: the file cannot be read.
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
        computed, actual = (np.frombuffer(memory, np.uint8) for memory in (data, found))
        if not _same(computed, actual):
            for region, begin, end in self._overlapping(offset, offset + length):
                at = slice(begin - offset, end - offset)
                self._compare(region, begin, computed[at], actual[at])

    def _overlapping(self, begin: int, end: int) -> Iterator[tuple[_Region, int, int]]:
        """Yields the regions that overlap bytes `begin` to `end` of the file, with the range of the overlap."""
        for region in self._regions[bisect_right(self._ends, begin) :]:
            if region.begin >= end:
                return
            if region.begin < region.end:
                yield region, max(begin, region.begin), min(end, region.end)

    def _compare(self, region: _Region, begin: int, computed: Bytes, actual: Bytes) -> None:
        import numpy as np

        wrong = computed != actual  # by byte, and a chunk starts with a whole element
        missing = -len(wrong) % region.item  # bytes of the last element, if the file ends within it
        elements = (np.pad(wrong, (0, missing)) if missing else wrong).view(f"u{region.item}") != 0
        count = int(np.count_nonzero(elements))
        if count == 0:
            return
        first = int(elements.argmax()) + (begin - region.begin) // region.item
        start = first * region.item + region.begin - begin
        bits = [int.from_bytes(x[start : start + region.item].tobytes(), "little") for x in (computed, actual)]
        expected, found = (f"0x{value:0{2 * region.item}x}" for value in bits)
        self._comparison.add(
            Difference(
                file=self._shard.name,
                tensor=region.name,
                count=count,
                elements=(region.end - region.begin) // region.item,
                element=first,
                begin=first * region.item,
                file_offset=region.begin + first * region.item,
                expected=expected,
                found=found,
            ),
            region.begin,
        )

    def close(self) -> None:
        if self._file is not None:
            self._file.__exit__()

    abandon = close


def _same(x: Bytes, y: Bytes) -> bool:
    """Returns whether two byte arrays are equal. Compares eight bytes at a time, and then the rest."""
    import numpy as np

    whole = len(x) // 8 * 8
    return np.array_equal(x[:whole].view(np.uint64), y[:whole].view(np.uint64)) and np.array_equal(x[whole:], y[whole:])
