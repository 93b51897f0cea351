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

from typing import NamedTuple

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
        starts, end = [], 0
        for section in self._sections():
            starts.append(end)
            end += -(-section.nbytes // ALIGNMENT) * ALIGNMENT
        return Offsets._make([*starts, end])

    def pack(self) -> npt.NDArray[np.uint8]:
        """Packs the table into contiguous bytes, so that one copy moves it to the device; see `offsets`."""
        offsets = self.offsets
        packed = np.zeros(offsets.size, dtype=np.uint8)
        for start, section in zip(offsets, self._sections()):
            packed[start : start + section.nbytes] = section.reshape(-1).view(np.uint8)
        return packed

    def _sections(self) -> tuple[npt.NDArray[np.generic], ...]:
        return self.tensors, self.weights, self.chunk_tensor, self.chunk_start


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
    chunks = -(-counts // chunk)
    chunk_tensor = np.repeat(np.arange(len(counts), dtype=np.int32), chunks)
    first = np.cumsum(chunks) - chunks  # the number of a tensor's first chunk
    chunk_start = (np.arange(len(chunk_tensor), dtype=np.int64) - np.repeat(first, chunks)) * chunk
    tensors = np.empty((len(counts), 4), dtype=np.int64)
    tensors[:, :3], tensors[:, 3] = addresses, counts
    return ChunkTable(tensors, np.ascontiguousarray(weights, dtype=np.float32), chunk_tensor, chunk_start, chunk)
