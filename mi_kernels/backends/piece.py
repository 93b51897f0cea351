"""Divide spans into pieces, and lay out a piece in a block of memory: what a GPU copies in, computes and copies out.

    | operands | chunk tables | free | outputs |
    0          ^ copied in, with the tables -> end         start -> copied out ^

Groups of outputs that share their operands lie one after the other. Every tensor starts at a multiple of ALIGNMENT.
A piece has the same layout in pinned memory and in device memory, so that the address of a tensor is that of the block
plus an offset. The tables (`chunk_table.py`) describe the launches, and travel with the operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..dtypes import CODE_SIZES
from . import chunk_table
from .device_table import DeviceTable, Triple
from .spans import CombineSpan, Operand, Span

if TYPE_CHECKING:
    import torch

ALIGNMENT = 16  # bytes: the kernels' wide accesses
_PAGE = 4096
_STEP = 64  # elements: a group is cut at multiples of this
_ROW = 4 * 8 + 4 + 4 + 8  # bytes of a tensor in a table: its row, its weight, its first chunk
# A further chunk has 12 bytes for at least 8192 elements of at least 2 bytes: less than 1 / 1024 of what it describes.
_CHUNKS = 1024
_SECTIONS = 27 * 4 * chunk_table.ALIGNMENT  # bytes that align the sections of a table for each dtype triple


class Lerp(NamedTuple):
    """One output of a group: the numbers of a and b among the operands, and lam."""

    a: int
    b: int
    weight: float


class Group(NamedTuple):
    """Outputs of `elements` elements that are computed from the same operands: interpolations, or one formula.

    Attributes:
        operands: what is read. Each is copied to the device once.
        outs: what is written.
        lerps: how each output is computed, unless `combine` is.
        combine: the span whose formula computes the only output.
    """

    elements: int
    operands: Sequence[Operand]
    outs: Sequence[Operand]
    lerps: Sequence[Lerp] = ()
    combine: CombineSpan | None = None

    @classmethod
    def of_lerps(cls, spans: Sequence[Span]) -> Group:
        """Returns the group of spans that read the same elements, and are no copies."""
        numbers: dict[tuple[int, int, int], int] = {}  # equal operands have an equal key
        operands: list[Operand] = []

        def number(operand: Operand) -> int:
            key = id(operand.buffer), operand.offset, operand.dtype
            if key not in numbers:
                numbers[key] = len(operands)
                operands.append(operand)
            return numbers[key]

        reads = [span.read for span in spans]
        lerps = [Lerp(number(a), number(b), span.weight) for (a, b), span in zip(reads, spans)]
        return cls(spans[0].elements, operands, [Operand(s.out, s.out_offset, s.out_dtype) for s in spans], lerps)

    @classmethod
    def of_combine(cls, span: CombineSpan) -> Group:
        """Returns the group of one formula."""
        out = Operand(span.out, span.out_offset, span.out_dtype)
        return cls(span.elements, span.operands, [out], combine=span)

    @property
    def space(self) -> Space:
        """The memory that the group needs."""
        return Space.of([x.dtype for x in self.operands], [x.dtype for x in self.outs])


class Space(NamedTuple):
    """The bytes that a group needs in a piece: `fixed`, and `each` for each element."""

    fixed: int
    each: int

    @classmethod
    def of(cls, operands: Sequence[int], outs: Sequence[int]) -> Space:
        """Returns the space of a group with these dtype codes."""
        fixed = (ALIGNMENT - 1) * (len(operands) + len(outs)) + _ROW * len(outs)
        return cls(fixed, sum(CODE_SIZES[code] for code in (*operands, *outs)))

    def bytes(self, elements: int) -> int:
        """Returns the bytes for `elements` elements."""
        return self.fixed + elements * self.each

    @property
    def slack(self) -> int:
        """The bytes by which a cut inside the group can exceed an equal share."""
        return self.bytes(_STEP)


def size_for(nbytes: int) -> int:
    """Returns the size of a block that holds groups of `nbytes` bytes (see `Space`), in whole pages."""
    least = -(-(nbytes + 1 + _SECTIONS) * _CHUNKS // (_CHUNKS - 1))  # so that _room(least) >= nbytes
    return -(-least // _PAGE) * _PAGE


def _room(size: int) -> int:
    """Returns the bytes for groups in a block of `size` bytes; the rest is for their tables."""
    return size - size // _CHUNKS - 1 - _SECTIONS


def least_size(space: Space) -> int:
    """Returns the smallest size of a block for groups that need `space` or less: any group can be cut to fit."""
    return size_for(2 * space.slack)


class Part(NamedTuple):
    """Elements `first` to `first + elements` of a group."""

    group: Group
    first: int
    elements: int


def parts(groups: Sequence[Group], size: int) -> Iterator[list[Part]]:
    """Divides groups into pieces that fit into blocks of `size` bytes: one, or a few of about the same size.

    Args:
        size: at least `least_size` of every group.
    """
    spaces = [group.space for group in groups]
    ends = np.cumsum([space.bytes(group.elements) for space, group in zip(spaces, groups)])
    if not len(ends):
        return
    total, slack = int(ends[-1]), max(space.slack for space in spaces)
    room = _room(size)
    pieces = 1 if total <= room else -(-total // (room - slack))
    piece: list[Part] = []
    number = 1  # of the next cut, after `total * number / pieces` bytes
    for group, space, end in zip(groups, spaces, ends.tolist()):
        begin, first = end - space.bytes(group.elements), 0
        while end > (cut := total * number // pieces):
            stop = max(first, (cut - begin - space.fixed) // space.each // _STEP * _STEP)
            if stop > first:
                piece.append(Part(group, first, stop - first))
            if piece:
                yield piece
            piece, first, number = [], stop, number + 1
        if group.elements > first:
            piece.append(Part(group, first, group.elements - first))
    if piece:
        yield piece


class Placed(NamedTuple):
    """A part in a block: the offset of each operand and of each output, in bytes."""

    part: Part
    operands: Sequence[int]
    outs: Sequence[int]


class Launch(NamedTuple):
    """A chunk table in a block, which describes one launch.

    Attributes:
        start: the offset of the table in the block. The offsets of its sections are relative to it.
        chunks, chunk: the number of chunks, and the elements in a chunk.
    """

    triple: Triple
    start: int
    offsets: chunk_table.Offsets
    chunks: int
    chunk: int

    def table(self, block: torch.Tensor) -> DeviceTable:
        """Returns the table in a block of device memory. Its upload is the caller's."""
        return DeviceTable(block[self.start :], self.offsets, self.chunks, self.chunk, None, None)


