"""How much of a chunk a GPU must hold: the operands of its tensors and its outputs."""

from __future__ import annotations

from ..backends.piece import Space, least_size, size_for
from ..checkpoint.inputs import value_dtype
from ..dtypes import BYTES, code_of, item_size
from .plan import Plan, Source


def piece_sizes(plan: Plan, chunk: int, outputs: int) -> tuple[int, int]:
    """Returns the size of a piece (see `backends.piece`) that holds any chunk of a plan, and the smallest useful size.

    Args:
        chunk: the size of a chunk of a shard in bytes.
        outputs: the number of outputs.
    """
    widest, most = Space.of([0, 0], [0] * outputs), 0
    for shard in plan.shards:
        staged = [0] * -(-shard.size // chunk)
        for t in shard.tensors:
            source, size = plan.sources[t.name], item_size(t.dtype)
            if not _staged(source, t.dtype):
                continue
            operands = [code_of(value_dtype(source.inputs[k])) for k in source.used()]
            space = Space.of(operands, [code_of(t.dtype)] * outputs)
            widest = Space(max(widest.fixed, space.fixed), max(widest.each, space.each))
            for k in range(t.begin // chunk, -(-t.end // chunk)):
                nbytes = min(t.end, (k + 1) * chunk) - max(t.begin, k * chunk)
                staged[k] += space.bytes(-(-nbytes // size))
        most = max(most, *staged)
    least = least_size(widest)
    return max(size_for(most), least), least


def _staged(source: Source, dtype: str) -> bool:
    """Returns whether a GPU computes a tensor of this dtype. Byte copies stay on the CPU."""
    if code_of(dtype) == BYTES:
        return False
    return not source.copied or any(value_dtype(source.inputs[k]) != dtype for k in source.used())
