"""Where a tensor lies in its file, and the sizes of safetensors' dtypes."""

from __future__ import annotations

import math
from typing import NamedTuple

# Bytes an element, by the name the safetensors header uses. Dtypes of less than a byte are copied as they are.
ITEM_SIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


class TensorInfo(NamedTuple):
    """One tensor: `shape` in elements, bytes `begin` to `end` of the shard numbered `shard`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def elements(self) -> int:
        return math.prod(self.shape)
