"""The contract in plain torch operations, for tensors on any device: slow, and obvious.

`torch.lerp` itself is not used: on a GPU its arithmetic is whatever its build contracted. Here each operation is one
torch call, rounded once, and the fused multiply-add goes by way of float64, as in `reference.fma`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

PIECE = 1 << 22  # elements: bounds the float64 temporaries to some 300 MB

_NAN_BITS = {torch.bfloat16: 0x7FC0, torch.float16: 0x7E00, torch.float32: 0x7FC00000}


def available() -> str | None:
    """None: it runs wherever torch does."""
    return None


def multi_lerp(outs: Sequence[Any], a: Sequence[Any], b: Sequence[Any], weights: Sequence[float]) -> None:
    """outs[i] = lerp(a[i], b[i], weights[i]); contiguous tensors of one device, in place or apart."""
    for out, x, y, weight in zip(outs, a, b, weights):
        w = float(np.float32(weight))
        pieces = zip(out.view(-1).split(PIECE), x.view(-1).split(PIECE), y.view(-1).split(PIECE))
        for out_piece, x_piece, y_piece in pieces:
            if w in (0, 1):
                source = y_piece if w else x_piece
                # Between equal dtypes torch copies bytes.
                out_piece.copy_(source if source.dtype == out.dtype else narrow(source.float(), out.dtype))
            else:
                out_piece.copy_(narrow(lerp_float32(x_piece.float(), y_piece.float(), w), out.dtype))


def lerp_float32(a: Any, b: Any, w: float) -> Any:
    """d = b - a;  |w| < 0.5 ? fma(w, d, a) : fma(w - 1, d, b), of float32 tensors; w is a float32 number."""
    d = b - a
    if abs(w) < 0.5:
        return fma(w, d, a)
    return fma(float(np.float32(w) - np.float32(1)), d, b)


def fma(x: float, y: Any, z: Any) -> Any:
    """x * y + z rounded once to float32, by way of float64 rounded to odd; see `reference.fma`."""
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
    """float32 to `dtype`: torch's casts round to nearest even; every NaN becomes the canonical one, as bits."""
    whole = torch.int32 if dtype == torch.float32 else torch.int16
    nan = torch.full((), _NAN_BITS[dtype], dtype=whole, device=values.device).view(dtype)
    return torch.where(values.isnan(), nan, values.to(dtype))
