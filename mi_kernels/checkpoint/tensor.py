"""The dtype, shape and byte range of a tensor in its file."""

from __future__ import annotations

import math
from typing import NamedTuple


class TensorInfo(NamedTuple):
    """A tensor that is stored in a file.

    Attributes:
        name: its name in the header.
        dtype: the dtype by its safetensors name, such as "BF16".
        shape: the shape in elements.
        shard: the number of the file, an index into `Checkpoint.files`.
        begin, end: the byte range, counted from the start of the file; `end` is exclusive.
        nbytes: the size in bytes.
        elements: the number of elements.

    Example:
        >>> from mi_kernels.checkpoint.tensor import TensorInfo
        >>> tensor = TensorInfo("model.norm.weight", "BF16", (2, 3), shard=0, begin=4096, end=4108)
        >>> tensor.elements, tensor.nbytes
        (6, 12)
    """

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
