"""The chunk table: what one GPU launch reads to know its work, whatever the number and the sizes of the tensors.

A launch has one program (block) for each chunk. Program i looks up its tensor, `chunk_tensor[i]`, and the element it
starts at, `chunk_start[i]`, and handles at most `chunk` elements from there. Tensors of all sizes share one launch, and
no program does more than another. A table holds tensors of one dtype triple (out, a, b), since a kernel is compiled
for one; its codes are those of `dtypes.CODES`: 0 bf16, 1 float16, 2 float32.

A tensor's weight w is lam: 0 copies a and 1 copies b, bytes where the dtypes agree and converted where they differ;
any other is interpolated as the contract says (`ops.linear`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ALIGNMENT = 16  # bytes: every section of a packed table starts at a multiple of it


class Offsets(NamedTuple):
    """Where the sections of a packed table start, in bytes, and how long it is."""

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
        chunk_tensor: int32 [C]: the tensor (row of `tensors`) a chunk belongs to.
        chunk_start: int64 [C]: a chunk's first element in its tensor.
        chunk: elements in a chunk; the last one of a tensor may have fewer.
    """

    tensors: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    chunk_tensor: npt.NDArray[np.int32]
    chunk_start: npt.NDArray[np.int64]
    chunk: int

    @property
    def offsets(self) -> Offsets:
        """The sections of `pack`, in the order of the fields above, each padded to ALIGNMENT bytes."""
        starts, end = [], 0
        for section in self._sections():
            starts.append(end)
            end += -(-section.nbytes // ALIGNMENT) * ALIGNMENT
        return Offsets._make([*starts, end])

    def pack(self) -> npt.NDArray[np.uint8]:
        """The whole table as contiguous bytes, so that it reaches the device in one copy; see `offsets`."""
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
    """Cuts T tensors into chunks.

    Args:
        addresses: int64 [T, 3]: device addresses of out, a and b.
        counts: int64 [T]: elements in each tensor; an empty one owns no chunk.
        weights: float32 [T].
        chunk: elements in a chunk. A multiple of 16 leaves every chunk of an aligned tensor aligned.

    Returns:
        A ChunkTable with sum(ceil(counts / chunk)) chunks, those of a tensor in order and next to each other.
    """
    chunks = -(-counts // chunk)
    chunk_tensor = np.repeat(np.arange(len(counts), dtype=np.int32), chunks)
    first = np.cumsum(chunks) - chunks  # the number of a tensor's first chunk
    chunk_start = (np.arange(len(chunk_tensor), dtype=np.int64) - np.repeat(first, chunks)) * chunk
    tensors = np.empty((len(counts), 4), dtype=np.int64)
    tensors[:, :3], tensors[:, 3] = addresses, counts
    return ChunkTable(tensors, np.ascontiguousarray(weights, dtype=np.float32), chunk_tensor, chunk_start, chunk)
