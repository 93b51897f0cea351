"""`multi_lerp` of arrays that have memory: checked here, once, then handed to a backend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ..backends import cpu, dispatch, launches
from ..backends.device_table import Rows
from ..backends.spans import Span
from ..dtypes import CODES
from ..errors import ArgumentError, BackendError
from ..recipe.lam import numeric_lam
from ..system.arguments import items
from . import tensor_table
from .arrays import Array, as_array, check_tensor, empty_like, is_torch
from .overlap import find_overlap

if TYPE_CHECKING:
    from .tensor_table import TensorTable

T = TypeVar("T")
ONE_PAIR = "Give one number. For several pairs, each with a lam, call multi_lerp."
_PAIRS = "Give one number, or a list with one for each pair."
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
    results = _computed(a, b, checked_lams(lam, len(a), single), outs, backend, threads, names(single))
    if outs is not None:
        increment_versions(results)
    return results


def increment_versions(outs: Sequence[Any]) -> None:
    """Counts a write into each torch tensor among `outs`, as torch's own operations do.

    The kernels write memory that torch does not watch. Without this, autograd would use a tensor that it saved before
    the write, and a prepared plan would take an output for its own last result.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    count_writes([x for x in outs if isinstance(x, torch.Tensor) and not x.is_inference()])


def count_writes(tensors: Sequence[Any]) -> None:
    """`increment_versions` for torch tensors of which none is an inference tensor."""
    import torch

    if tensors:
        torch.autograd.graph.increment_version(tensors)


def _computed(
    a: Sequence[T],
    b: Sequence[T],
    lams: list[float],
    outs: Sequence[T] | None,
    backend: str | None,
    threads: int | None,
    label: Label,
) -> list[T]:
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
        run_reference(arrays_a, arrays_b, arrays_out, lams)
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
    """Torch tensors on the CPU, checked in bulk. None where they must be checked one by one: to say what is wrong, or
    because dtypes differ within a list."""
    import numpy as np

    found = _read(a, b, outs)
    if found is None or found.device != "cpu" or (found.codes != found.codes[0]).any():
        return None
    if dispatch.backend_for(backend, "cpu") != "cpu":
        return None
    results, found = _with_outputs(a, outs, found)
    if outs is not None:
        _refuse(find_overlap(found.addresses, found.sizes), label)
    table = np.column_stack([found.addresses, found.elements])
    cpu.run_addresses(table, np.array(lams, np.float64), found.codes[0], cpu.isa(), cpu.checked_threads(threads))
    return results


def _read(a: Sequence[Any], b: Sequence[Any], outs: Sequence[Any] | None) -> TensorTable | None:
    """The table of (out, a, b), or of (a, b) if there are no outputs yet."""
    return tensor_table.read(a, b) if outs is None else tensor_table.read(outs, a, b)


def _with_outputs(a: Sequence[Any], outs: Sequence[Any] | None, found: TensorTable) -> tuple[list[Any], TensorTable]:
    """The outputs, new ones like `a` for None, and the table of (out, a, b)."""
    if outs is not None:
        return list(outs), found
    results = [empty_like(x) for x in a]
    return results, found.with_first([x.data_ptr() for x in results])


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
    found = _read(a, b, outs)
    if found is None:
        check_tensors([a, b] if outs is None else [a, b, outs], label)
        raise AssertionError("what cannot be read must be refused by name")
    chosen = dispatch.backend_for(backend, str(device))
    results, found = _with_outputs(a, outs, found)
    refuse_addresses(found, label, overlap=outs is not None)
    if chosen == "reference":
        from ..backends.reference import torch_lerp

        torch_lerp.multi_lerp(results, a, b, lams)
    else:
        kernels = import_module(f"..backends.{chosen}", __package__)
        launches.run(kernels, device, Rows(found.addresses, found.elements, found.codes), lams)
    return results


def check_tensors(given: Sequence[Sequence[Any]], label: Label) -> None:
    """Refuses what `tensor_table.read` does not accept in lists of a, b and perhaps outs, and says what is wrong.

    Raises:
        ArgumentError, DTypeError: as `multi_lerp`.
    """
    device = given[0][0].device
    for name, tensors in zip(("a", "b", "out"), given):
        named = partial(label, name)
        for i, x in enumerate(tensors):
            if not is_torch(x):
                raise ArgumentError(
                    f"{named(i)} is a {type(x).__name__}, {label('a', 0)} a tensor on {device}",
                    "Give torch tensors on one device.",
                )
            check_tensor(x, named, i)
    check_pairs(given[0], given[1], given[-1] if len(given) == 3 else given[0], label)


def _run_interpreter(a: Sequence[Any], b: Sequence[Any], outs: Sequence[Any], lams: list[float]) -> None:
    if not all(is_torch(x) for x in (*a, *b, *outs)):
        raise BackendError("backend 'triton' requested for NumPy arrays", "Give torch tensors.")
    from ..backends import triton

    triton.multi_lerp(outs, a, b, lams)


def checked_lams(lam: float | Sequence[float], count: int, single: bool = False) -> list[float]:
    """lam for each of `count` pairs. `single`: of the one pair of `lerp`, which takes one number.

    Raises:
        ArgumentError: not one number for each, or one that is not finite.
    """
    given: Any = items(lam)  # of an array with a number for each pair
    if given is None:
        given = lam
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        return [numeric_lam(given, extrapolate=True, several=_PAIRS)] * count
    if single:
        numeric_lam(lam, several=ONE_PAIR)  # refuses it
    if len(given) != count:
        raise ArgumentError(f"lam has {len(given)} values for {count} pairs", "Give one number, or one for each pair.")
    return [numeric_lam(value, extrapolate=True, several=_PAIRS) for value in given]


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


def refuse_addresses(found: TensorTable, label: Label, overlap: bool) -> None:
    """Refuses elements that are not aligned, which break the context on a GPU; and outputs that overlap.

    Args:
        found: rows of (out, a, b).
    """
    import numpy as np

    misaligned = np.argwhere((found.addresses % found.widths != 0) & (found.elements != 0)[:, None])
    if len(misaligned):
        i, column = misaligned[0]
        name = label(("out", "a", "b")[column], int(i))
        raise ArgumentError(
            f"{name} starts at address {found.addresses[i, column]}, "
            f"not a multiple of its {found.widths[i, column]}-byte elements",
            f"Pass {name}.clone().",
        )
    if overlap:
        _refuse(find_overlap(found.addresses, found.sizes), label)


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


def run_reference(a: list[Array], b: list[Array], out: list[Array], lams: list[float]) -> None:
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
