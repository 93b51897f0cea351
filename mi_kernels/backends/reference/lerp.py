"""Compute the linear interpolation of the contract in plain NumPy, to check the kernels without torch.

This code is meant to be obviously right, and is slow (about 20 ns per element). It shares nothing with `csrc`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]


def fma(x: np.float32, y: Float32, z: Float32) -> Float32:
    """Computes x * y + z, rounded once to float32, through float64 rounded to odd.

    The product of two float32 is exact in float64. The sum may be inexact. Its rounding error (Knuth's TwoSum) gives
    the direction of the exact sum. Making the last bit of an inexact float64 odd keeps this information through the
    second rounding, because 53 >= 2 * 24 + 2 (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums",
    2008).
    """
    with np.errstate(all="ignore"):
        p = np.float64(x) * y.astype(np.float64)
        q = z.astype(np.float64)
        s = p + q
        t = s - p
        error = (p - (s - t)) + (q - t)
        bits = s.view(np.int64)
        inexact = np.isfinite(s) & (error != 0) & (bits & 1 == 0)
        # One step towards the exact sum: away from zero if the error has the sign of s, otherwise towards zero.
        step = np.where((error > 0) == (s > 0), 1, -1)
        odd = np.where(inexact, bits + step, bits).view(np.float64)
        result: Float32 = odd.astype(np.float32)
        return result


def lerp_float32(a: Float32, b: Float32, lam: float) -> Float32:
    """Computes d = b - a;  |w| < 0.5 ? fma(w, d, a) : fma(w - 1, d, b), with w = float32(lam)."""
    w = np.float32(lam)
    with np.errstate(all="ignore"):
        d = b - a
    return fma(w, d, a) if abs(w) < np.float32(0.5) else fma(w - np.float32(1), d, b)


def bf16_to_float32(bits: Bits) -> Float32:
    wide: Float32 = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def float32_to_bf16(values: Float32) -> Bits:
    """Rounds to nearest even with integer operations; every NaN becomes 0x7FC0."""
    bits = values.view(np.uint32)
    kept, rest = bits >> 16, bits & 0xFFFF
    up = (rest > 0x8000) | ((rest == 0x8000) & (kept & 1 == 1))
    rounded: Bits = np.where(np.isnan(values), np.uint32(0x7FC0), kept + up).astype(np.uint16)
    return rounded


def lerp_bf16(a: Bits, b: Bits, lam: float) -> Bits:
    """Interpolates bf16 tensors, given as uint16 bits; lam 0 and 1 copy."""
    w = np.float32(lam)
    if w in (0, 1):
        copied: Bits = (b if w else a).copy()
        return copied
    return float32_to_bf16(lerp_float32(bf16_to_float32(a), bf16_to_float32(b), lam))
