"""Compute the formulas of csrc/combine.h in plain NumPy, to check the kernels.

Arrays are float32 and have one shape, with one array per model. These functions round the weights to float32. Every
operation is rounded once, and `fma` is the exact one of `reference.lerp`. This code is meant to be obviously right, and
is slow. It shares nothing with `csrc`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .lerp import Float32, fma

Mask = npt.NDArray[np.bool_]


def affine(x: Sequence[Float32], weights: Sequence[float]) -> Float32:
    """Computes x[m] + sum of w[k] (x[k] - x[m]) for weights that sum to 1, where m is the last of the largest weights.

    As in lerp, each difference is the later model minus the earlier one. For k < m this reverses its sign, so w[k] is
    negated.
    """
    w = [np.float32(v) for v in weights]
    m = max(range(len(w)), key=lambda k: (w[k], k))
    r = x[m]
    with np.errstate(all="ignore"):
        for k in range(len(x)):
            if k < m:
                r = fma(-w[k], x[m] - x[k], r)
            elif k > m:
                r = fma(w[k], x[k] - x[m], r)
    return r


def weighted_sum(x: Sequence[Float32], weights: Sequence[float]) -> Float32:
    """Computes w[0] x[0], and adds each other w[k] x[k] with fma."""
    with np.errstate(all="ignore"):
        r: Float32 = np.float32(weights[0]) * x[0]
    for v, w in zip(x[1:], weights[1:]):
        r = fma(np.float32(w), v, r)
    return r


def task(x: Sequence[Float32], weights: Sequence[float], scale: float) -> Float32:
    """Computes x[0] + scale * (weighted sum of the task vectors). `weights[0]`, of the base, is not used."""
    with np.errstate(all="ignore"):
        vectors = [v - x[0] for v in x[1:]]
    return fma(np.float32(scale), weighted_sum(vectors, weights[1:]), x[0])


def ties(
    x: Sequence[Float32], weights: Sequence[float], thresholds: Sequence[float], scale: float, normalize: bool = True
) -> Float32:
    """Sets the elements of task vectors whose magnitude is below the threshold to 0, and applies `elected`."""
    vectors = []
    with np.errstate(all="ignore"):
        for v, threshold in zip(x[1:], thresholds[1:]):
            d = v - x[0]
            vectors.append(np.where(np.abs(d) < np.float32(threshold), np.float32(0), d))
    return elected(x[0], vectors, weights[1:], scale, normalize)


def dare(
    x: Sequence[Float32],
    weights: Sequence[float],
    densities: Sequence[float],
    keys: Sequence[int],
    scale: float,
    normalize: bool = True,
    first: int = 0,
) -> Float32:
    """Drops elements of the task vectors at random, rescales the others by 1 / density, and applies `elected`.

    Args:
        first: the index of the first element of x in its tensor.
    """
    vectors = []
    with np.errstate(all="ignore"):
        for v, density, key in zip(x[1:], densities[1:], keys[1:]):
            rescaled = (v - x[0]) * (np.float32(1) / np.float32(density))
            kept = uniform(key, first, v.size).reshape(v.shape) < np.float32(density)
            vectors.append(np.where(kept, rescaled, np.float32(0)))
    return elected(x[0], vectors, weights[1:], scale, normalize)


def elected(
    base: Float32, vectors: Sequence[Float32], weights: Sequence[float], scale: float, normalize: bool
) -> Float32:
    """Computes base + scale * (mean of the vectors whose weighted value has the sign of their weighted sum).

    The sign of a sum of 0 is plus. A NaN in a vector has no sign, and is added in any case.
    """
    w = [np.float32(v) for v in weights]
    total = weighted_sum(vectors, weights)
    numerator: Float32 = np.zeros_like(base)
    denominator: Float32 = np.zeros_like(base)
    with np.errstate(all="ignore"):
        for v, weight in zip(vectors, w):
            product = weight * v
            agrees = np.where(total < 0, product < 0, product > 0)
            numerator = np.where(agrees | np.isnan(v), fma(weight, v, numerator), numerator)
            denominator = np.where(agrees, denominator + weight, denominator)
        if normalize:
            numerator = np.divide(numerator, np.where(denominator != 0, denominator, np.float32(1)), dtype=np.float32)
    return fma(np.float32(scale), numerator, base)


def uniform(key: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Returns uniform 24-bit numbers in [0, 1) for elements `first` to `first + count` of stream `key` (splitmix64)."""
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers: npt.NDArray[np.float64] = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / (1 << 24)
    return numbers


def threshold(x: Float32, base: Float32, density: float) -> float:
    """Returns the smallest magnitude that trimming to `density` keeps: that of rank max(1, floor(density * size))."""
    if density >= 1 or x.size == 0:
        return 0.0
    if density <= 0:
        return math.inf
    with np.errstate(all="ignore"):
        bits = np.sort((x - base).reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF))
    return float(bits[-max(1, int(density * x.size))].view(np.float32))


def cosine(a: Float32, b: Float32) -> float:
    """Of the angle between a and b, with sums that are exact but for one rounding; 0 where one of them is 0."""
    x, y = (v.reshape(-1).astype(np.float64) for v in (a, b))
    norms = math.sqrt(math.fsum(x * x)) * math.sqrt(math.fsum(y * y))
    return min(1.0, max(-1.0, math.fsum(x * y) / norms)) if norms else 0.0


def slerp_weights(cos: float, lam: float) -> tuple[float, float]:
    """Of the two tensors, from the cosine of their angle: a great circle's, or a line's where |cos| > 0.9995."""
    if abs(cos) > 0.9995:
        return 1 - lam, lam
    angle = math.acos(cos)
    return math.sin((1 - lam) * angle) / math.sin(angle), math.sin(lam * angle) / math.sin(angle)


def model_stock_scale(cosines: Sequence[float], models: int) -> float:
    """What the mean of the task vectors is multiplied by, from the cosines of all pairs (Jang et al. 2024, eq. 2)."""
    mean = math.fsum(cosines) / len(cosines)
    denominator = 1 + (models - 1) * mean
    return 0.0 if abs(denominator) < 1e-6 else models * mean / denominator
