"""Provides tensors as operands of the kernels: stored ones from memory maps, virtual ones computed on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ..backends import cpu
from ..backends.spans import Operand
from ..dtypes import CODES, code_of, item_size
from ..system.calls import PAGE
from .mapped import MappedFile
from .tensor import TensorInfo
from .virtual import LoraTensor, SavedTensor, ScaledTensor, StackedTensor, Tensor

F32 = CODES["F32"]


def is_computed(tensor: Tensor) -> bool:
    """Returns True if `Inputs.operand` needs scratch memory for `tensor`."""
    return isinstance(tensor, (ScaledTensor, LoraTensor, StackedTensor))


def value_dtype(tensor: Tensor) -> str:
    """Returns the dtype in which `Inputs.operand` provides `tensor`: F32 for values that are calculated."""
    if isinstance(tensor, StackedTensor):
        return value_dtype(tensor.parts[0])
    if isinstance(tensor, SavedTensor):
        return tensor.whole.dtype
    return tensor.dtype if isinstance(tensor, TensorInfo) else "F32"


class Inputs:
    """Context manager: maps the files of every model.

    Args:
        models: for each model the paths of its files, see `Checkpoint.files`.

    Raises:
        CheckpointError: a file cannot be opened or mapped.
    """

    def __init__(self, models: Sequence[Sequence[str]]) -> None:
        from .. import _cpu

        self._isa = cpu.isa()
        self._faults = _cpu.guard_faults()
        with ExitStack() as stack:
            self._maps = [[stack.enter_context(MappedFile(path)) for path in paths] for paths in models]
            self._open = stack.pop_all()

    def __enter__(self) -> Inputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def operand(self, model: int, tensor: Tensor, first: int, count: int, scratch: memoryview | None = None) -> Operand:
        """Returns elements `first` to `first + count` of a tensor: their buffer, offset in bytes and dtype code.

        Args:
            model: the index of the model.
            scratch: at least 4 * count bytes for computed float32 values, valid until the next call with the same
                memory. None allocates new memory. Not used if `is_computed(tensor)` is False.
        """
        if isinstance(tensor, TensorInfo):
            return Operand(*self._at(model, tensor, first), code_of(tensor.dtype))
        if isinstance(tensor, SavedTensor):
            return self.operand(model, tensor.whole, first, count)
        from .. import _cpu

        if scratch is None:
            scratch = memoryview(bytearray(4 * count))
        if isinstance(tensor, StackedTensor):
            return self._stacked(model, tensor, first, count, scratch)
        if isinstance(tensor, ScaledTensor):
            _cpu.scaled(
                scratch,
                self._at(model, tensor.weight, first),
                self.operand(model, tensor.scales, 0, tensor.scales.elements),
                (tensor.shape[0], tensor.shape[1]),
                tensor.block,
                first,
                count,
                self._isa,
            )
        else:
            _cpu.low_rank(
                scratch,
                self.operand(model, tensor.base, first, count, scratch),
                self.operand(model, tensor.a, 0, tensor.a.elements),
                self.operand(model, tensor.b, 0, tensor.b.elements),
                (tensor.shape[0], tensor.shape[1]),
                tensor.rank,
                tensor.transposed,
                tensor.scale,
                first,
                count,
                self._isa,
            )
        return Operand(scratch, 0, F32)

    def _stacked(self, model: int, tensor: StackedTensor, first: int, count: int, scratch: memoryview) -> Operand:
        dtype = value_dtype(tensor)
        item, at = item_size(dtype), 0
        for part, begin, n in tensor.overlapping(first, count):
            place = scratch[at : at + item * n]
            data, offset, _ = self.operand(model, part, begin, n, place)
            if data is not place:  # stored as it is
                place[:] = memoryview(data)[offset : offset + item * n]
            at += item * n
        return Operand(scratch, 0, code_of(dtype))

    def _at(self, model: int, tensor: TensorInfo, first: int) -> tuple[object, int]:
        return self._maps[model][tensor.shard].data, tensor.begin + first * item_size(tensor.dtype)

    def check_length(self, model: int, tensor: Tensor) -> None:
        """Checks that the mapped files still contain all bytes of `tensor`, as listed in their headers.

        Raises:
            CheckpointError: a file has become shorter and `tensor` is cut off.
        """
        for t, _, _ in _ranges(tensor, 0, tensor.elements):
            self._maps[model][t.shard].check_length(t)

    def check(self) -> None:
        """Checks that all reads so far were good. Call it after reading operands and before using results. Cheap.

        Raises:
            CheckpointError: a part of a file could not be read, so the operands contained zeros.
        """
        from .. import _cpu

        faults = _cpu.guard_faults()
        if faults != self._faults:  # in any map of the process
            for file in (file for maps in self._maps for file in maps):
                file.check()
            self._faults = faults

    def read_ahead(self, wanted: Iterable[tuple[int, Tensor, int, int]]) -> None:
        """Asks the operating system to prefetch ranges that `operand` will read. Adjacent ranges are joined.

        Args:
            wanted: tuples (model, tensor, first, count), as for `operand`.
        """
        ranges: list[_FileRange] = []
        for model, tensor, first, count in wanted:
            for t, begin, end in _ranges(tensor, first, count):
                item = item_size(t.dtype)
                ranges.append(_FileRange(model, t.shard, t.begin + begin * item, t.begin + end * item))
        joined: list[_FileRange] = []
        for new in sorted(ranges):
            last = joined[-1] if joined else None
            if last and (last.model, last.shard) == (new.model, new.shard) and new.begin <= last.end + PAGE:
                joined[-1] = last._replace(end=max(last.end, new.end))
            else:
                joined.append(new)
        for model, shard, begin, end in joined:
            self._maps[model][shard].read_ahead(begin, end)


class _FileRange(NamedTuple):
    """Bytes `begin` to `end` of a file: number `shard` of the files of model number `model`."""

    model: int
    shard: int
    begin: int
    end: int


def shards_of(tensor: Tensor) -> set[int]:
    """Returns the numbers of the files with the data of `tensor`."""
    return {t.shard for t, _, _ in _ranges(tensor, 0, tensor.elements)}


def _ranges(tensor: Tensor, first: int, count: int) -> Iterator[tuple[TensorInfo, int, int]]:
    """Yields the stored data of elements `first` to `first + count`: (stored tensor, first element, end)."""
    if isinstance(tensor, TensorInfo):
        yield tensor, first, first + count
    elif isinstance(tensor, SavedTensor):
        yield tensor.whole, first, first + count
    elif isinstance(tensor, ScaledTensor):
        yield tensor.weight, first, first + count
        yield tensor.scales, 0, tensor.scales.elements
    elif isinstance(tensor, StackedTensor):
        for part, begin, n in tensor.overlapping(first, count):
            yield from _ranges(part, begin, n)
    else:
        yield from _ranges(tensor.base, first, count)
        # Both factors as a whole: every element needs rows of one of them, and the other is as small.
        for factor in (tensor.a, tensor.b):
            yield factor, 0, factor.elements
