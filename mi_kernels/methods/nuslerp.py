"""The arc between two models, or between their task vectors, divided in the proportion of two weights.

    lam = weight[1] / (weight[0] + weight[1]), and 1/2 where the magnitude of this sum is less than 1e-6
    w = sin((1 - lam) o) / sin(o), sin(lam o) / sin(o), with o the angle between the two tensors, in float64
    without a base:
        r = the sum formula of csrc/combine.h with weights w; lerp with lam where |cos o| >= 1 - 2^-25
    with a base:
        r = the task formula of csrc/combine.h with weights w and scale 1, with o the angle between the task vectors;
            w is (1 - lam, lam) where |cos o| >= 1 - 2^-25

2^-25 is where float32 rounds the cosine to 1, as mergekit's arithmetic does. Unlike `slerp`, only proportions count,
and a base may be given.

>>> import mi_kernels, numpy as np
>>> a, b = np.float32([1, 0]), np.float32([0.5, 0.75**0.5])  # 60 degrees apart
>>> mi_kernels.combine([a, b], "nuslerp").tolist()  # half-way: the cosine and the sine of 30 degrees
[0.86602..., 0.49999...]
>>> mi_kernels.combine([a, b], "nuslerp", weight=[4, 2]).tolist()  # a third of the way: 20 degrees
[0.93969..., 0.34202...]
>>> base = np.float32([2, 2])
>>> mi_kernels.combine([base + a, base + b], "nuslerp", base=base).tolist()
[2.86602..., 2.5...]
>>> mi_kernels.combine([2 * a, 6 * a], "nuslerp", weight=[3, 1]).tolist()  # in line: 3/4 of 2 and 1/4 of 6
[3.0, 0.0]
>>> mi_kernels.combine([base + 2 * a, base - 6 * a], "nuslerp", base=base, weight=[3, 1]).tolist()  # opposite
[2.0, 2.0]
>>> mi_kernels.combine([a, 3 * a], "nuslerp", weight=[1, -1]).tolist()  # weights that sum to 0 count equally
[2.0, 0.0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._cpu import Formula
from .angles import arc_weights, cosine
from .method import Combine, Mergekit, Method, Tensor
from .parameters import WEIGHT
from .weights import affine_weights

_NO_SUM = 1e-6
_COLLINEAR = 1 - 2.0**-25


def _formula(tensor: Tensor, weight: Sequence[float]) -> Combine:
    a, b = tensor.models
    total = math.fsum(weight)
    lam = 0.5 if abs(total) < _NO_SUM else weight[1] / total
    cos = cosine(tensor, a, b, tensor.base)
    in_line = abs(cos) >= _COLLINEAR
    if tensor.base is not None:
        weights = [1 - lam, lam] if in_line else arc_weights(cos, lam)
        return {"formula": Formula.TASK, "weights": [0.0, *weights], "scale": 1.0}
    if in_line:
        return {"formula": Formula.AFFINE, "weights": affine_weights([1 - lam, lam])}
    return {"formula": Formula.SUM, "weights": arc_weights(cos, lam)}


METHOD = Method(
    name="nuslerp",
    summary="the arc between two models, or between their task vectors, in the proportion of the weights",
    paper="mergekit 0.1.5, merge_methods/nuslerp.py; the arc: Shoemake 1985, https://doi.org/10.1145/325165.325242",
    formula=_formula,
    parameters=(WEIGHT,),
    base="optional",
    most=2,
    reads="angles",
    mergekit=Mergekit(
        "nuslerp",
        defaults={"weight": None},
        ignored={"nuslerp_flatten": True, "nuslerp_row_wise": None},  # rows and columns have no angle of their own
    ),
)
