"""What a stream works from: what each output tensor is made of, where it goes, and the memory there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoint.inputs import is_computed
from ..checkpoint.virtual import Tensor
from ..errors import ArgumentError
from ..output.layout import OutputShard
from ..system.calls import PAGE

if TYPE_CHECKING:
    from .._cpu import Combine

CHUNK = 4 << 20  # large enough to amortise a system call, small enough to stay in the last-level cache
DEFAULT_MEMORY = 128 << 20
_SPARE_WORKERS = 4  # so that cores compute while others wait for the disk


class Source(NamedTuple):
    """What one output tensor is made of.

    Attributes:
        inputs: where each model holds it, model by model. Dtypes may differ; shapes do not.
        weights: one for each output: 0 copies inputs[0], 1 copies inputs[1], anything else interpolates the two.
        formula: instead of weights, how all inputs are combined into the one output; see `_cpu.pyi`.
    """

    inputs: tuple[Tensor, ...]
    weights: tuple[float, ...] = ()
    formula: Combine | None = None

    @property
    def copied(self) -> bool:
        """True when every output has the bytes of an input."""
        return self.formula is None and all(w in (0, 1) for w in self.weights)

    def used(self) -> list[int]:
        """The numbers of the models that are read."""
        if self.formula is not None:
            return list(range(len(self.inputs)))
        if self.weights.count(1) == self.weights.count(0) == 0:  # nearly always
            return [0, 1] if self.weights else []
        return [k for k, unused in ((0, 1), (1, 0)) if any(w != unused for w in self.weights)]

    def computed(self) -> list[int]:
        """The numbers of those models that are read whose tensor is computed into scratch memory."""
        if not any(map(is_computed, self.inputs)):  # nearly always
            return []
        return [k for k in self.used() if is_computed(self.inputs[k])]


class Plan(NamedTuple):
    """Everything a stream needs.

    Attributes:
        shards: the files of each output; all outputs are laid out alike.
        sources: a Source for each tensor of the shards.
        models: the files of each input model, by path.
    """

    shards: Sequence[OutputShard]
    sources: Mapping[str, Source]
    models: Sequence[Sequence[str]]

    @property
    def computes(self) -> bool:
        """True when workers need scratch memory."""
        return any(source.computed() for source in self.sources.values())


class Buffers(NamedTuple):
    """How memory is used: bytes of a chunk, and how many workers have one of them for each output."""

    chunk: int
    workers: int


def plan_buffers(threads: int, max_memory: int | None, outputs: int = 1) -> Buffers:
    """Buffers for `threads` computing threads, and four more that wait for the disk, within `max_memory` bytes.

    The default of 128 MiB is a limit; a worker uses 4 MiB of it for each output, or less where there are many. Scratch
    memory counts as one more output.

    Raises:
        ArgumentError: `max_memory` is not enough for one smallest buffer.
    """
    memory = DEFAULT_MEMORY if max_memory is None else max_memory
    if memory < PAGE * outputs:
        raise ArgumentError(
            f"max_memory is {memory} bytes", f"Give at least {PAGE * outputs}; {DEFAULT_MEMORY >> 20} MiB is usual."
        )
    workers = min(threads + _SPARE_WORKERS, memory // (PAGE * outputs))
    return Buffers(min(CHUNK, memory // (workers * outputs)) // PAGE * PAGE, workers)
