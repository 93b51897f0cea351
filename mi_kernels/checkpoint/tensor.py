"""Where a tensor lies in its file."""

from __future__ import annotations

import math
from typing import NamedTuple


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
