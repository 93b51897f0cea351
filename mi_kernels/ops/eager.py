"""`multi_lerp` of arrays that have memory: checked here, once, then handed to a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from ..backends import cpu, dispatch
from ..backends.spans import Span
from ..dtypes import CODES, FROM_TORCH
from ..errors import ArgumentError, BackendError
from ..recipe.lam import checked_lam
from .arrays import Array, are_sound, as_array, check_tensor, empty_like, is_torch
from .overlap import find_overlap

T = TypeVar("T")
Label = Callable[[str, int], str]  # (argument, index of the pair) -> its name in a message


def multi_lerp_now(
    a: Sequence[T],
    b: Sequence[T],
    lam: float | Sequence[float],
    outs: Sequence[T] | None,
    backend: str | None,
    threads: int | None,
    single: bool = False,
) -> list[T]:
    """`multi_lerp` of arrays that have memory, lists of equal length; `single`: messages say `a` and not `a[0]`."""
    lams = checked_lams(lam, len(a))
    label = names(single)
    first: Any = a[0] if len(a) else None
    if is_torch(first) and first.is_cuda:
        return _run_cuda(a, b, lams, outs, backend, label)
    if is_torch(first) and len(a) > 1:
        results = _run_cpu_tensors(a, b, lams, outs, backend, threads, label)
        if results is not None:
            return results
    arrays_a = [as_array(x, label("a", i)) for i, x in enumerate(a)]
    arrays_b = [as_array(x, label("b", i)) for i, x in enumerate(b)]
    results = [empty_like(x) for x in a] if outs is None else list(outs)
    arrays_out = [as_array(x, label("out", i), writable=True) for i, x in enumerate(results)]
    check_pairs(arrays_a, arrays_b, arrays_out, label)
    chosen = dispatch.backend_for(backend, arrays_a[0].device if arrays_a else "cpu")
    if chosen == "cpu":
        spans = [_span(x, y, o, w) for x, y, o, w in zip(arrays_a, arrays_b, arrays_out, lams)]
        if outs is not None:
            _refuse_overlap(spans, label)
        cpu.run_spans(spans, cpu.isa(), cpu.checked_threads(threads))
        return results
    if outs is not None:  # the others must not need the compiled extension
        columns = (arrays_out, arrays_a, arrays_b)
        addresses = [[x.buffer.ctypes.data for x in arrays] for arrays in columns]
        sizes = [[x.buffer.nbytes for x in arrays] for arrays in columns]
        _refuse(find_overlap(_rows(addresses), _rows(sizes)), label)
    if chosen == "reference":
        _run_reference(arrays_a, arrays_b, arrays_out, lams)
    else:
        _run_interpreter(a, b, results, lams)
    return results


def _run_cpu_tensors(
    a: Sequence[Any],
    b: Sequence[Any],
    lams: list[float],
    outs: Sequence[Any] | None,
    backend: str | None,
    threads: int | None,
    label: Label,
) -> list[Any] | None:
    """Torch tensors on the CPU that need no word of explanation, checked in bulk; None where one tensor at a time must
    say what is wrong, or where dtypes differ within a list."""
    import numpy as np
    import torch

    given = [a, b] if outs is None else [a, b, outs]
    dtypes = [set(map(torch.Tensor.dtype.__get__, x)) for x in given] if are_sound(*given) else []
    if any(len(found) != 1 for found in dtypes) or not dtypes or a[0].device.type != "cpu":
        return None
    if dispatch.backend_for(backend, "cpu") != "cpu":
        return None
    results = [empty_like(x) for x in a] if outs is None else list(outs)
    columns = (results, a, b)
    addresses = _rows([list(map(torch.Tensor.data_ptr, x)) for x in columns])
    counts = np.fromiter(map(torch.Tensor.numel, a), np.int64, len(a))
    if outs is not None:
        widths = np.array([x[0].itemsize for x in columns], np.int64)
        _refuse(find_overlap(addresses, counts[:, None] * widths), label)
    table = np.ascontiguousarray(np.column_stack((addresses, counts)))
    types = [FROM_TORCH[str(x[0].dtype)] for x in columns]
    cpu.run_addresses(table, np.array(lams, np.float64), types, cpu.isa(), cpu.checked_threads(threads))
    return results


def names(single: bool) -> Label:
    """How messages call the arguments: `a` in `lerp`, `a[3]` in `multi_lerp`."""
    return (lambda name, i: name) if single else (lambda name, i: f"{'outs' if name == 'out' else name}[{i}]")


def check_pairs(a: Sequence[Any], b: Sequence[Any], outs: Sequence[Any], label: Label) -> None:
    """Refuses shapes that differ within a pair, and more than one device; takes tensors or Arrays.

    Raises:
        ArgumentError: names the arguments, with both values.
    """
    for i, (x, y, o) in enumerate(zip(a, b, outs)):
        for name, other in (("b", y), ("out", o)):
            if other.shape != x.shape:
                raise ArgumentError(
                    f"{label(name, i)} has shape {tuple(other.shape)}, {label('a', i)} has {tuple(x.shape)}",
                    "Give equal shapes.",
                )
            if other.device != x.device:
                raise ArgumentError(
                    f"{label(name, i)} is on {other.device}, {label('a', i)} on {x.device}", "Move them to one device."
                )
        if x.device != a[0].device:
            raise ArgumentError(
                f"{label('a', i)} is on {x.device}, {label('a', 0)} on {a[0].device}", "Move them to one device."
            )


def _run_cuda(
    a: Sequence[Any], b: Sequence[Any], lams: list[float], outs: Sequence[Any] | None, backend: str | None, label: Label
) -> list[Any]:
    """As `multi_lerp_now`, for a list that starts with a CUDA tensor: tensors throughout, of one device."""
    device = a[0].device
    given = [a, b] if outs is None else [a, b, outs]
    if not are_sound(*given):
        for name, tensors in zip(("a", "b", "out"), given):
            named = partial(label, name)
            for i, x in enumerate(tensors):
                if not is_torch(x):
                    raise ArgumentError(
                        f"{named(i)} is a {type(x).__name__}, {label('a', 0)} a tensor on {device}",
                        "Give torch tensors on one device.",
                    )
                check_tensor(x, named, i)
        check_pairs(a, b, a if outs is None else outs, label)
    results = [empty_like(x) for x in a] if outs is None else list(outs)
    chosen = dispatch.backend_for(backend, str(device))
    _refuse_addresses(a, b, results, label, overlap=outs is not None)
    module = import_module(f"..backends.{'reference.torch_lerp' if chosen == 'reference' else chosen}", __package__)
    module.multi_lerp(results, a, b, lams)
    return results


def _run_interpreter(a: Sequence[Any], b: Sequence[Any], outs: Sequence[Any], lams: list[float]) -> None:
    if not all(is_torch(x) for x in (*a, *b, *outs)):
        raise BackendError("backend 'triton' requested for NumPy arrays", "Give torch tensors.")
    from ..backends import triton

    triton.multi_lerp(outs, a, b, lams)


def checked_lams(lam: float | Sequence[float], count: int) -> list[float]:
    """lam for each of `count` pairs.

    Raises:
        ArgumentError: not one number for each, or one that is not finite.
    """
    if isinstance(lam, str) or not isinstance(lam, Sequence):
        return [checked_lam(lam, extrapolate=True)] * count
    given = list(lam)
    if len(given) != count:
        raise ArgumentError(f"lam has {len(given)} values for {count} pairs", "Give one number, or one for each pair.")
    return [checked_lam(value, extrapolate=True) for value in given]


def _span(a: Array, b: Array, out: Array, w: float) -> Span:
    return Span(
        out.buffer,
        0,
        a.buffer,
        0,
        b.buffer,
        0,
        out.buffer.size,
        w,
        CODES[out.dtype],
        CODES[a.dtype],
        CODES[b.dtype],
    )


def _refuse_overlap(spans: list[Span], label: Label) -> None:
    from .. import _cpu

    _refuse(_cpu.find_overlap(spans), label)


def _refuse_addresses(a: Sequence[Any], b: Sequence[Any], outs: Sequence[Any], label: Label, overlap: bool) -> None:
    """Refuses what a GPU would stop at for good, an element across its own boundary; and outputs that overlap."""
    import numpy as np

    columns = (outs, a, b)
    addresses = _rows([[x.data_ptr() for x in tensors] for tensors in columns])
    widths = _rows([[x.itemsize for x in tensors] for tensors in columns])
    counts = np.array([x.numel() for x in outs], dtype=np.int64)
    misaligned = np.argwhere((addresses % widths != 0) & (counts != 0)[:, None])
    if len(misaligned):
        i, column = misaligned[0]
        name = label(("out", "a", "b")[column], int(i))
        raise ArgumentError(
            f"{name} starts at address {addresses[i, column]}, not a multiple of its {widths[i, column]}-byte elements",
            f"Pass {name}.clone().",
        )
    if overlap:
        _refuse(find_overlap(addresses, widths * counts[:, None]), label)


def _rows(columns: list[list[int]]) -> Any:
    """Three lists of T integers as int64 [T, 3]."""
    import numpy as np

    return np.array(columns, dtype=np.int64).T


def _refuse(clash: tuple[int, str, int] | None, label: Label) -> None:
    if clash is not None:
        out, name, other = clash
        raise ArgumentError(
            f"{label('out', out)} overlaps {label(name, other)} without being it",
            "Give memory of its own, or the very same array to work in place.",
        )


def _run_reference(a: list[Array], b: list[Array], out: list[Array], lams: list[float]) -> None:
    import numpy as np

    from ..backends.reference import lerp as reference

    def widen(x: Array) -> Any:
        return reference.bf16_to_float32(x.buffer) if x.dtype == "BF16" else x.buffer.astype(np.float32)

    def narrow(values: Any, x: Array) -> Any:
        if x.dtype == "BF16":
            return reference.float32_to_bf16(values)
        with np.errstate(over="ignore"):
            return np.where(np.isnan(values), np.float32("nan"), values).astype(x.buffer.dtype)

    for x, y, o, lam in zip(a, b, out, lams):
        w = np.float32(lam)
        if w in (0, 1):
            source = y if w else x
            o.buffer[...] = source.buffer if source.dtype == o.dtype else narrow(widen(source), o)
        else:
            o.buffer[...] = narrow(reference.lerp_float32(widen(x), widen(y), lam), o)
