"""The weighted average of all models, or their weighted sum.

    normalize (the default):
        r = the affine formula of csrc/combine.h with the weights divided by their sum: rounded to float32 for all
            models but the first, whose weight is 1 minus the others. Two models are interpolated by `lerp`.
    otherwise:
        r = the sum formula of csrc/combine.h: w[0] x[0], then fma(w[k], x[k], r)

>>> import mi_kernels, numpy as np
>>> models = [np.float32([x]) for x in (1, 5)]
>>> mi_kernels.combine(models, "linear", weight=[1, 3]).tolist()
[4.0]
>>> mi_kernels.combine(models, "linear", weight=[1, 3], normalize=False).tolist()
[16.0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._cpu import Formula
from ..errors import ArgumentError
from .method import Combine, Mergekit, Method, Tensor
from .parameters import NORMALIZE, WEIGHT
from .weights import affine_weights


def _formula(tensor: Tensor, weight: Sequence[float], normalize: bool) -> Combine:
    if not normalize:
        return {"formula": Formula.SUM, "weights": list(weight)}
    total = math.fsum(weight)
    if total == 0:
        raise ArgumentError(
            f"{tensor.name}: the weights sum to 0, and cannot be divided by that",
            "Change a weight, or set normalize to false.",
        )
    return {"formula": Formula.AFFINE, "weights": affine_weights([w / total for w in weight])}


METHOD = Method(
    name="linear",
    summary="the weighted average; with `normalize: false` the weighted sum",
    paper="Wortsman et al. 2022, Model soups, https://arxiv.org/abs/2203.05482",
    formula=_formula,
    parameters=(WEIGHT, NORMALIZE),
    mergekit=Mergekit("linear", base="model", defaults={"weight": None}),
)
