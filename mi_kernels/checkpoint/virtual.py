"""Virtual tensors: tensors of a model that no file stores. They are computed from stored ones while they are read.

They replace a `TensorInfo` in `Checkpoint.tensors`. `name`, `shape`, `elements` and `shard` have the same meaning.
`dtype` is the dtype of the output unless another one is requested, and `nbytes` counts the bytes to read. The values
are float32; see modules `fp8` and `lora` for the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from .tensor import TensorInfo


class ScaledTensor(NamedTuple):
    """FP8 (E4M3) values with one scale for each block: float32(weight) * float32(scale), rounded once.

    `block` is (rows, columns) that share a scale.
    """

    name: str
    dtype: str
    weight: TensorInfo
    scales: TensorInfo
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def shard(self) -> int:
        return self.weight.shard

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.scales.nbytes

    @property
    def elements(self) -> int:
        return self.weight.elements


class LoraTensor(NamedTuple):
    """base + scale * (b @ a), or base + scale * (b @ a).T if `transposed`. a: [rank, n], b: [m, rank]."""

    base: TensorInfo | ScaledTensor | SavedTensor
    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def dtype(self) -> str:
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def shard(self) -> int:
        return self.base.shard

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def nbytes(self) -> int:
        return self.base.nbytes + self.a.nbytes + self.b.nbytes

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class SavedTensor(NamedTuple):
    """A tensor of the base that an adapter replaces by its own, `whole`, which can have another dtype."""

    name: str
    dtype: str
    whole: TensorInfo
    shard: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.whole.shape

    @property
    def nbytes(self) -> int:
        return self.whole.nbytes

    @property
    def elements(self) -> int:
        return self.whole.elements


Part = TensorInfo | ScaledTensor | SavedTensor | LoraTensor


class StackedTensor(NamedTuple):
    """Tensors of a file that another model stores as one: the parts one after the other, such as fused experts.

    All parts have the same dtype and the same number of elements. The result has the shape `shape`.
    """

    name: str
    dtype: str
    parts: tuple[Part, ...]
    shape: tuple[int, ...]

    @property
    def shard(self) -> int:
        return self.parts[0].shard

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def overlapping(self, first: int, count: int) -> Iterator[tuple[Part, int, int]]:
        """Yields the parts with elements `first` to `first + count`: (part, first element in the part, count)."""
        size, end = self.parts[0].elements, first + count
        if size == 0:
            return
        for number in range(first // size, -(-end // size)):
            low, high = max(first, number * size), min(end, (number + 1) * size)
            yield self.parts[number], low - number * size, high - low


Tensor = TensorInfo | ScaledTensor | LoraTensor | SavedTensor | StackedTensor


def stored_dtype(tensor: Tensor) -> str:
    """Returns the dtype of the weights that a file holds for `tensor`, such as "F8_E4M3" for a tensor with scales.

    Of an adapter's tensor, that is the dtype of the base's weight, or of the tensor that replaces it.
    """
    if isinstance(tensor, ScaledTensor):
        return tensor.weight.dtype
    if isinstance(tensor, SavedTensor):
        return tensor.whole.dtype
    if isinstance(tensor, LoraTensor):
        return stored_dtype(tensor.base)
    return stored_dtype(tensor.parts[0]) if isinstance(tensor, StackedTensor) else tensor.dtype
