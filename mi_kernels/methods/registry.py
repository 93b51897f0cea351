"""The merge methods: from a tensor's parameters to the formula that the kernels run.

The formulas themselves, over K tensors in float32 with one rounding an operation, stand in csrc/combine.h; the result
is rounded once to the output's dtype. What each method feeds them:

average          affine, every weight 1/K
linear           affine with the weights divided by their sum (normalize, the default), else sum
task_arithmetic  task: base + scale * sum of weight * (model - base)              (Ilharco et al. 2023)
ties             ties: as task, but task vectors trimmed to the `density` largest magnitudes of the tensor, signs
                 elected, and the mean taken over those who agree, times scale    (Yadav et al. 2023)
dare_ties        ties on task vectors thinned at random to `density`, rescaled by 1/density (Yu et al. 2024)
slerp            sum with sin((1 - lam) o) / sin(o) and sin(lam o) / sin(o), o the angle between the two tensors;
                 affine with lam where |cos o| > 0.9995                           (Shoemake 1985)
model_stock      task with weights 1/K and scale K c / (1 + (K - 1) c), c the mean cosine between the task vectors;
                 scale 0 where that denominator is within 1e-6 of 0               (Jang et al. 2024)

Weights are float32, computed in float64 and rounded once. For affine, the first model's weight is 1 minus the others.
Two models are interpolated by `lerp` itself: the same bits, and copies where a weight is 1. Thresholds keep every
element that ties with the last one kept, as the authors' code does, so that equal magnitudes never depend on an order.
Angles are computed in float64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ArgumentError
from .statistics import Reader, kth_largest_difference, moments

if TYPE_CHECKING:
    from .._cpu import Formula

AFFINE, SUM, TASK, TIES, DARE = range(5)  # csrc/combine.h
_COLLINEAR = 0.9995  # as mergekit and most implementations
_SINGULAR = 1e-6
MAX_MODELS = 16


@dataclass(frozen=True)
class Parameters:
    """The parameters of one tensor.

    Attributes:
        weights, densities: by model, the base not among them.
        scale: what the task vectors' sum is multiplied by (mergekit's lambda).
        normalize: divide by the sum of the weights.
        lam: slerp's place between the two models.
        seed: of dare_ties.
    """

    weights: Sequence[float]
    densities: Sequence[float] = ()
    scale: float = 1.0
    normalize: bool = True
    lam: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor to be merged: its name, its size, and a reader for each model (the base first, where there is one)."""

    name: str
    elements: int
    readers: Sequence[Reader]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        formula: makes the kernels' formula for a tensor; reads the tensor where it must.
        base: whether a base model is needed.
        least, most: how many models, the base not counted.
        settings: the parameters it takes.
        reads: whether `formula` reads tensors, so that it pays to run it in parallel.
        normalize: the default.
    """

    formula: Callable[[Tensor, Parameters], Formula]
    base: bool
    settings: frozenset[str]
    least: int = 1
    most: int = MAX_MODELS - 1
    reads: bool = False
    normalize: bool = True
    defaults: Mapping[str, float] = field(default_factory=dict)


def affine_weights(weights: Sequence[float]) -> list[float]:
    """`weights` that sum to 1, as affine takes them: rounded to float32, the first one the rest to 1."""
    import numpy as np

    others = [float(np.float32(w)) for w in weights[1:]]
    return [1.0 - math.fsum(others), *others]


def _average(tensor: Tensor, p: Parameters) -> Formula:
    return {"formula": AFFINE, "weights": affine_weights([1 / len(tensor.readers)] * len(tensor.readers))}


def _linear(tensor: Tensor, p: Parameters) -> Formula:
    if not p.normalize:
        return {"formula": SUM, "weights": list(p.weights)}
    total = math.fsum(p.weights)
    if total == 0:
        raise ArgumentError(f"{tensor.name}: the weights sum to 0", "Change one, or set normalize to false.")
    return {"formula": AFFINE, "weights": affine_weights([w / total for w in p.weights])}


def _task_arithmetic(tensor: Tensor, p: Parameters) -> Formula:
    total = math.fsum(p.weights) if p.normalize else 1.0
    divisor = total if abs(total) >= 1e-8 else 1.0
    return {"formula": TASK, "weights": [0.0, *(w / divisor for w in p.weights)], "scale": p.scale}


def _ties(tensor: Tensor, p: Parameters) -> Formula:
    base, *models = tensor.readers
    thresholds = [_threshold(x, base, tensor.elements, d) for x, d in zip(models, p.densities)]
    return {
        "formula": TIES,
        "weights": [0.0, *p.weights],
        "thresholds": [0.0, *thresholds],
        "scale": p.scale,
        "normalize": p.normalize,
    }


def _threshold(x: Reader, base: Reader, elements: int, density: float) -> float:
    if density >= 1 or elements == 0:
        return 0.0
    if density <= 0:
        return math.inf
    return kth_largest_difference(x, base, elements, max(1, int(density * elements)))


def _dare_ties(tensor: Tensor, p: Parameters) -> Formula:
    bad = [d for d in p.densities if not 0 < d <= 1]
    if bad:
        raise ArgumentError(f"{tensor.name}: density {bad[0]:g} cannot be thinned to", "Give more than 0, at most 1.")
    return {
        "formula": DARE,
        "weights": [0.0, *p.weights],
        "densities": [1.0, *p.densities],
        "keys": [0, *(stream_key(p.seed, tensor.name, k) for k in range(1, len(tensor.readers)))],
        "scale": p.scale,
        "normalize": p.normalize,
    }


def stream_key(seed: int, name: str, model: int) -> int:
    """The 64-bit key of one tensor's random numbers: the same for the same seed, name and place among the models."""
    digest = hashlib.blake2b(f"{seed}\0{model}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _slerp(tensor: Tensor, p: Parameters) -> Formula:
    cosine = _cosine(tensor, tensor.readers[0], tensor.readers[1], None)
    if abs(cosine) > _COLLINEAR:
        return {"formula": AFFINE, "weights": affine_weights([1 - p.lam, p.lam])}
    angle = math.acos(cosine)
    weights = [math.sin((1 - p.lam) * angle) / math.sin(angle), math.sin(p.lam * angle) / math.sin(angle)]
    return {"formula": SUM, "weights": weights}


def _model_stock(tensor: Tensor, p: Parameters) -> Formula:
    base, *models = tensor.readers
    count = len(models)
    found = [_cosine(tensor, models[i], models[j], base) for i in range(count) for j in range(i + 1, count)]
    cosine = math.fsum(found) / len(found)
    denominator = 1 + (count - 1) * cosine
    scale = 0.0 if abs(denominator) < _SINGULAR else count * cosine / denominator
    return {"formula": TASK, "weights": [0.0, *[1 / count] * count], "scale": scale}


def _cosine(tensor: Tensor, a: Reader, b: Reader, base: Reader | None) -> float:
    cosine = moments(a, b, base, tensor.elements).cosine
    if math.isnan(cosine):
        raise ArgumentError(
            f"{tensor.name}: holds NaN or infinity, so there is no angle between the models",
            "Leave it out by layers or modules, or choose a method that needs no angle.",
        )
    return cosine


_VECTORS = frozenset({"weight", "density", "scale", "normalize"})

METHODS: dict[str, Method] = {
    "average": Method(_average, base=False, least=2, most=MAX_MODELS, settings=frozenset()),
    "linear": Method(_linear, base=False, least=2, most=MAX_MODELS, settings=frozenset({"weight", "normalize"})),
    "task_arithmetic": Method(
        _task_arithmetic, base=True, settings=frozenset({"weight", "scale", "normalize"}), normalize=False
    ),
    "ties": Method(_ties, base=True, settings=_VECTORS, reads=True),
    "dare_ties": Method(_dare_ties, base=True, settings=_VECTORS | {"seed"}),
    "slerp": Method(_slerp, base=False, least=2, most=2, settings=frozenset({"lam"}), reads=True),
    "model_stock": Method(_model_stock, base=True, least=2, settings=frozenset(), reads=True),
}
