"""Read the addresses, sizes and dtypes of lists of torch tensors in bulk, if the kernels can take them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from operator import eq
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..dtypes import CODE_SIZES, torch_codes

_DEVICES = {1: "cpu", 2: "cuda", 10: "cuda"}  # DLPack's DLDeviceType; torch calls ROCm "cuda" too


class TensorTable(NamedTuple):
    """T rows of K tensors of one shape and on one device.

    Attributes:
        addresses: int64 [T, K].
        elements: int64 [T], of each tensor of a row.
        codes: int32 [T, K]: the kernels' dtype codes (`dtypes.CODES`).
        device: "cpu" or "cuda:0".
    """

    addresses: npt.NDArray[np.int64]
    elements: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    device: str

    @property
    def widths(self) -> npt.NDArray[np.int64]:
        """int64 [T, K]: bytes an element."""
        return np.array(CODE_SIZES, np.int64)[self.codes]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """int64 [T, K]: bytes of each tensor."""
        return self.widths * self.elements[:, None]

    def columns(self, first: int, end: int) -> TensorTable:
        """Returns the table of the tensors `first` to `end` of every row."""
        return self._replace(addresses=self.addresses[:, first:end], codes=self.codes[:, first:end])

    def with_first(self, addresses: Sequence[int]) -> TensorTable:
        """Returns the table with one more tensor before each row, at these addresses and like the first one."""
        first = np.array(addresses, np.int64)[:, None]
        return self._replace(
            addresses=np.hstack([first, self.addresses]), codes=np.hstack([self.codes[:, :1], self.codes])
        )

    def same_memory(self, other: TensorTable | None) -> bool:
        """Returns whether both tables describe the same memory, with the same dtypes."""
        return (
            other is not None
            and self.device == other.device
            and np.array_equal(self.addresses, other.addresses)
            and np.array_equal(self.elements, other.elements)
            and np.array_equal(self.codes, other.codes)
        )


def read(*columns: Sequence[Any]) -> TensorTable | None:
    """Returns the table of K lists of T tensors, or None if a tensor must be checked alone to say what is wrong.

    The tensors of a table are contiguous, have no gradient, and are bf16, float16 or float32; those of a row have equal
    shapes, and all are on one device. Lists of no tensors have no table.
    """
    import torch

    tensor: Any = torch.Tensor
    for tensors in columns:
        if not all(issubclass(kind, tensor) for kind in set(map(type, tensors))):
            return None
        if any(map(tensor.requires_grad.__get__, tensors)) or any(map(tensor.is_neg, tensors)):
            return None
    return read_memory(*columns)


def read_memory(*columns: Sequence[Any]) -> TensorTable | None:
    """Like `read`, for tensors that `read` has accepted before: without the properties that do not concern memory."""
    import torch

    if not columns[0]:
        return None
    if (api := _exchange()) is None:
        return _read_slowly(columns)
    count, width = len(columns[0]), len(columns)
    table, codes = np.empty((count, width + 1), np.int64), np.empty((count, width), np.int32)
    from .. import _cpu

    row, kind, index = _cpu.read_tensors(api, torch.Tensor, list(columns), table, codes)
    if row == -2:
        return _read_slowly(columns)
    if row >= 0 or kind not in _DEVICES:
        return None
    device = _DEVICES[kind] if kind == 1 else f"{_DEVICES[kind]}:{index}"
    return TensorTable(table[:, :width], table[:, width], codes, device)


@cache
def _exchange() -> Any:
    """DLPack's exchange table of torch, or None: before torch 2.10, or without the compiled extension."""
    import torch

    try:
        from .. import _cpu  # noqa: F401
    except ImportError:
        return None
    return getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)


def _read_slowly(columns: Sequence[Sequence[Any]]) -> TensorTable | None:
    """`read_memory` in Python: for each property, one pass in C over a list."""
    import torch

    tensor: Any = torch.Tensor
    known = torch_codes()
    dtypes = [list(map(tensor.dtype.__get__, tensors)) for tensors in columns]
    devices: set[Any] = set()
    for tensors, kinds in zip(columns, dtypes):
        if not set(kinds) <= known.keys() or set(map(tensor.layout.__get__, tensors)) != {torch.strided}:
            return None
        if not all(map(tensor.is_contiguous, tensors)):
            return None
        if not all(map(eq, map(tensor.size, columns[0]), map(tensor.size, tensors))):
            return None
        devices |= set(map(tensor.device.__get__, tensors))
    if len(devices) != 1 or next(iter(devices)).type not in _DEVICES.values():
        return None
    return TensorTable(
        np.array([list(map(tensor.data_ptr, tensors)) for tensors in columns], np.int64).T,
        np.fromiter(map(tensor.numel, columns[0]), np.int64, len(columns[0])),
        np.array([[known[dtype] for dtype in kinds] for kinds in dtypes], np.int32).T,
        str(devices.pop()),
    )
