"""Describe the work of one GPU launch over K models as a table of chunks (`chunk_table.py` has that of two).

A launch has one block for each chunk. Its tensors have the same number of operands. Sizes, dtypes and formulas may
differ, as far as the kernel of the launch takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..dtypes import torch_codes
from . import device_table
from .chunk_table import divide, pack_sections, section_offsets

if TYPE_CHECKING:
    import torch

    from .._cpu import Combine

_MODELS = 16  # kMaxModels in csrc/combine.h
_TYPE_BITS, FORMULA_SHIFT = 2, 40  # kTypeBits and kFormulaShift in csrc/cuda/combine_chunk.h

# `struct Combine` of csrc/combine.h, as `_cpu.pack_combine` makes it.
COMBINE = np.dtype(
    {
        "names": ["formula", "models", "largest", "normalize", "scale", "weight", "threshold", "density", "key"],
        "formats": ["i4", "i4", "i4", "?", "f4", ("f4", _MODELS), ("f4", _MODELS), ("f4", _MODELS), ("u8", _MODELS)],
        "offsets": [0, 4, 8, 12, 16, 20, 84, 148, 216],
        "itemsize": 344,
    }
)


class CombineTask(NamedTuple):
    """A tensor to compute: out = formula(operands).

    Attributes:
        out: contiguous, bf16, float16 or float32. It may be one of the operands, and must not overlap anything else.
        operands: 1 to 16 tensors of the same device and size as `out`, the base first if the formula has one.
        first: the index of the first element in its whole tensor, on which DARE's random numbers depend.
        formula: how they become one, see `mi_kernels/_cpu.pyi`.
    """

    out: torch.Tensor
    operands: Sequence[torch.Tensor]
    first: int
    formula: Combine


class Sections(NamedTuple):
    """The start of each section of a packed table, and the size of the whole table, in bytes."""

    tensors: int
    combines: int
    chunk_tensor: int
    chunk_start: int
    size: int


class CombineTable(NamedTuple):
    """The table as NumPy arrays, for T tensors of K operands, cut into C chunks.

    Attributes:
        tensors: int64 [T, K + 4]: the addresses of out and of the operands; the number of elements; the index of the
            first one; and the dtype codes, two bits each from the lowest on, with the row of `combines` above them.
        combines: COMBINE [H]: the formulas; equal ones are stored once.
        chunk_tensor: int32 [C]: the tensor of each chunk.
        chunk_start: int64 [C]: the first element of each chunk in its tensor.
        chunk: elements in a chunk; the last chunk of a tensor may have fewer.
    """

    tensors: npt.NDArray[np.int64]
    combines: npt.NDArray[Any]
    chunk_tensor: npt.NDArray[np.int32]
    chunk_start: npt.NDArray[np.int64]
    chunk: int

    @property
    def models(self) -> int:
        """K, the number of operands."""
        return int(self.tensors.shape[1]) - 4

    @property
    def sections(self) -> Sections:
        """Where `pack` puts the first four fields, each padded as in `chunk_table`."""
        return Sections._make(section_offsets(self._sections()))

    def pack(self) -> npt.NDArray[np.uint8]:
        """Packs the table into contiguous bytes, so that one copy moves it to the device; see `sections`."""
        return pack_sections(self._sections())

    def _sections(self) -> tuple[npt.NDArray[Any], ...]:
        return self.tensors, self.combines, self.chunk_tensor, self.chunk_start


def build(tasks: Sequence[CombineTask], chunk: int) -> CombineTable:
    """Divides tensors with equal numbers of operands into chunks.

    Args:
        tasks: what to compute; an empty tensor has no chunk.
        chunk: elements in a chunk. With a multiple of 16, every chunk of an aligned tensor is aligned.

    Raises:
        ValueError: a formula does not fit the number of operands.
    """
    from .. import _cpu

    codes, known = torch_codes(), dict[bytes, int]()
    rows = []
    for task in tasks:
        tensors = (task.out, *task.operands)
        packed = _cpu.pack_combine(task.formula, len(task.operands))
        last = known.setdefault(packed, len(known)) << FORMULA_SHIFT
        for place, tensor in enumerate(tensors):
            last |= codes[tensor.dtype] << (_TYPE_BITS * place)
        rows.append([*(tensor.data_ptr() for tensor in tensors), task.out.numel(), task.first, last])
    table = np.array(rows, np.int64)
    chunk_tensor, chunk_start = divide(table[:, -3], chunk)
    return CombineTable(table, np.frombuffer(b"".join(known), COMBINE), chunk_tensor, chunk_start, chunk)


def upload(device: torch.device, values: npt.NDArray[Any]) -> Any:
    """Copies an array to a device without waiting; returns a tensor.

    torch keeps the pinned memory until the copy is done. Only work on the current stream uses the device memory, so
    it can be freed before that work is done. During a stream capture, see `device_table.kept`.
    """
    import torch

    host = torch.from_numpy(values)
    if device.type == "cpu":  # Triton's interpreter
        return host
    if torch.cuda.is_current_stream_capturing():
        return device_table.kept(device, host)
    return host.pin_memory().to(device, non_blocking=True)
