"""Linear interpolation of tensors.

The numerics contract: the result is bit-identical to ``torch.lerp(a.float(), b.float(), lam).to(dtype)`` on every
backend, ISA, thread count and chunking. With ``w = float32(lam)``:

    d = b - a                                          float32, to nearest even
    r = w < 0.5 ? fma(w, d, a) : fma(w - 1, d, b)      one rounding each
    out = round_to_nearest_even(r, dtype)              overflow goes to inf, subnormals are kept

Every NaN result is the canonical quiet one (0x7FC0, 0x7E00, 0x7FC00000), so that NaN too has the same bits everywhere.
``lam`` 0 and 1 copy bytes: NaN payloads and -0 survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .. import dispatch
from ..backends import cpu
from ..errors import ArgumentError
from ..lam import checked_lam
from .arrays import Array, as_array, empty_like

if TYPE_CHECKING:
    from .._cpu import Span

T = TypeVar("T")


def lerp(a: T, b: T, lam: float, out: T | None = None, *, backend: str | None = None, threads: int | None = None) -> T:
    """(1 - lam) * a + lam * b, rounded once at the end; see the module's contract.

    Args:
        a, b: NumPy arrays or torch CPU tensors of one shape, contiguous; bf16, float16 or float32, not necessarily the
            same (NumPy bf16: ml_dtypes.bfloat16, or its bits as uint16).
        lam: finite; 0 gives a, 1 gives b, values outside extrapolate.
        out: where to write: contiguous, of the same shape; may be `a` or `b` itself. None makes one like `a`.
        backend: "cpu", "reference" (NumPy, slow), or None for the best.
        threads: how many threads may work; None for all cores.

    Returns:
        `out`.

    Raises:
        ArgumentError: shapes differ, lam is not finite, or an argument is not contiguous or overlaps `out` without
            being it.
        DTypeError: an argument is of another type or dtype.
        BackendError: the backend asked for is not available.
    """
    return multi_lerp([a], [b], lam, None if out is None else [out], backend=backend, threads=threads, _single=True)[0]


def multi_lerp(
    a: Sequence[T],
    b: Sequence[T],
    lam: float | Sequence[float],
    outs: Sequence[T] | None = None,
    *,
    backend: str | None = None,
    threads: int | None = None,
    _single: bool = False,
) -> list[T]:
    """`lerp` of many pairs in one call, shared evenly among threads whatever their sizes.

    Args:
        a, b: lists of equal length; each pair as for `lerp`.
        lam: one number for all pairs, or one for each.
        outs: one array a pair, or None to make them. An output may be its own input and overlaps nothing else.
        backend, threads: as for `lerp`.

    Returns:
        `outs`, as a list.

    Raises:
        As `lerp`; the message names the pair.
    """
    for name, given in (("b", b), ("outs", outs)):
        if given is not None and len(given) != len(a):
            raise ArgumentError(f"{name} has {len(given)} tensors, a has {len(a)}", "Give lists of equal length.")
    lams = _lams(lam, len(a))
    label = (lambda name, i: name) if _single else (lambda name, i: f"{'outs' if name == 'out' else name}[{i}]")
    arrays_a = [as_array(x, label("a", i)) for i, x in enumerate(a)]
    arrays_b = [as_array(x, label("b", i)) for i, x in enumerate(b)]
    results = [empty_like(x) for x in a] if outs is None else list(outs)
    arrays_out = [as_array(x, label("out", i), writable=True) for i, x in enumerate(results)]
    for i, (x, y, o) in enumerate(zip(arrays_a, arrays_b, arrays_out)):
        for name, other in (("b", y), ("out", o)):
            if other.shape != x.shape:
                raise ArgumentError(
                    f"{label(name, i)} has shape {other.shape}, {label('a', i)} has {x.shape}", "Give equal shapes."
                )
            if other.device != x.device:
                raise ArgumentError(
                    f"{label(name, i)} is on {other.device}, {label('a', i)} on {x.device}", "Move them to one device."
                )
    device = arrays_a[0].device if arrays_a else "cpu"
    chosen = dispatch.choose(dispatch.Request(backend, device), _machine())
    spans = [_span(x, y, o, w) for x, y, o, w in zip(arrays_a, arrays_b, arrays_out, lams)]
    if outs is not None:
        _refuse_overlap(spans, label)
    if chosen == "reference":
        _run_reference(arrays_a, arrays_b, arrays_out, lams)
    else:
        cpu.run_spans(spans, cpu.isa(), cpu.checked_threads(threads))
    return results


def _lams(lam: float | Sequence[float], count: int) -> list[float]:
    given = list(lam) if isinstance(lam, Sequence) and not isinstance(lam, str) else [lam] * count
    if len(given) != count:
        raise ArgumentError(f"lam has {len(given)} values for {count} pairs", "Give one number, or one for each pair.")
    return [checked_lam(value, extrapolate=True) for value in given]


def _machine() -> dispatch.Machine:
    try:
        from .. import _cpu  # noqa: F401
    except ImportError:
        return dispatch.Machine(cpu_extension=False)
    return dispatch.Machine()


def _span(a: Array, b: Array, out: Array, w: float) -> Span:
    codes = cpu.DTYPE_CODES
    return (
        out.buffer,
        0,
        a.buffer,
        0,
        b.buffer,
        0,
        out.buffer.size,
        w,
        codes[out.dtype],
        codes[a.dtype],
        codes[b.dtype],
    )


def _refuse_overlap(spans: list[Span], label: Any) -> None:
    from .. import _cpu

    clash = _cpu.find_overlap(spans)
    if clash is not None:
        out, name, other = clash
        raise ArgumentError(
            f"{label('out', out)} overlaps {label(name, other)} without being it",
            "Give memory of its own, or the very same array to work in place.",
        )


def _run_reference(a: list[Array], b: list[Array], out: list[Array], lams: list[float]) -> None:
    import numpy as np

    from ..backends import reference

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
