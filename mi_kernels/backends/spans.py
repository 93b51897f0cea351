"""The units of work that a kernel is handed: one span for each run of elements that lie side by side in memory.

The compiled extension takes them as plain tuples in this order (`_cpu.pyi`). Offsets are bytes, counts are elements,
dtypes are the kernels' codes (`dtypes.CODES`, or BYTES for what is copied).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..dtypes import BYTES

if TYPE_CHECKING:
    from .._cpu import Formula


class Operand(NamedTuple):
    """Elements to read: they start at byte `offset` of `buffer`."""

    buffer: Any
    offset: int
    dtype: int


class Span(NamedTuple):
    """out = lerp(a, b, weight), `elements` of them. Weight 0 or 1 copies, or converts where the dtypes differ."""

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
        """A copy of `nbytes` bytes."""
        return cls(out, out_offset, source, offset, source, offset, nbytes, 0.0, BYTES, BYTES, BYTES)

    @property
    def read(self) -> tuple[Operand, Operand]:
        """What is read as a and as b. A weight of 0 or 1 reads only one of them, which then stands for both."""
        a, b = Operand(self.a, self.a_offset, self.a_dtype), Operand(self.b, self.b_offset, self.b_dtype)
        return (b if self.weight == 1 else a), (a if self.weight == 0 else b)

    @property
    def copies(self) -> bool:
        """True when the output has the bytes of an input."""
        read = self.b_dtype if self.weight == 1 else self.a_dtype
        return BYTES in self[8:] or (self.weight in (0, 1) and self.out_dtype == read)


class CombineSpan(NamedTuple):
    """out = formula(operands), `elements` of them; `first` is the index of the first one in its tensor."""

    out: Any
    out_offset: int
    out_dtype: int
    operands: Sequence[Operand]
    elements: int
    first: int
    formula: Formula
