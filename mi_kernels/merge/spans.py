"""Computes pieces of output tensors into memory, for merges into files and merges in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ..backends import cpu
from ..backends.spans import CombineSpan, Operand, Span
from ..checkpoint.inputs import Inputs
from ..checkpoint.virtual import Tensor
from ..dtypes import BYTES, CODES, code_of, item_size
from ..system.calls import io_buffer
from .plan import Source

if TYPE_CHECKING:
    from .._cpu import Combine

_BLOCK = 1 << 18  # elements of a virtual tensor at a time: its float32 values stay in the second-level cache


class Runner(Protocol):
    """Computes spans: `CpuRunner`, or `backends.gpu_runner.SpanRunner`. Any thread may call it."""

    def run_groups(self, spans: Sequence[Span], group: int) -> None:
        """Runs spans. Each `group` consecutive spans are outputs of one pair, which is read only once."""

    def run_combine(self, spans: Sequence[CombineSpan]) -> None:
        """Runs the formulas over several models."""


class CpuRunner:
    """Runs spans with the CPU kernels, on the calling thread."""

    def __init__(self, isa: str) -> None:
        self._isa = isa

    def run_groups(self, spans: Sequence[Span], group: int) -> None:
        cpu.run_groups(spans, group, self._isa)

    def run_combine(self, spans: Sequence[CombineSpan]) -> None:
        cpu.run_combine(spans, self._isa)


class Filler:
    """Collects spans until `flush` computes them. Computes a virtual tensor at once, block by block.

    Args:
        inputs: the open files of the models.
        scratch: memory for virtual tensors, which are computed on the CPU. It can be empty if there are none.
        runner: computes the spans.
    """

    def __init__(self, inputs: Inputs, scratch: memoryview, runner: Runner) -> None:
        self._inputs, self._scratch, self._runner = inputs, scratch, runner
        self._lerps: list[Span] = []
        self._combines: list[CombineSpan] = []

    def add(
        self,
        slots: Sequence[memoryview],
        at: int,
        source: Source,
        weights: Sequence[float],
        out: Tensor,
        begin: int,
        length: int,
    ) -> None:
        """Adds elements `begin` to `begin + length` of a tensor, to be written to every slot from byte `at` on.

        Args:
            slots: one buffer for each output. A formula fills only the first.
            source: how the tensor is computed.
            weights: one weight for each slot; see `Source`.
            out: the output tensor. Only its dtype is used.
        """
        computed = source.computed()
        block = min(_BLOCK, len(self._scratch) // len(computed) // 4) if computed else length
        item = item_size(out.dtype)
        for first in range(begin, begin + length, max(block, 1)):
            count = min(block, begin + length - first)
            # Consecutive blocks of scratch memory, in the order of the models.
            memory = {k: self._scratch[4 * block * i : 4 * block * (i + 1)] for i, k in enumerate(computed)}
            operands = {
                k: self._inputs.operand(k, source.inputs[k], first, count, memory.get(k)) for k in source.used()
            }
            here = at + (first - begin) * item
            if source.kept is not None:
                operand = operands[source.kept]
                copies = {0: operand, 1: operand}
                self._lerps += _lerp_spans(slots, here, (0.0,) * len(slots), out, copies, count)
            elif source.formula is None:
                self._lerps += _lerp_spans(slots, here, weights, out, operands, count)
            else:
                self._combines.append(_combine_span(slots[0], here, source.formula, out, operands, first, count))
            if computed:  # the next block needs the scratch memory
                self.flush(len(slots))

    def flush(self, group: int) -> None:
        """Computes all collected spans. Each tensor piece has `group` slots."""
        self._runner.run_groups(self._lerps, group)
        self._runner.run_combine(self._combines)
        self._lerps.clear()
        self._combines.clear()


def fill_tensor(inputs: Inputs, source: Source, out: Tensor, memory: memoryview, isa: str) -> None:
    """Computes one complete tensor into `memory`, in the dtype of `out`.

    Raises:
        CheckpointError: a part of an input cannot be read.
    """
    computed = len(source.computed())
    scratch = io_buffer(4 * _BLOCK * computed) if computed else memoryview(b"")
    filler = Filler(inputs, scratch, CpuRunner(isa))
    for part, first, count in source.split(0, out.elements):
        filler.add([memory], first * item_size(out.dtype), part, part.weights, out, first, count)
    filler.flush(1)
    inputs.check()


def _lerp_spans(
    slots: Sequence[memoryview],
    at: int,
    weights: Sequence[float],
    out: Tensor,
    operands: dict[int, Operand],
    count: int,
) -> Iterator[Span]:
    code = code_of(out.dtype)
    if code == BYTES:  # a copy: count bytes, not elements
        count *= item_size(out.dtype)
    for slot, weight in zip(slots, weights):
        # A copy reads only one side. Use it for both, because the other one can have another dtype.
        a = operands[1 if weight == 1 else 0]
        b = operands[0 if weight == 0 else 1]
        yield Span(slot, at, a.buffer, a.offset, b.buffer, b.offset, count, weight, code, a.dtype, b.dtype)


def _combine_span(
    slot: memoryview,
    at: int,
    formula: Combine,
    out: Tensor,
    operands: dict[int, Operand],
    first: int,
    count: int,
) -> CombineSpan:
    return CombineSpan(slot, at, CODES[out.dtype], list(operands.values()), count, first, formula)
