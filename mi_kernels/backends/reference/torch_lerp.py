"""Compute the contract in plain torch operations, for tensors on any device: slow, but obviously right.

It does not use `torch.lerp`, whose arithmetic on a GPU depends on what the compiler contracted. Here each operation is
one torch call, rounded once, and the fused multiply-add uses float64, as in `reference.lerp.fma`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

PIECE = 1 << 22  # elements: limits the float64 temporaries to about 300 MB

_NAN_BITS = {torch.bfloat16: 0x7FC0, torch.float16: 0x7E00, torch.float32: 0x7FC00000}


def available() -> str | None:
    """Returns None: this backend runs on every device that torch supports."""
    return None


def multi_lerp(outs: Sequence[Any], a: Sequence[Any], b: Sequence[Any], weights: Sequence[float]) -> None:
    """Computes outs[i] = lerp(a[i], b[i], weights[i]) for contiguous tensors on one device. Outputs may be inputs."""
    for out, x, y, weight in zip(outs, a, b, weights):
        w = float(np.float32(weight))
        pieces = zip(out.view(-1).split(PIECE), x.view(-1).split(PIECE), y.view(-1).split(PIECE))
        for out_piece, x_piece, y_piece in pieces:
            if w in (0, 1):
                source = y_piece if w else x_piece
                # torch copies bytes if the dtypes are equal.
                out_piece.copy_(source if source.dtype == out.dtype else narrow(source.float(), out.dtype))
            else:
                out_piece.copy_(narrow(lerp_float32(x_piece.float(), y_piece.float(), w), out.dtype))


def lerp_float32(a: Any, b: Any, w: float) -> Any:
    """Computes d = b - a;  |w| < 0.5 ? fma(w, d, a) : fma(w - 1, d, b) for float32 tensors and a float32 number w."""
    d = b - a
    if abs(w) < 0.5:
        return fma(w, d, a)
    return fma(float(np.float32(w) - np.float32(1)), d, b)


def fma(x: float, y: Any, z: Any) -> Any:
    """Computes x * y + z, rounded once to float32, through float64 rounded to odd; see `reference.lerp.fma`."""
    p = y.double() * x
    q = z.double()
    s = p + q
    t = s - p
    error = (p - (s - t)) + (q - t)
    bits = s.view(torch.int64)
    inexact = s.isfinite() & (error != 0) & (bits & 1 == 0)
    step = torch.where((error > 0) == (s > 0), 1, -1)
    return torch.where(inexact, bits + step, bits).view(torch.float64).float()


def narrow(values: Any, dtype: Any) -> Any:
    """Converts float32 to `dtype`. torch's casts round to nearest even; every NaN becomes the canonical one."""
    whole = torch.int32 if dtype == torch.float32 else torch.int16
    nan = torch.full((), _NAN_BITS[dtype], dtype=whole, device=values.device).view(dtype)
    return torch.where(values.isnan(), nan, values.to(dtype))
