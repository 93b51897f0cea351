"""What tells a model folder from the record of its checksums, down to the bit where that can be known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .accumulator import Extent, Layout
from .crc import flipped_bit
from .record import BLOCK, ShardSum, TensorSum


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong.

    Attributes:
        file: in the folder.
        kind: "missing", "extra", "shorter", "longer", "bit" (one flipped bit explains it) or "bytes" (it does not).
        tensor: where it lies in one; None in a shard's header, and in other files.
        begin, end: the bytes concerned, of the tensor, or of the file where `tensor` is None; one byte for "bit".
        file_offset: of `begin`.
        bit: 0 the least significant.
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
            return f"{self.file}: is {self.end} bytes long, recorded are {self.begin}{last}"
        place = f" (byte {self.file_offset} of the file)" if self.tensor is not None else ""
        if self.kind == "bit":
            return f"{where}: byte {self.begin}{place}: bit {self.bit} is flipped"
        return f"{where}: several bits, within bytes {self.begin} to {self.end - 1}{place}"


def layout_within(name: str, recorded: ShardSum, size: int) -> Layout:
    """What of a recorded file can be read where it has `size` bytes now."""
    end = min(recorded.size, size)
    tensors = [Extent(t, s.begin, min(s.begin + s.size, end)) for t, s in recorded.tensors.items() if s.begin <= end]
    return Layout(name, end, min(recorded.header.size, end), tensors)


def differences(name: str, recorded: ShardSum, found: ShardSum, size: int) -> Iterator[Damage]:
    """What is wrong with a file of `size` bytes, of which `found` are the checksums within `layout_within`."""
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
        if was != now and end <= found.size:  # a block that is cut off is told already
            yield _located(name, tensor, recorded.begin, begin, end, was ^ now)


def _located(name: str, tensor: str | None, start: int, begin: int, end: int, difference: int) -> Damage:
    """`begin` to `end` count from the byte `start` of the file."""
    place = flipped_bit(difference, end - begin)
    if place is None:
        return Damage(name, "bytes", tensor, begin, end, start + begin)
    at = begin + place[0]
    return Damage(name, "bit", tensor, at, at + 1, start + at, place[1])
