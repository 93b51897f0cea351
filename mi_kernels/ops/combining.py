"""Several tensors into one, by any merge method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ..backends import cpu, dispatch
from ..backends.spans import CombineSpan, Operand
from ..dtypes import CODES, FLOATS, OUTPUTS, TORCH_NAMES
from ..errors import ArgumentError, DTypeError, with_hint
from ..system.arguments import checks_names, items
from .arrays import Array, as_array, as_list, empty_like, is_torch, is_traced
from .eager import increment_versions
from .linear import lerp

if TYPE_CHECKING:
    from ..methods.method import Method, Parameter
    from ..methods.statistics import Reader

T = TypeVar("T")
_UNNAMED = "the tensor"


@checks_names
def combine(
    tensors: Sequence[T],
    method: str,
    *,
    base: T | None = None,
    out: T | None = None,
    dtype: Any = None,
    threads: int | None = None,
    name: str = _UNNAMED,
    **parameters: Any,
) -> T:
    """Merges `tensors` by `method`: the bits that `merge_checkpoint` writes for a tensor of this name.

    Each method's module in `mi_kernels.methods` states what it computes: float32 in a fixed order, one rounding an
    operation, rounded once to the dtype of the output. No bit depends on threads, devices or the instruction set.

    Args:
        tensors: the models' tensors: NumPy arrays, or torch tensors on the CPU or one CUDA device, of one shape,
            contiguous; bfloat16, float16 or float32, not necessarily the same (NumPy bfloat16: ml_dtypes.bfloat16, or
            its bits as uint16).
        method: a name in `mi_kernels.methods.registry.METHODS`, such as "linear", "ties" or "slerp".
        base: where task vectors start, for the methods that take a base.
        out: where to write: contiguous, of the same shape; may be one of the tensors, or the base. None makes one.
        dtype: of the output that is made: "bfloat16", "float16", "float32", or the dtype of torch or NumPy. None: the
            base's, or the first tensor's.
        threads: how many threads may work; None for all cores.
        name: of the tensor, for messages. The random numbers of DARE depend on it.
        parameters: of the method, by the names that recipes use. What belongs to a model, such as `weight`, is one
            number for all tensors, or a list with a number for each.

    Returns:
        `out`, or a new array of the kind of `tensors[0]` and on its device. Tensors on a CUDA device are merged there:
        by backend "cuda" every method, by backend "triton" the weighted sums. Without a backend for the method they
        are copied to the CPU, and the result back. On a device the work is queued on the current stream, after
        waiting for the statistics of those methods that need any.

    Raises:
        ArgumentError: the method or a parameter is unknown, missing or out of range; the number of tensors does not
            fit the method; shapes or devices differ; an argument is not contiguous, requires grad, or overlaps `out`
            without being it; a method that needs an angle meets NaN or infinity; torch is tracing.
        DTypeError: an argument is of another type or dtype.
        BackendError: the backend that MI_KERNELS_BACKEND names is not available, or the device reports an error.

    >>> import numpy as np
    >>> import mi_kernels
    >>> base, a, b = np.float32([0, 0]), np.float32([3, 0.1]), np.float32([1, -0.2])
    >>> mi_kernels.combine([a, b], "ties", base=base, density=0.5).tolist()
    [2.0, 0.0]
    >>> mi_kernels.combine([a, b], "linear", weight=[1, 3], out=a) is a
    True
    >>> a.tolist()
    [1.5, -0.125]
    """
    from ..methods.method import Tensor, as_lerp
    from ..methods.statistics import OnDevice

    chosen = _method(method)
    tensors = as_list(tensors, "tensors")
    chosen.check_models(len(tensors), base is not None, "combine")
    values = _values(chosen, parameters, len(tensors), "" if name == _UNNAMED else name)
    given: list[Any] = [*([] if base is None else [base]), *tensors]
    labels = [*([] if base is None else ["base"]), *(f"tensors[{i}]" for i in range(len(tensors)))]
    if is_traced(given, [] if out is None else [out]):
        raise ArgumentError(
            "combine is called while torch is tracing", "Call it outside torch.compile, and not with a FakeTensor."
        )
    arrays = [as_array(x, label) for x, label in zip(given, labels)]
    result: Any = _made(given, arrays, dtype) if out is None else out
    into = as_array(result, "out", writable=True)
    _check(into, arrays, labels)

    backend = dispatch.combining_backend_for(into.device)
    if backend != "cpu":
        _check_alignment([into, *arrays], ["out", *labels])

    @cache
    def on_cpu(k: int) -> Array:
        return arrays[k] if arrays[k].device == "cpu" else as_array(arrays[k].buffer.cpu(), labels[k])

    readers: list[Reader] = [
        OnDevice(x.buffer) if backend == "cuda" else _reader(partial(on_cpu, k)) for k, x in enumerate(arrays)
    ]
    start = None if base is None else readers.pop(0)
    how = chosen.formula(Tensor(name, math.prod(into.shape), readers, start), **values)
    lam = as_lerp(how, len(given))
    if lam is not None:
        return lerp(given[0], given[1], lam, result, threads=threads)  # type: ignore[no-any-return]
    if out is not None:
        increment_versions([out])
    if backend != "cpu":
        module = import_module(f"..backends.{backend}_combine", __package__)
        if how["formula"] in module.formulas():
            module.multi_combine([module.CombineTask(into.buffer, [x.buffer for x in arrays], 0, how)])
            return result  # type: ignore[no-any-return]
    work = into if into.device == "cpu" else as_array(into.buffer.cpu(), "out")
    operands = [Operand(x.buffer, 0, CODES[x.dtype]) for x in map(on_cpu, range(len(given)))]
    span = CombineSpan(work.buffer, 0, CODES[work.dtype], operands, work.buffer.size, 0, how)
    cpu.run_combine([span], cpu.isa(), cpu.checked_threads(threads))
    if work is not into:
        _copy_to_device(work, into)
    return result  # type: ignore[no-any-return]


def _method(name: str) -> Method:
    from ..methods.registry import METHODS

    if isinstance(name, str) and name == "lerp":
        raise ArgumentError("combine does not run lerp", "Call mi_kernels.lerp(a, b, lam).")
    if not isinstance(name, str) or name not in METHODS:
        methods = f"The methods are {', '.join(METHODS)}."
        raise ArgumentError(f"method {name!r} is unknown", with_hint(name, METHODS, methods))
    return METHODS[name]


def _values(method: Method, given: Mapping[str, Any], count: int, where: str) -> dict[str, Any]:
    """A value for each parameter of `method`: lists of `count` numbers for those that belong to a model."""
    known = [p.name for p in method.parameters]
    unknown = [key for key in given if key not in known]
    if unknown:
        takes = f"Its parameters are {', '.join(known)}." if known else "It has no parameters."
        names = {other: p.name for p in method.parameters for other in p.elsewhere}
        word = names.get(unknown[0], unknown[0])
        raise ArgumentError(f"{method.name} does not use {unknown[0]}", with_hint(word, known, takes))
    values = {}
    for p in method.parameters:
        value = p.default if given.get(p.name) is None else given[p.name]
        if value is None:
            raise ArgumentError(f"{method.name} needs {p.name}", f"Give `{p.name}`: {p.meaning}.")
        one = partial(p.checked, where=where, user=method.name)
        values[p.name] = _numbers(value, p, count, one) if p.by_model else one(value)
    return values


def _numbers(value: Any, parameter: Parameter, count: int, checked: Callable[[Any], float]) -> list[float]:
    if isinstance(value, Mapping):
        raise ArgumentError(
            f"{parameter.name} is a dict, which has no order of the tensors",
            f"Give one number, or a list with a number for each tensor: [*{parameter.name}.values()].",
        )
    array = items(value)
    one = isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or hasattr(value, "tolist")
    if array is None and one:
        return [checked(value)] * count
    numbers = [checked(item) for item in (value if array is None else array)]
    if len(numbers) != count:
        raise ArgumentError(
            f"{parameter.name} has {len(numbers)} values for {count} tensors",
            "Give one number, or one for each tensor; the base has none.",
        )
    return numbers


def _made(given: Sequence[Any], arrays: Sequence[Array], dtype: Any) -> Any:
    """A new array like the first one (the base, where there is one), of `dtype`."""
    wanted = arrays[0].dtype
    if dtype is not None:
        text = getattr(dtype, "__name__", None) or str(dtype)
        wanted = OUTPUTS.get(text.removeprefix("torch."), "")
        if not wanted:
            names = ", ".join(TORCH_NAMES[name] for name in FLOATS)
            raise DTypeError(f"dtype is {dtype!r}", f"Give {names}, or None for the first tensor's.")
    first = given[0]
    if wanted == arrays[0].dtype:
        return empty_like(first)
    text = TORCH_NAMES[wanted]
    if is_torch(first):
        import torch

        return torch.empty_like(first, dtype=getattr(torch, text))
    import numpy as np

    # NumPy has no bfloat16 of its own: the dtype of another tensor, or its bits.
    kinds = [x.dtype for x, array in zip(given, arrays) if array.dtype == wanted and not is_torch(x)]
    return np.empty(first.shape, kinds[0] if kinds else np.uint16 if wanted == "BF16" else text)


def _check(out: Array, arrays: Sequence[Array], labels: Sequence[str]) -> None:
    """Refuses shapes and devices that differ, and an output that overlaps an input without being it."""
    first = arrays[0]
    for array, label in (*zip(arrays, labels), (out, "out")):
        if array.shape != first.shape:
            raise ArgumentError(
                f"{label} has shape {array.shape}, {labels[0]} has {first.shape}", "Give tensors of one shape."
            )
        if array.device != first.device:
            raise ArgumentError(
                f"{label} is on {array.device}, {labels[0]} on {first.device}", "Move them to one device."
            )
    begin, size = _memory(out)
    for array, label in zip(arrays, labels):
        other = _memory(array)
        if begin < sum(other) and other[0] < begin + size and other != (begin, size):
            raise ArgumentError(
                f"out overlaps {label} without being it",
                "Give memory of its own, or the very same array to work in place.",
            )


def _check_alignment(arrays: Sequence[Array], labels: Sequence[str]) -> None:
    """Refuses elements that lie across their own boundary: on a GPU, an access to one breaks the context."""
    for array, label in zip(arrays, labels):
        address, size = array.buffer.data_ptr(), array.buffer.itemsize
        if address % size and array.buffer.numel():
            raise ArgumentError(
                f"{label} starts at address {address}, not a multiple of its {size}-byte elements",
                f"Pass {label}.clone().",
            )


def _memory(array: Array) -> tuple[int, int]:
    """The address and the number of bytes."""
    buffer = array.buffer
    return (buffer.ctypes.data if array.device == "cpu" else buffer.data_ptr()), buffer.nbytes


def _reader(array: Callable[[], Array]) -> Reader:
    def read(first: int, count: int) -> Operand:
        x = array()
        return Operand(x.buffer, first * x.buffer.itemsize, CODES[x.dtype])

    return read


def _copy_to_device(work: Array, out: Array) -> None:
    import torch

    bits = torch.from_numpy(work.buffer)
    out.buffer.view(-1).copy_(bits.view(torch.bfloat16) if work.dtype == "BF16" else bits)
