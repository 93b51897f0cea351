"""The arc between two models.

    r = the sum formula of csrc/combine.h with weights sin((1 - lam) o) / sin(o) and sin(lam o) / sin(o), o the angle
        between the two tensors, in float64; lerp with lam where |cos o| > 0.9995, as in most implementations.

>>> import mi_kernels, numpy as np
>>> a, b = np.float32([1, 0]), np.float32([0, 1])
>>> mi_kernels.combine([a, b], "slerp", lam=0.5).tolist()  # half of a right angle
[0.70710..., 0.70710...]
"""

from __future__ import annotations

from .._cpu import Formula
from .angles import arc_weights, cosine
from .method import Combine, Mergekit, Method, Tensor
from .parameters import LAM
from .weights import affine_weights

_COLLINEAR = 0.9995


def _formula(tensor: Tensor, lam: float) -> Combine:
    a, b = tensor.models
    cos = cosine(tensor, a, b, base=None)
    if abs(cos) > _COLLINEAR:
        return {"formula": Formula.AFFINE, "weights": affine_weights([1 - lam, lam])}
    return {"formula": Formula.SUM, "weights": arc_weights(cos, lam)}


METHOD = Method(
    name="slerp",
    summary="the arc between two models",
    paper="Shoemake 1985, https://doi.org/10.1145/325165.325242",
    formula=_formula,
    parameters=(LAM,),
    most=2,
    reads="angles",
    mergekit=Mergekit("slerp", base="first"),
)
