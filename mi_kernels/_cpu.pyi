"""The compiled CPU kernels (csrc/cpu). A buffer is any object with the buffer protocol. Buffers are not copied."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

# (out, out_offset, a, a_offset, b, b_offset, count, weight, out_dtype, a_dtype, b_dtype): offsets in bytes, count in
# elements, dtypes 0 bf16, 1 float16, 2 float32, 3 bytes (only copied, with weight 0 or 1).
Span = tuple[Any, int, Any, int, Any, int, int, float, int, int, int]

class _Formulas(type):
    def __getattr__(cls, name: str) -> Formula: ...

class Formula(int, metaclass=_Formulas):
    """The formulas over several models, an IntEnum: AFFINE, SUM and all others that csrc/combine.h lists."""

    name: str

class Combine(TypedDict, total=False):
    """How K tensors become one: a formula of csrc/combine.h and its numbers (`struct Combine` there).

    Lists have one entry for each tensor, including the base. With thresholds or densities, the formula may leave out
    elements of a tensor.
    """

    formula: Formula
    weights: Sequence[float]
    scale: float
    normalize: bool
    thresholds: Sequence[float]
    densities: Sequence[float]
    keys: Sequence[int]

Operand = tuple[Any, int, int]  # (buffer, offset in bytes, dtype)

# (out, out_offset, out_dtype, operands, count, first, combine): `first` is the first element's index in its tensor.
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
    """Interpolates one pair like `lerp_addresses`.

    Returns False, and writes nothing, if `out` partly overlaps an input.
    """

def prefer_huge_pages(address: int, bytes: int) -> None:
    """Requests huge pages for memory that has not been used yet. Does nothing if the system does not support them."""

def lerp_groups(spans: Sequence[Span], group: int, isa: str) -> None: ...
def combine_spans(spans: Sequence[CombineSpan], isa: str, threads: int = 1) -> None: ...
def pack_combine(combine: Combine, models: int) -> bytes:
    """Returns `struct Combine` (csrc/combine.h) for this number of operands, as GPU kernels read it.

    Raises:
        ValueError: the formula does not fit the number of operands.
    """

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
    """Computes elements `first` to `first + count` of E4M3 `weight` * `scales`, as float32, with one scale per `block`.

    The offset of `weight` is that of element `first`. The offset of `scales` is that of the first scale of the tensor.
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
    """Computes elements `first` to `first + count` of w + scale * (b @ a), as float32; of (b @ a).T if `transposed`.

    The offset of `w` is that of element `first`. The offsets of `a` and `b` are those of the whole tensors. `w` may be
    `out`.
    """

def crc32c(buffer: Any, offset: int, count: int, isa: str, crc: int = 0) -> int:
    """Returns the CRC-32C of `count` bytes; with `crc`, the checksum of preceding bytes, that of both together."""

def crc32c_pieces(buffer: Any, lengths: Sequence[int], dtypes: Sequence[int], isa: str) -> tuple[list[int], list[bool]]:
    """Returns the CRC-32C of each of several consecutive pieces, and whether any element of a piece is NaN or infinite.

    The first piece is at the start of the buffer. For pieces of bytes, and if `dtypes` is empty, the second value is
    always False.
    """

def crc32c_combine(first: int, second: int, length: int) -> int:
    """Returns the CRC-32C of two consecutive messages from their checksums. `length` is the second one's, in bytes."""

def any_nonfinite(buffer: Any, offset: int, count: int, dtype: int, isa: str) -> bool:
    """Returns whether any of `count` elements is NaN or infinite."""

def count_nonfinite(out: Operand, operands: Sequence[Operand], count: int) -> tuple[list[tuple[int, int]], int]:
    """Counts values that are not finite.

    Returns the numbers of NaN and of infinite elements of each operand; and how many elements of `out` are not finite
    although those of all operands are finite.
    """

def same_bytes(a: Any, a_offset: int, b: Any, b_offset: int, bytes: int) -> bool:
    """Returns whether two ranges of `bytes` bytes are equal. Stops at the first difference."""

def find_overlap(spans: Sequence[Span]) -> tuple[int, str, int] | None: ...
def touch(out: Any, a: Any, b: Any, isa: str, threads: int = 1, stores: Stores = ...) -> None: ...

class GuardedMap:
    """A read-only map of the whole file `fd`, as a buffer of bytes; see csrc/cpu/guard.h.

    The file is unmapped when the last reference to the map or to one of its buffers ends. `fd` is duplicated.

    Raises:
        OSError: the system cannot map the file.
        ValueError: the file is empty, or there are already 65,536 maps.
    """

    def __init__(self, fd: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def fileno(self) -> int: ...
    @property
    def damage(self) -> int | None:
        """The offset of the first page that could not be read, from which the map reads as zeros; None if intact."""

def guard_faults() -> int:
    """Returns the number of faults so far in all maps of the process. It is unchanged while no map is damaged."""
