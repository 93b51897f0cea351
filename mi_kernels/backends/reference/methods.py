"""The formulas of csrc/combine.h and the methods that feed them, computed another way, in plain NumPy.

The kernels and `mi_kernels.methods` are checked against this, bit for bit. Arrays are float32 and of one shape, one for
each model; weights are rounded to float32 here. Every operation is rounded once; fma is the exact one of
`reference.lerp`. Slow and obvious is the point; no code is shared with `csrc` or `mi_kernels.methods`.

`FORMULAS` has the formulas by the names of `mi_kernels._cpu.Formula`, with the parameters of `Combine` there.
`merge_NAME` is the method NAME: it takes the tensor's name, the base (None without one), the models, and the parameters
of the method by name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .lerp import Float32, fma, lerp_float32

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
    """Thinned task vectors, then `elected`."""
    return elected(x[0], thinned(x, densities, keys, first), weights[1:], scale, normalize)


def dare_linear(
    x: Sequence[Float32],
    weights: Sequence[float],
    densities: Sequence[float],
    keys: Sequence[int],
    scale: float,
    first: int = 0,
) -> Float32:
    """x[0] + scale * weighted sum of the thinned task vectors."""
    return fma(np.float32(scale), weighted_sum(thinned(x, densities, keys, first), weights[1:]), x[0])


def thinned(x: Sequence[Float32], densities: Sequence[float], keys: Sequence[int], first: int) -> list[Float32]:
    """Task vectors thinned at random and rescaled by 1 / density.

    Args:
        first: the index of the first element of x in its tensor.
    """
    vectors = []
    with np.errstate(all="ignore"):
        for v, density, key in zip(x[1:], densities[1:], keys[1:]):
            rescaled = (v - x[0]) * (np.float32(1) / np.float32(density))
            kept = uniform(key, first, v.size).reshape(v.shape) < np.float32(density)
            vectors.append(np.where(kept, rescaled, np.float32(0)))
    return vectors


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


def stream_keys(seed: int, name: str, models: int) -> list[int]:
    """The keys of a tensor's random numbers, for each model: 8 bytes of BLAKE2b of the seed, the place and the name."""
    texts = [f"{seed}\x00{place}\x00{name}" for place in range(1, models + 1)]
    return [int(hashlib.blake2b(text.encode(), digest_size=8).digest()[::-1].hex(), 16) for text in texts]


