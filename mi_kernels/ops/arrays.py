"""One view of the callers' arrays: NumPy arrays and torch CPU tensors become typed buffers.

CUDA tensors stay tensors, which is what their backends take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from ..backends import cpu
from ..dtypes import FROM_NUMPY, FROM_TORCH
from ..errors import ArgumentError, DTypeError

_HUGE_PAGES_PAY = 4 << 20  # bytes: touching fresh pages of 4 KiB takes longer than interpolating


class Array(NamedTuple):
    """A contiguous array: `dtype` as safetensors names it, `buffer` a flat NumPy array over the same memory (beyond
    the CPU: the tensor itself)."""

    dtype: str
    shape: tuple[int, ...]
    buffer: Any
    device: str


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_traced(*lists: Sequence[Any]) -> bool:
    """Whether torch is tracing (`torch.compile`), or a tensor stands for one without memory of its own (FakeTensor)."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if torch.compiler.is_compiling():
        return any(isinstance(x, torch.Tensor) for values in lists for x in values)
    plain: Any = torch.Tensor.__torch_dispatch__
    kinds: set[Any] = {kind for values in lists for kind in map(type, values)}
    return any(issubclass(kind, torch.Tensor) and kind.__torch_dispatch__ is not plain for kind in kinds)


def as_list(values: Any, name: str) -> list[Any]:
    """`values` as a list of arrays: a list, a tuple, or anything else that yields them in order, which is consumed.

    Raises:
        DTypeError: a dict, one array, text, or what cannot be iterated over; says what to pass.
    """
    if isinstance(values, (list, tuple)):
        return list(values)
    if isinstance(values, Mapping):
        raise DTypeError(
            f"{name} is a {type(values).__name__}, whose order may differ from that of the other tensors",
            f"Pass lists in one order of the keys: [{name}[key] for key in keys].",
        )
    if is_torch(values) or hasattr(values, "__array_interface__"):
        raise DTypeError(
            f"{name} is one {type(values).__name__}, not a list of them", f"Pass [{name}], or call lerp for one pair."
        )
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise DTypeError(f"{name} is a {type(values).__name__}", "Give a list of NumPy arrays or torch tensors.")
    return list(values)


def pair_lists(a: Any, b: Any, outs: Any) -> tuple[list[Any], list[Any], list[Any] | None]:
    """The three arguments of `multi_lerp` as lists of equal length.

    Raises:
        DTypeError: as `as_list`.
        ArgumentError: the lengths differ.
    """
    lists = as_list(a, "a"), as_list(b, "b"), None if outs is None else as_list(outs, "outs")
    for name, given in (("b", lists[1]), ("outs", lists[2])):
        if given is not None and len(given) != len(lists[0]):
            raise ArgumentError(
                f"{name} has {len(given)} tensors, a has {len(lists[0])}", "Give lists of equal length."
            )
    return lists


def as_array(value: Any, name: str, writable: bool = False) -> Array:
    """`value` as an Array over the same memory.

    Raises:
        DTypeError: neither a NumPy array nor a torch tensor, or of another dtype than bf16, float16 and float32.
        ArgumentError: not contiguous, or read-only where it must be written; names the argument.
    """
    if is_torch(value):
        return _from_torch(value, name)
    import numpy as np

    if not isinstance(value, np.ndarray):
        raise DTypeError(f"{name} is a {type(value).__name__}", "Give a NumPy array or a torch tensor.")
    dtype = FROM_NUMPY.get(value.dtype.name)
    if dtype is None or not value.dtype.isnative:
        raise DTypeError(
            f"{name} has dtype {value.dtype}", "Give float32, float16, or bfloat16 (ml_dtypes, or its bits as uint16)."
        )
    if not value.flags.c_contiguous:
        raise ArgumentError(f"{name} is not contiguous", f"Pass numpy.ascontiguousarray({name}).")
    if writable and not value.flags.writeable:
        raise ArgumentError(f"{name} is read-only", "Pass an array that may be written.")
    flat = value.reshape(-1)
    return Array(dtype, value.shape, flat.view(np.uint16) if dtype == "BF16" else flat, "cpu")


def _from_torch(tensor: Any, name: str) -> Array:
    import torch

    dtype = check_tensor(tensor, lambda _: name)
    device = _device_name(tensor.device)
    if device != "cpu":
        return Array(dtype, tuple(tensor.shape), tensor, device)
    flat = tensor.view(-1)
    return Array(dtype, tuple(tensor.shape), (flat.view(torch.uint16) if dtype == "BF16" else flat).numpy(), device)


@cache
def _device_name(device: Any) -> str:
    return str(device)


def check_tensor(tensor: Any, label: Callable[[int], str], i: int = 0) -> str:
    """Refuses a torch tensor that the kernels cannot take, whether it has memory or is a FakeTensor; returns its dtype.

    `label(i)` is its name. It is built only for a refusal, as a call may have tens of thousands of tensors.

    Raises:
        As `as_array`.
    """
    import torch

    dtype = FROM_TORCH.get(str(tensor.dtype))
    if tensor.is_nested:
        raise DTypeError(f"{label(i)} is a nested tensor", f"Pass the tensors of {label(i)}.unbind() as pairs.")
    if tensor.is_quantized:
        raise DTypeError(
            f"{label(i)} is quantised ({tensor.dtype})",
            f"Pass {label(i)}.dequantize(), or the tensor before quantising.",
        )
    if dtype is None or tensor.layout != torch.strided:
        raise DTypeError(
            f"{label(i)} has dtype {tensor.dtype}, layout {tensor.layout}",
            "Give a dense bfloat16, float16 or float32 tensor.",
        )
    if tensor.requires_grad:
        raise ArgumentError(
            f"{label(i)} requires grad, and this function has no gradient", f"Pass {label(i)}.detach()."
        )
    if not tensor.is_contiguous():
        raise ArgumentError(f"{label(i)} is not contiguous", f"Pass {label(i)}.contiguous().")
    if tensor.is_conj() or tensor.is_neg():
        raise ArgumentError(f"{label(i)} is a lazy view", f"Pass {label(i)}.resolve_neg().")
    return dtype


def on_huge_pages(fresh: Any) -> Any:
    """A torch tensor whose memory has not been touched yet, on huge pages where it is a large one on the CPU."""
    import torch

    if type(fresh) is torch.Tensor and fresh.is_cpu and fresh.nbytes >= _HUGE_PAGES_PAY:
        cpu.prefer_huge_pages(fresh.data_ptr(), fresh.nbytes)
    return fresh


def empty_like(value: Any) -> Any:
    """A new array of the kind, dtype, shape and device of `value`; large ones on huge pages, as NumPy makes its own."""
    if is_torch(value):
        import torch

        return on_huge_pages(torch.empty_like(value))
    import numpy as np

    return np.empty_like(value, order="C")
