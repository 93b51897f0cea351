"""Define the units of work of the kernels: one span for each run of consecutive elements in memory.

The compiled extension takes spans as plain tuples in this order (`_cpu.pyi`). Offsets are in bytes and counts in
elements. Dtypes are the codes of the kernels: `dtypes.CODES`, or BYTES for a copy of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..dtypes import BYTES

if TYPE_CHECKING:
    from .._cpu import Combine


class Operand(NamedTuple):
    """Elements to read, which start at byte `offset` of `buffer`."""

    buffer: Any
    offset: int
    dtype: int


class Span(NamedTuple):
    """`elements` elements of out = lerp(a, b, weight). A weight of 0 or 1 copies, or converts if the dtypes differ."""

    out: Any
    out_offset: int
    a: Any
    a_offset: int
    b: Any
    b_offset: int
    elements: int
    weight: float
    out_dtype: int
    a_dtype: int
    b_dtype: int

    @classmethod
    def copy(cls, out: Any, out_offset: int, source: Any, offset: int, nbytes: int) -> Span:
        """Returns a span that copies `nbytes` bytes."""
        return cls(out, out_offset, source, offset, source, offset, nbytes, 0.0, BYTES, BYTES, BYTES)

    @property
    def read(self) -> tuple[Operand, Operand]:
        """The operands to read as a and b. With a weight of 0 or 1, both are the only operand that is read."""
        a, b = Operand(self.a, self.a_offset, self.a_dtype), Operand(self.b, self.b_offset, self.b_dtype)
        return (b if self.weight == 1 else a), (a if self.weight == 0 else b)

    @property
    def copies(self) -> bool:
        """True if the output is a byte copy of an input."""
        read = self.b_dtype if self.weight == 1 else self.a_dtype
        return BYTES in self[8:] or (self.weight in (0, 1) and self.out_dtype == read)


class CombineSpan(NamedTuple):
    """`elements` elements of out = formula(operands). `first` is the index of the first one in its tensor."""

    out: Any
    out_offset: int
    out_dtype: int
    operands: Sequence[Operand]
    elements: int
    first: int
    formula: Combine
