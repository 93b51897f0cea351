"""The compiled CPU kernels (csrc/cpu). Buffers are anything with the buffer protocol; nothing is copied."""

from collections.abc import Sequence
from typing import Any, ClassVar

# (out, out_offset, a, a_offset, b, b_offset, count, weight, out_dtype, a_dtype, b_dtype): offsets in bytes, count in
# elements, dtypes 0 bf16, 1 float16, 2 float32, 3 bytes (copied only, weight 0 or 1).
Span = tuple[Any, int, Any, int, Any, int, int, float, int, int, int]

class Stores:
    AUTO: ClassVar[Stores]
    CACHED: ClassVar[Stores]
    STREAMING: ClassVar[Stores]

def isas() -> list[str]: ...
def lerp_spans(spans: Sequence[Span], isa: str, threads: int = 1, stores: Stores = ...) -> None: ...
def find_overlap(spans: Sequence[Span]) -> tuple[int, str, int] | None: ...
def touch(out: Any, a: Any, b: Any, isa: str, threads: int = 1, stores: Stores = ...) -> None: ...