def shares(weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1 as the affine formula takes them: float32, the first one what the others leave."""
    rest = [float(np.float32(w)) for w in weights[1:]]
    return [1 - math.fsum(rest), *rest]


def interpolated(a: Float32, b: Float32, lam: float) -> Float32:
    """Two models under the affine formula: `lerp`, which copies where lam is 0 or 1."""
    w = np.float32(lam)
    return (b if w else a) if w in (0, 1) else lerp_float32(a, b, lam)


def arc(cos: float, lam: float) -> list[float]:
    """Weights along the arc between two tensors, in long double: the angle by its tangent, not its cosine."""
    wide = np.longdouble(cos)
    angle = np.arctan2(np.sqrt((1 - wide) * (1 + wide)), wide)
    return [float(np.sin(part * angle) / np.sin(angle)) for part in (1 - np.longdouble(lam), np.longdouble(lam))]


def merge_average(name: str, base: None, x: Sequence[Float32]) -> Float32:
    """The mean."""
    return interpolated(x[0], x[1], 0.5) if len(x) == 2 else affine(x, shares([1 / len(x)] * len(x)))


def merge_linear(name: str, base: None, x: Sequence[Float32], weight: Sequence[float], normalize: bool) -> Float32:
    """The weighted average, or the weighted sum."""
    if not normalize:
        return weighted_sum(x, weight)
    total = math.fsum(weight)
    if len(x) == 2:
        return interpolated(x[0], x[1], weight[1] / total)
    return affine(x, shares([w / total for w in weight]))


def divided(weight: Sequence[float], normalize: bool) -> Sequence[float]:
    """The weights divided by their sum, if that is asked for and the sum is not 0."""
    total = math.fsum(weight)
    return [w / total for w in weight] if normalize and abs(total) >= 1e-8 else weight


def merge_task_arithmetic(
    name: str, base: Float32, x: Sequence[Float32], weight: Sequence[float], scale: float, normalize: bool
) -> Float32:
    """base + scale * weighted sum of the task vectors."""
    return task([base, *x], [0, *divided(weight, normalize)], scale)


def merge_ties(
    name: str,
    base: Float32,
    x: Sequence[Float32],
    weight: Sequence[float],
    density: Sequence[float],
    scale: float,
    normalize: bool,
) -> Float32:
    """Trimmed, elected, averaged."""
    cuts = [threshold(v, base, d) for v, d in zip(x, density)]
    return ties([base, *x], [0, *weight], [0, *cuts], scale, normalize)


def merge_dare_ties(
    name: str,
    base: Float32,
    x: Sequence[Float32],
    weight: Sequence[float],
    density: Sequence[float],
    scale: float,
    normalize: bool,
    seed: int,
) -> Float32:
    """Thinned, elected, averaged."""
    keys = stream_keys(seed, name, len(x))
    return dare([base, *x], [0, *weight], [1, *density], [0, *keys], scale, normalize)


def merge_dare_linear(
    name: str,
    base: Float32,
    x: Sequence[Float32],
    weight: Sequence[float],
    density: Sequence[float],
    scale: float,
    normalize: bool,
    seed: int,
) -> Float32:
    """Thinned, summed."""
    keys = stream_keys(seed, name, len(x))
    return dare_linear([base, *x], [0, *divided(weight, normalize)], [1, *density], [0, *keys], scale)


def merge_mi_lerp(name: str, base: None, x: Sequence[Float32], lam: float) -> Float32:
    return interpolated(x[0], x[1], lam)


def merge_slerp(name: str, base: None, x: Sequence[Float32], lam: float) -> Float32:
    """The arc; a line where |cos| > 0.9995."""
    a, b = x
    cos = cosine(a, b)
    return interpolated(a, b, lam) if abs(cos) > 0.9995 else weighted_sum(x, arc(cos, lam))


def merge_nuslerp(name: str, base: Float32 | None, x: Sequence[Float32], weight: Sequence[float]) -> Float32:
    """The arc of the models or of their task vectors; a line where float32 does not tell the cosine from 1 or -1."""
    a, b = x
    lam = weight[1] / (weight[0] + weight[1]) if abs(weight[0] + weight[1]) >= 1e-6 else 0.5
    with np.errstate(all="ignore"):
        cos = cosine(a, b) if base is None else cosine(a - base, b - base)
    line = 1 - abs(cos) <= 2.0**-25
    if base is not None:
        return task([base, a, b], [0, *([1 - lam, lam] if line else arc(cos, lam))], 1)
    return interpolated(a, b, lam) if line else weighted_sum(x, arc(cos, lam))


def merge_model_stock(name: str, base: Float32, x: Sequence[Float32]) -> Float32:
    """base + t (mean - base); t is the mean cosine over the mean of the matrix of cosines, with ones on its diagonal.

    That matrix sums to K + K (K - 1) c, so that t = K c / (1 + (K - 1) c): equation 2 of Jang et al. 2024.
    """
    with np.errstate(all="ignore"):
        vectors = [v - base for v in x]
    cosines = np.array([[1.0 if u is v else cosine(u, v) for u in vectors] for v in vectors])
    pairs = cosines[np.triu_indices(len(x), 1)]
    mean = float(np.mean(cosines))
    t = 0.0 if abs(mean * len(x)) < 1e-6 else float(np.mean(pairs)) / mean
    return task([base, *x], [0, *[1 / len(x)] * len(x)], t)


FORMULAS: dict[str, Callable[..., Float32]] = {
    "AFFINE": affine,
    "SUM": weighted_sum,
    "TASK": task,
    "TIES": ties,
    "DARE": dare,
    "DARE_LINEAR": dare_linear,
}
