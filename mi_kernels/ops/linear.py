"""Linear interpolation of tensors.

The numerics contract: the result is bit-identical to ``torch.lerp(a.float(), b.float(), lam).to(dtype)`` on every
backend, ISA, thread count and chunking. With ``w = float32(lam)``:

    d = b - a                                          float32, to nearest even
    r = |w| < 0.5 ? fma(w, d, a) : fma(w - 1, d, b)    one rounding each
    out = round_to_nearest_even(r, dtype)              overflow goes to inf, subnormals are kept

Every NaN result is the canonical quiet one (0x7FC0, 0x7E00, 0x7FC00000), so that NaN too has the same bits everywhere.
``lam`` 0 and 1 copy bytes: NaN payloads and -0 survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..system.arguments import checks_names
from .arrays import is_traced, pair_lists
from .eager import multi_lerp_now
from .pair import quick_lerp

T = TypeVar("T")


@checks_names
def lerp(a: T, b: T, lam: float, out: T | None = None, *, backend: str | None = None, threads: int | None = None) -> T:
    """(1 - lam) * a + lam * b, rounded once at the end; see the module's contract.

    Args:
        a, b: NumPy arrays, or torch tensors on the CPU or one CUDA device, of one shape, contiguous; bf16, float16 or
            float32, not necessarily the same (NumPy bf16: ml_dtypes.bfloat16, or its bits as uint16).
        lam: finite; 0 gives a, 1 gives b, values outside extrapolate.
        out: where to write: contiguous, of the same shape; may be `a` or `b` itself. None makes one like `a`.
        backend: "cpu"; "cuda" or "triton", for CUDA tensors; "reference" (NumPy or torch, slow); None for the best,
            or for the one MI_KERNELS_BACKEND names.
        threads: how many threads may work, on the CPU; None for all cores.

    Returns:
        `out`. On a CUDA device the work is queued on the current stream.

    Under `torch.compile`, and on FakeTensors, the call becomes one custom op (`ops.custom`).

    Raises:
        ArgumentError: shapes or devices differ, lam is not finite, or an argument is not contiguous, requires grad, or
            overlaps `out` without being it.
        DTypeError: an argument is of another type or dtype.
        BackendError: the backend asked for is not available.

    >>> import numpy as np
    >>> from mi_kernels import lerp
    >>> a, b = np.float32([0, 1, 2]), np.float32([1, 3, 2])
    >>> lerp(a, b, 0.5).tolist()
    [0.5, 2.0, 2.0]
    >>> lerp(a, b, 0.5, out=a) is a
    True
    """
    quick: T | None = quick_lerp(a, b, lam, out, backend, threads)
    if quick is not None:
        return quick
    return multi_lerp([a], [b], lam, None if out is None else [out], backend=backend, threads=threads, _single=True)[0]


@checks_names
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
    """`lerp` of many pairs in one call, shared evenly among threads whatever their sizes; on a GPU, one launch.

    Args:
        a, b: lists of equal length, or other iterables but dicts; each pair as for `lerp`.
        lam: one number for all pairs, or one for each.
        outs: one array a pair, or None to make them. An output may be its own input and overlaps nothing else.
        backend, threads: as for `lerp`.

    Returns:
        `outs`, as a list.

    Raises:
        As `lerp`; the message names the pair.

    >>> import numpy as np
    >>> from mi_kernels import multi_lerp
    >>> a, b = [np.float32([0]), np.float32([0, 4])], [np.float32([1]), np.float32([2, 6])]
    >>> [merged.tolist() for merged in multi_lerp(a, b, [0.25, 0.5])]
    [[0.25], [1.0, 5.0]]
    """
    a, b, outs = pair_lists(a, b, outs)
    if is_traced(a, b, outs or ()):
        from . import custom

        return custom.traced(a, b, lam, outs, backend, threads, _single)
    return multi_lerp_now(a, b, lam, outs, backend, threads, _single)
