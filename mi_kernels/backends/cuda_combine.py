"""Combine several tensors into one on a CUDA device, and compute the statistics that some methods need first.

The kernels are csrc/cuda/combine_chunk.h and stats_chunk.h; the results have the bits of the CPU kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..dtypes import torch_codes
from ..errors import BackendError
from . import combine_table, cuda, device_table
from .combine_table import CombineTask
from .moments import PIECE, Moments, total

if TYPE_CHECKING:
    import torch

__all__ = ["CombineTask", "formulas", "kth_largest_difference", "moments", "multi_combine"]

# Pieces whose moments are computed at a time: their intermediate sums take 1 byte for each element.
_PIECES_AT_A_TIME = 256
_WAYS, _MOMENTS, _BLOCK = 16, 8, 1024  # of csrc/cuda/stats_chunk.h
_FEW = 5  # models that have a kernel of their own, one of them for bf16 throughout


def formulas() -> frozenset[int]:
    """Returns the formulas that this backend computes: all."""
    from .._cpu import Formula

    every: Any = Formula  # an IntEnum
    return frozenset(int(formula) for formula in every)


def multi_combine(tasks: Sequence[CombineTask]) -> None:
    """Computes the output of every task, in few launches on the current stream.

    There is one launch for all tasks with the same number of operands. With up to five, there is one for those in bf16
    throughout, and one for the others. The call is asynchronous, like every CUDA operation of torch. It can be captured
    in a CUDA graph; the tables of a graph stay in memory until the process ends.

    Args:
        tasks: tensors on one CUDA device, aligned to their elements.

    Raises:
        BackendError: CUDA reports an error. The message names the call and the error.
        ValueError: a formula does not fit the number of operands.
    """
    import torch

    groups: dict[tuple[int, bool], list[CombineTask]] = {}
    for task in tasks:
        if task.out.numel():
            few = 2 <= len(task.operands) <= _FEW
            bf16 = few and all(x.dtype == torch.bfloat16 for x in (task.out, *task.operands))
            groups.setdefault((len(task.operands), bf16), []).append(task)
    if not groups:
        return
    device = tasks[0].out.device
    with _on(device) as kernels:
        for (_, bf16), group in groups.items():
            built = combine_table.build(group, cuda.chunk_for(sum(task.out.numel() for task in group)))
            memory = combine_table.upload(device, built.pack())
            base, at = memory.data_ptr(), built.sections
            kernels.launch_combine(
                device.index,
                torch.cuda.current_stream(device).cuda_stream,
                tensors=base + at.tensors,
                combines=base + at.combines,
                chunk_tensor=base + at.chunk_tensor,
                chunk_start=base + at.chunk_start,
                chunks=len(built.chunk_tensor),
                chunk=built.chunk,
                models=built.models,
                bf16=bf16,
            )


def kth_largest_difference(x: torch.Tensor, base: torch.Tensor, k: int) -> float:
    """Returns the k-th largest |x - base| in float32, k from 1: exact. NaN counts as larger than inf.

    Waits for the device, so it cannot be captured in a CUDA graph.

    Args:
        x, base: contiguous bf16, float16 or float32 tensors of equal sizes on one CUDA device.
        k: from 1 to the number of elements.

    Raises:
        BackendError: CUDA reports an error, or the current stream is being captured.
        ValueError: k is out of range.
    """
    import torch

    device = x.device
    with _on(device, waits=True) as kernels:
        search = _memory(device, kernels.SEARCH_SIZE).zero_()
        kernels.kth_difference(
            device.index,
            torch.cuda.current_stream(device).cuda_stream,
            x=_operand(x),
            base=_operand(base),
            count=x.numel(),
            k=k,
            search=search.data_ptr(),
        )
        at = kernels.SEARCH_RESULT
        return float(search[at : at + 4].view(torch.float32).item())


def moments(a: torch.Tensor, b: torch.Tensor, base: torch.Tensor | None) -> Moments:
    """Returns the moments of a and b, or of a - base and b - base (each difference rounded to float32).

    Waits for the device, so it cannot be captured in a CUDA graph.

    Args:
        a, b, base: contiguous bf16, float16 or float32 tensors of equal sizes on one CUDA device.

    Raises:
        BackendError: CUDA reports an error, or the current stream is being captured.
    """
    import torch

    n, device = a.numel(), a.device
    pieces = -(-n // PIECE)
    if not n:
        return total([])
    operands = [_operand(x) for x in ([a, b] if base is None else [a, b, base])]
    sizes = [x.itemsize for x in ([a, b] if base is None else [a, b, base])]
    with _on(device, waits=True) as kernels:
        stream = torch.cuda.current_stream(device).cuda_stream
        blocks = -(-min(n, _PIECES_AT_A_TIME * PIECE) // _BLOCK)
        parts = _memory(device, blocks * _WAYS * _MOMENTS * 8)
        totals = _memory(device, pieces * _MOMENTS * 8)
        for first in range(0, n, _PIECES_AT_A_TIME * PIECE):
            moved = [(address + first * size, code) for (address, code), size in zip(operands, sizes)]
            kernels.moments(
                device.index,
                stream,
                a=moved[0],
                b=moved[1],
                base=moved[2] if base is not None else None,
                count=min(n - first, _PIECES_AT_A_TIME * PIECE),
                parts=parts.data_ptr(),
                totals=totals.data_ptr() + first // PIECE * _MOMENTS * 8,
            )
        return total(totals.view(torch.float64).view(pieces, _MOMENTS).tolist())


def _operand(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), torch_codes()[tensor.dtype]


def _memory(device: torch.device, size: int) -> Any:
    """Returns `size` bytes of device memory, as a uint8 tensor."""
    import torch

    return torch.empty(size, dtype=torch.uint8, device=device)


@contextmanager
def _on(device: torch.device, waits: bool = False) -> Iterator[Any]:
    """Gives the extension with `device` current and prepared; turns its errors into BackendError."""
    import torch

    from .. import _cuda

    if waits and torch.cuda.is_current_stream_capturing():
        raise BackendError(
            f"backend 'cuda' on {device}: statistics of tensors cannot be captured in a CUDA graph",
            "Use a method that needs none, such as linear, or call it outside the capture.",
        )
    with cuda.named(device, "Check driver and versions with `mi-kernels env`."), device_table.on_device(device):
        _cuda.prepare(device.index)
        yield _cuda
