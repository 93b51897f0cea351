"""Angles between tensors, in float64, and the weights of two tensors along the arc between them."""

from __future__ import annotations

import math

from ..errors import ArgumentError
from .method import Tensor
from .statistics import Reader, moments


def cosine(tensor: Tensor, a: Reader, b: Reader, base: Reader | None) -> float:
    """The cosine of the angle between a and b, or between a - base and b - base; 0 where one of them is 0.

    Raises:
        ArgumentError: NaN or infinity is among the elements.
    """
    found = moments(a, b, base, tensor.elements).cosine
    if math.isnan(found):
        raise ArgumentError(
            f"{tensor.name}: holds NaN or infinity, so that no angle between the models exists",
            "Leave this tensor out by layers or modules, or choose a method that needs no angle.",
        )
    return found


def arc_weights(cosine: float, lam: float) -> list[float]:
    """sin((1 - lam) o) / sin(o) and sin(lam o) / sin(o), for an angle o with this cosine, not 0 or pi."""
    angle = math.acos(cosine)
    return [math.sin((1 - lam) * angle) / math.sin(angle), math.sin(lam * angle) / math.sin(angle)]