class Layout:
    """The parts of one piece, placed in a block of `size` bytes, and its tables.

    Attributes:
        placed: the parts.
        end: the end of the operands and tables, which are copied in.
        start: the start of the outputs, which are copied out.
    """

    def __init__(self, piece: Sequence[Part], size: int) -> None:
        self.end, self.start = 0, size
        self.placed = [self._place(part) for part in piece]

    def _place(self, part: Part) -> Placed:
        operands, outs = [], []
        for operand in part.group.operands:
            operands.append(self.end)
            self.end = _aligned(self.end + part.elements * CODE_SIZES[operand.dtype])
        for out in part.group.outs:
            self.start = (self.start - part.elements * CODE_SIZES[out.dtype]) // ALIGNMENT * ALIGNMENT
            outs.append(self.start)
        return Placed(part, operands, outs)

    def fills(self, block: object) -> list[Span]:
        """Returns the copies of the operands into the block."""
        return [
            Span.copy(block, at, operand.buffer, operand.offset + part.first * size, part.elements * size)
            for part, operands, _ in self.placed
            for at, operand in zip(operands, part.group.operands)
            for size in (CODE_SIZES[operand.dtype],)
        ]

    def drains(self, block: object) -> list[Span]:
        """Returns the copies of the outputs out of the block."""
        return [
            Span.copy(out.buffer, out.offset + part.first * size, block, at, part.elements * size)
            for part, _, outs in self.placed
            for at, out in zip(outs, part.group.outs)
            for size in (CODE_SIZES[out.dtype],)
        ]

    def add_tables(self, block: npt.NDArray[np.uint8], base: int, chunk_for: Callable[[int], int]) -> list[Launch]:
        """Writes the tables of all interpolations into the block, behind the operands.

        Args:
            base: the address of the block in device memory.
            chunk_for: returns the elements in a chunk for a launch over so many elements.

        Returns:
            One launch for each dtype triple.
        """
        rows: list[tuple[int, ...]] = []
        weights: list[float] = []
        for part, operands, outs in self.placed:
            dtypes = [operand.dtype for operand in part.group.operands]
            for at, out, (a, b, weight) in zip(outs, part.group.outs, part.group.lerps):
                rows.append((out.dtype, dtypes[a], dtypes[b], at, operands[a], operands[b], part.elements))
                weights.append(weight)
        if not rows:
            return []
        table, lams = np.array(rows, np.int64), np.array(weights, np.float32)
        codes = table[:, 0] * 16 + table[:, 1] * 4 + table[:, 2]
        launches = []
        for code in np.unique(codes).tolist():
            mine = codes == code
            addresses, counts = table[mine, 3:6] + base, table[mine, 6]
            built = chunk_table.build(addresses, counts, lams[mine], chunk_for(int(counts.sum())))
            triple = Triple(code // 16, code // 4 % 4, code % 4)
            launches.append(Launch(triple, self.end, built.offsets, len(built.chunk_tensor), built.chunk))
            packed = built.pack()
            block[self.end : self.end + len(packed)] = packed
            self.end += len(packed)
        return launches


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
