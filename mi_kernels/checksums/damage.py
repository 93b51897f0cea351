"""Locates the damage in a model folder by comparing it with its recorded checksums, down to one bit if possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .accumulator import Extent, Layout
from .crc import flipped_bit
from .record import BLOCK, ShardSum, TensorSum


@dataclass(frozen=True)
class Damage:
    """One difference between a model folder and its recorded checksums. `str()` describes it in one line.

    Attributes:
        file: the name of the file.
        kind: "missing", "extra", "shorter", "longer", "bit" (one flipped bit explains the difference) or "bytes" (a
            single bit does not explain it).
        tensor: the tensor that contains the damage. None for the header of a shard and for other files.
        begin, end: the damaged byte range, counted from the start of the tensor, or of the file if `tensor` is None.
            One byte for "bit". For "shorter" and "longer" the recorded and the actual size of the file.
        file_offset: the position of `begin` in the file.
        bit: the flipped bit; 0 is the least significant.
    """

    file: str
    kind: str
    tensor: str | None = None
    begin: int = 0
    end: int = 0
    file_offset: int = 0
    bit: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}: {self.tensor}" if self.tensor is not None else self.file
        if self.kind in ("missing", "extra"):
            return f"{where}: {'missing' if self.kind == 'missing' else 'not in the record of checksums'}"
        if self.kind in ("shorter", "longer"):
            last = f", cut off in {self.tensor}" if self.tensor is not None else ""
            return f"{self.file}: has {self.end:,} bytes, but {self.begin:,} are recorded{last}"
        place = f" (byte {self.file_offset:,} of the file)" if self.tensor is not None else ""
        if self.kind == "bit":
            return f"{where}: byte {self.begin:,}{place}: bit {self.bit} is flipped"
        return f"{where}: several bits are wrong in bytes {self.begin:,} to {self.end - 1:,}{place}"


def layout_within(name: str, recorded: ShardSum, size: int) -> Layout:
    """Returns the part of the recorded layout that can be read from a file that now has `size` bytes."""
    end = min(recorded.size, size)
    tensors = [Extent(t, s.begin, min(s.begin + s.size, end)) for t, s in recorded.tensors.items() if s.begin <= end]
    return Layout(name, end, min(recorded.header.size, end), tensors)


def differences(name: str, recorded: ShardSum, found: ShardSum, size: int) -> Iterator[Damage]:
    """Yields the damage in a file that has `size` bytes. `found`: its checksums, measured with `layout_within`."""
    if size < recorded.size:
        cut = (t for t, s in recorded.tensors.items() if s.begin + s.size > size)
        yield Damage(name, "shorter", next(cut, None), recorded.size, size, size)
    elif size > recorded.size:
        yield Damage(name, "longer", None, recorded.size, size, recorded.size)
    parts = []
    if found.header.size == recorded.header.size and found.header.crc != recorded.header.crc:
        parts.append(_located(name, None, 0, 0, recorded.header.size, found.header.crc ^ recorded.header.crc))
    for tensor, sums in recorded.tensors.items():
        if tensor in found.tensors:
            parts += _blocks(name, tensor, sums, found.tensors[tensor])
    yield from parts
    if not parts and found.size == recorded.size and found.crc != recorded.crc:  # between the tensors
        yield _located(name, None, 0, 0, recorded.size, found.crc ^ recorded.crc)


def _blocks(name: str, tensor: str, recorded: TensorSum, found: TensorSum) -> Iterator[Damage]:
    if found == recorded:
        return
    for i, (was, now) in enumerate(zip(recorded.crcs, found.crcs)):
        begin, end = i * BLOCK, min((i + 1) * BLOCK, recorded.size)
        if was != now and end <= found.size:  # a block that is cut off is reported as "shorter"
            yield _located(name, tensor, recorded.begin, begin, end, was ^ now)


def _located(name: str, tensor: str | None, start: int, begin: int, end: int, difference: int) -> Damage:
    """Finds the flipped bit in bytes `begin` to `end`, which are counted from byte `start` of the file."""
    place = flipped_bit(difference, end - begin)
    if place is None:
        return Damage(name, "bytes", tensor, begin, end, start + begin)
    at = begin + place.byte
    return Damage(name, "bit", tensor, at, at + 1, start + at, place.bit)
