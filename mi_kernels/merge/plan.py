"""The plan of a stream: how each output tensor is computed, where it is written, and the size of the buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoint.inputs import is_computed
from ..checkpoint.virtual import Tensor
from ..errors import ArgumentError
from ..output.layout import OutputShard
from ..system.calls import PAGE

if TYPE_CHECKING:
    from .._cpu import Combine

CHUNK = 4 << 20  # bytes: large enough to amortize a system call, small enough for the last-level cache
DEFAULT_MEMORY = 128 << 20
_SPARE_WORKERS = 4  # more workers than cores: some compute while others wait for the disk


class Source(NamedTuple):
    """How one output tensor is computed.

    Attributes:
        inputs: the tensor in each model. The shapes are equal; the dtypes can differ.
        weights: one weight for each output: 0 copies inputs[0], 1 copies inputs[1], other weights interpolate the two.
        formula: used instead of weights: how all inputs are combined into a single output; see `_cpu.pyi`.
        kept: used instead of weights and formula: the number of the model that every output copies.
        common: the number of elements that all inputs have, counted from the first. Every output copies the rest from
            inputs[0]. None: all inputs have all elements.
    """

    inputs: tuple[Tensor, ...]
    weights: tuple[float, ...] = ()
    formula: Combine | None = None
    kept: int | None = None
    common: int | None = None

    @property
    def copied(self) -> bool:
        """True if every output is a copy of an input."""
        return self.kept is not None or (self.formula is None and all(w in (0, 1) for w in self.weights))

    def copied_to(self, output: int) -> bool:
        """Returns True if output number `output` is a copy of an input."""
        return self.kept is not None or (self.formula is None and self.weights[output] in (0, 1))

    def split(self, first: int, count: int) -> Iterator[tuple[Source, int, int]]:
        """Divides elements `first` to `first + count` into those that all inputs have and the rest.

        Yields:
            (source of a part, first element, number of elements)
        """
        end = first + count
        if self.common is None:  # the most frequent case
            yield self, first, count
            return
        if first < self.common:
            yield self._replace(common=None), first, min(end, self.common) - first
        if end > self.common:
            start = max(first, self.common)
            yield Source(self.inputs, self.weights, kept=0), start, end - start

    def used(self) -> list[int]:
        """Returns the numbers of the models that are read."""
        if self.kept is not None:
            return [self.kept]
        if self.common is not None:
            return sorted({0, *self._replace(common=None).used()})
        if self.formula is not None:
            return list(range(len(self.inputs)))
        if self.weights.count(1) == self.weights.count(0) == 0:  # the most frequent case
            return [0, 1] if self.weights else []
        return [k for k, unused in ((0, 1), (1, 0)) if any(w != unused for w in self.weights)]

    def computed(self) -> list[int]:
        """Returns the numbers of the models that are read and whose tensor is first computed into scratch memory."""
        if not any(map(is_computed, self.inputs)):  # the most frequent case
            return []
        return [k for k in self.used() if is_computed(self.inputs[k])]


class Plan(NamedTuple):
    """Everything a stream needs.

    Attributes:
        shards: the files of an output. All outputs have the same layout.
        sources: the Source of each tensor of the shards, by name.
        models: the paths of the files of each input model.
    """

    shards: Sequence[OutputShard]
    sources: Mapping[str, Source]
    models: Sequence[Sequence[str]]

    @property
    def computes(self) -> bool:
        """True if the workers need scratch memory."""
        return any(source.computed() for source in self.sources.values())


class Buffers(NamedTuple):
    """The size of the buffers.

    Attributes:
        chunk: the size of a chunk in bytes.
        workers: the number of workers. Each has a buffer of one chunk for each output.
    """

    chunk: int
    workers: int


def plan_buffers(threads: int, max_memory: int | None, outputs: int = 1) -> Buffers:
    """Plans buffers within `max_memory` bytes, for `threads` computing threads and four more that wait for the disk.

    The default limit is 128 MiB. A worker uses 4 MiB for each output, or less if there are many workers or outputs.
    Scratch memory counts as one more output.

    Raises:
        ArgumentError: `max_memory` is too small for one worker with the smallest buffers.
    """
    memory = DEFAULT_MEMORY if max_memory is None else max_memory
    if memory < PAGE * outputs:
        raise ArgumentError(
            f"max_memory is {memory} bytes, which is too small",
            f"Use at least {PAGE * outputs} bytes (default: {DEFAULT_MEMORY >> 20} MiB).",
            argument="max_memory",
        )
    workers = min(threads + _SPARE_WORKERS, memory // (PAGE * outputs))
    return Buffers(min(CHUNK, memory // (workers * outputs)) // PAGE * PAGE, workers)
