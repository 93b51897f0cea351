"""Tensors as operands of the kernels: those of a file straight from its map, virtual ones computed when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from ..backends import cpu
from ..backends.spans import Operand
from ..dtypes import CODES, code_of, item_size
from ..system.calls import PAGE
from .mapped import MappedFile
from .tensor import TensorInfo
from .virtual import LoraTensor, SavedTensor, ScaledTensor, Tensor

F32 = CODES["F32"]


def is_computed(tensor: Tensor) -> bool:
    """True when `Inputs.operand` needs scratch memory for `tensor`."""
    return isinstance(tensor, (ScaledTensor, LoraTensor))


class Inputs:
    """Context manager: the files of every model, mapped.

    Args:
        models: the paths of each model's files, `Checkpoint.files`.

    Raises:
        CheckpointError: a file can no longer be read.
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
        """Elements `first` to `first + count` of a tensor of model number `model`.

        Args:
            scratch: 4 * count bytes or more, where what is computed lies as float32 until the next call with the same
                memory; None for memory of its own. Not used where `is_computed(tensor)` is False.
        """
        if isinstance(tensor, TensorInfo):
            return Operand(*self._at(model, tensor, first), code_of(tensor.dtype))
        if isinstance(tensor, SavedTensor):
            return self.operand(model, tensor.whole, first, count)
        from .. import _cpu

        if scratch is None:
            scratch = memoryview(bytearray(4 * count))
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

    def _at(self, model: int, tensor: TensorInfo, first: int) -> tuple[object, int]:
        return self._maps[model][tensor.shard].data, tensor.begin + first * item_size(tensor.dtype)

    def check_length(self, model: int, tensor: Tensor) -> None:
        """A file may have changed since its header was read.

        Raises:
            CheckpointError: it ends before `tensor` does.
        """
        for t, _, _ in _ranges(tensor, 0, tensor.elements):
            self._maps[model][t.shard].check_length(t)

    def check(self) -> None:
        """To be called after operands were read, before anything that was made of them is used. Costs next to nothing.

        Raises:
            CheckpointError: a part of a file could not be read; zeros stood in for it.
        """
        from .. import _cpu

        faults = _cpu.guard_faults()
        if faults != self._faults:  # in some map of the process
            for file in (file for maps in self._maps for file in maps):
                file.check()
            self._faults = faults

    def read_ahead(self, wanted: Iterable[tuple[int, Tensor, int, int]]) -> None:
        """Asks the kernel to fetch what `operand` will read, once for all that lies side by side.

        Args:
            wanted: (model, tensor, first, count), as for `operand`.
        """
        ranges = []
        for model, tensor, first, count in wanted:
            for t, begin, end in _ranges(tensor, first, count):
                item = item_size(t.dtype)
                ranges.append((model, t.shard, t.begin + begin * item, t.begin + end * item))
        joined: list[tuple[int, int, int, int]] = []
        for model, shard, begin, end in sorted(ranges):
            if joined and joined[-1][:2] == (model, shard) and begin <= joined[-1][3] + PAGE:
                begin, end = joined[-1][2], max(end, joined.pop()[3])
            joined.append((model, shard, begin, end))
        for model, shard, begin, end in joined:
            self._maps[model][shard].read_ahead(begin, end)


def shards_of(tensor: Tensor) -> set[int]:
    """The numbers of the files that hold what `tensor` is made of."""
    return {t.shard for t, _, _ in _ranges(tensor, 0, tensor.elements)}


def _ranges(tensor: Tensor, first: int, count: int) -> Iterator[tuple[TensorInfo, int, int]]:
    """What elements `first` to `first + count` are made of: (tensor of a file, first element, end)."""
    if isinstance(tensor, TensorInfo):
        yield tensor, first, first + count
    elif isinstance(tensor, SavedTensor):
        yield tensor.whole, first, first + count
    elif isinstance(tensor, ScaledTensor):
        yield tensor.weight, first, first + count
        yield tensor.scales, 0, tensor.scales.elements
    else:
        yield from _ranges(tensor.base, first, count)
        # All of both: rows of the one are wanted by every element, and the other is as small.
        for factor in (tensor.a, tensor.b):
            yield factor, 0, factor.elements
