"""The compiled CPU kernels (csrc/cpu). Buffers are anything with the buffer protocol; nothing is copied."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

# (out, out_offset, a, a_offset, b, b_offset, count, weight, out_dtype, a_dtype, b_dtype): offsets in bytes, count in
# elements, dtypes 0 bf16, 1 float16, 2 float32, 3 bytes (copied only, weight 0 or 1).
Span = tuple[Any, int, Any, int, Any, int, int, float, int, int, int]

class _Formulas(type):
    def __getattr__(cls, name: str) -> Formula: ...

class Formula(int, metaclass=_Formulas):
    """The formulas over several models, an IntEnum: AFFINE, SUM and all others that csrc/combine.h lists."""

    name: str

class Combine(TypedDict, total=False):
    """How K tensors become one: a formula of csrc/combine.h and its numbers (`struct Combine` there).

    Lists have an entry for each tensor, the base's among them. Where there are thresholds or densities, the formula may
    leave elements of a tensor out.
    """

    formula: Formula
    weights: Sequence[float]
    scale: float
    normalize: bool
    thresholds: Sequence[float]
    densities: Sequence[float]
    keys: Sequence[int]

Operand = tuple[Any, int, int]  # (buffer, offset in bytes, dtype)

# (out, out_offset, out_dtype, operands, count, first, combine): `first` is the place of the elements in their tensor.
CombineSpan = tuple[Any, int, int, Sequence[Operand], int, int, Combine]

class Stores:
    AUTO: ClassVar[Stores]
    CACHED: ClassVar[Stores]
    STREAMING: ClassVar[Stores]

def isas() -> list[str]: ...
def lerp_spans(spans: Sequence[Span], isa: str, threads: int = 1, stores: Stores = ...) -> None: ...
def lerp_addresses(
    table: Any, weights: Any, out_dtype: int, a_dtype: int, b_dtype: int, isa: str, threads: int = 1
) -> None: ...
def lerp_pair(
    out: int,
    a: int,
    b: int,
    count: int,
    weight: float,
    out_dtype: int,
    a_dtype: int,
    b_dtype: int,
    isa: str,
    threads: int = 1,
) -> bool:
    """As `lerp_addresses` for one pair; False, with nothing done, where `out` overlaps an input without being it."""

def prefer_huge_pages(address: int, bytes: int) -> None:
    """Asks the system for huge pages under memory that has not been touched yet; does nothing where it has none."""

def lerp_groups(spans: Sequence[Span], group: int, isa: str) -> None: ...
def combine_spans(spans: Sequence[CombineSpan], isa: str, threads: int = 1) -> None: ...
def moments(a: Operand, b: Operand, base: Operand | None, count: int, isa: str) -> list[float]: ...
def select(
    x: Operand, base: Operand, count: int, low: int, high: int, found: Any, at: int, isa: str
) -> tuple[int, int]: ...
def histogram(x: Operand, base: Operand, count: int, counts: Any, high: int | None, isa: str) -> None: ...
def scaled(
    out: Any,
    weight: tuple[Any, int],
    scales: Operand,
    shape: tuple[int, int],
    block: tuple[int, int],
    first: int,
    count: int,
    isa: str,
) -> None:
    """out[:count] in float32 = elements `first` onwards of E4M3 `weight` * `scales`, one scale for each `block`.

    The offset of `weight` is that of element `first`, the offset of `scales` that of the whole tensor's first scale.
    """

def low_rank(
    out: Any,
    w: Operand,
    a: Operand,
    b: Operand,
    shape: tuple[int, int],
    rank: int,
    transposed: bool,
    scale: float,
    first: int,
    count: int,
    isa: str,
) -> None:
    """out[:count] in float32 = elements `first` onwards of w + scale * (b @ a); of w + scale * (b @ a).T if transposed.

    The offset of `w` is that of element `first`, the others' are the whole tensors'. `w` may be `out`.
    """

def crc32c(buffer: Any, offset: int, count: int, isa: str, crc: int = 0) -> int:
    """CRC-32C of `count` bytes; of a message that ends with them, where `crc` is that of what comes before."""

def crc32c_pieces(buffer: Any, lengths: Sequence[int], dtypes: Sequence[int], isa: str) -> tuple[list[int], list[bool]]:
    """CRC-32C of each of several pieces in a row, the first one at the start of the buffer; and whether any element of
    it is NaN or infinite. Pieces that are bytes are not asked for that, and none is where `dtypes` is empty."""

def crc32c_combine(first: int, second: int, length: int) -> int:
    """CRC-32C of two messages in a row from theirs; `length` is the second one's in bytes."""

def any_nonfinite(buffer: Any, offset: int, count: int, dtype: int, isa: str) -> bool:
    """Whether any of `count` elements is NaN or infinite."""

def count_nonfinite(out: Operand, operands: Sequence[Operand], count: int) -> tuple[list[tuple[int, int]], int]:
    """How many of each operand's `count` elements are NaN, and how many infinite; and how many of `out` are not finite
    where those of all operands are."""

def same_bytes(a: Any, a_offset: int, b: Any, b_offset: int, bytes: int) -> bool:
    """Whether two ranges of as many bytes are the same; stops at the first difference."""

def find_overlap(spans: Sequence[Span]) -> tuple[int, str, int] | None: ...
def touch(out: Any, a: Any, b: Any, isa: str, threads: int = 1, stores: Stores = ...) -> None: ...

class GuardedMap:
    """A read-only map of the whole file `fd`, as a buffer of bytes: see csrc/cpu/guard.h.

    It is unmapped when the last reference to it or to one of its buffers is gone. `fd` is duplicated.

    Raises:
        OSError: the system refuses.
        ValueError: the file is empty, or there are 65,536 maps already.
    """

    def __init__(self, fd: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def fileno(self) -> int: ...
    @property
    def damage(self) -> int | None:
        """Where the first page begins that could not be read: from there on the map reads as zeros. None: intact."""

def guard_faults() -> int:
    """How many faults there have been so far in all maps of the process: unchanged means no damage since."""
