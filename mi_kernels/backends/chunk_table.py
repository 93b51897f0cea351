"""Describe the work of one GPU launch as a table of chunks, for any number of tensors of any size.

A launch has one program (block) for each chunk. Program i looks up its tensor, `chunk_tensor[i]`, and its first
element, `chunk_start[i]`, and handles at most `chunk` elements from there. Tensors of all sizes share one launch, and
no program does more than another. A table holds tensors of one dtype triple (out, a, b), because a kernel is compiled
for one triple. The dtype codes are those of `dtypes.CODES`: 0 bf16, 1 float16, 2 float32.

A tensor's weight w is lam. A weight of 0 copies a and a weight of 1 copies b: bytes if the dtypes are equal, converted
values otherwise. Any other weight interpolates according to the numerics contract (`ops.linear`). NaN skips the tensor,
whose output keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ALIGNMENT = 16  # bytes: every section of a packed table starts at a multiple of it


class Offsets(NamedTuple):
    """The start of each section of a packed table, and the size of the whole table, in bytes."""

    tensors: int
    weights: int
    chunk_tensor: int
    chunk_start: int
    size: int


class ChunkTable(NamedTuple):
    """The table as NumPy arrays, for T tensors cut into C chunks.

    Attributes:
        tensors: int64 [T, 4]: addresses of out, a and b, and the number of elements.
        weights: float32 [T].
        chunk_tensor: int32 [C]: the tensor (row of `tensors`) that each chunk belongs to.
        chunk_start: int64 [C]: the first element of each chunk in its tensor.
        chunk: elements in a chunk; the last chunk of a tensor may have fewer.
    """

    tensors: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    chunk_tensor: npt.NDArray[np.int32]
    chunk_start: npt.NDArray[np.int64]
    chunk: int

    @property
    def offsets(self) -> Offsets:
        """The offsets of the sections in `pack`, in the order of the fields above, each padded to ALIGNMENT bytes."""
        return Offsets._make(section_offsets(self._sections()))

    def pack(self) -> npt.NDArray[np.uint8]:
        """Packs the table into contiguous bytes, so that one copy moves it to the device; see `offsets`."""
        return pack_sections(self._sections())

    def _sections(self) -> tuple[npt.NDArray[np.generic], ...]:
        return self.tensors, self.weights, self.chunk_tensor, self.chunk_start


def section_offsets(sections: Sequence[npt.NDArray[Any]]) -> list[int]:
    """Returns where each section of a packed table starts, a multiple of ALIGNMENT, and then the size of the table."""
    sizes = [-(-section.nbytes // ALIGNMENT) * ALIGNMENT for section in sections]
    return [0, *accumulate(sizes)]


def pack_sections(sections: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Returns the bytes of the sections at their `section_offsets`."""
    *starts, size = section_offsets(sections)
    packed = np.zeros(size, dtype=np.uint8)
    for start, section in zip(starts, sections):
        packed[start : start + section.nbytes] = section.reshape(-1).view(np.uint8)
    return packed


def divide(counts: npt.NDArray[np.int64], chunk: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Divides tensors of `counts` elements into chunks of at most `chunk`.

    Returns:
        The tensor of each chunk, and its first element there. The chunks of one tensor are consecutive and in order.
    """
    chunks = -(-counts // chunk)
    chunk_tensor = np.repeat(np.arange(len(counts), dtype=np.int32), chunks)
    first = np.cumsum(chunks) - chunks  # the number of a tensor's first chunk
    chunk_start = (np.arange(len(chunk_tensor), dtype=np.int64) - np.repeat(first, chunks)) * chunk
    return chunk_tensor, chunk_start


def build(
    addresses: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], chunk: int
) -> ChunkTable:
    """Divides T tensors into chunks.

    Args:
        addresses: int64 [T, 3]: device addresses of out, a and b.
        counts: int64 [T]: elements in each tensor; an empty tensor has no chunk.
        weights: float32 [T].
        chunk: elements in a chunk. With a multiple of 16, every chunk of an aligned tensor is aligned.

    Returns:
        A ChunkTable with sum(ceil(counts / chunk)) chunks. The chunks of one tensor are consecutive and in order.
    """
    chunk_tensor, chunk_start = divide(counts, chunk)
    tensors = np.empty((len(counts), 4), dtype=np.int64)
    tensors[:, :3], tensors[:, 3] = addresses, counts
    return ChunkTable(tensors, np.ascontiguousarray(weights, dtype=np.float32), chunk_tensor, chunk_start, chunk)
