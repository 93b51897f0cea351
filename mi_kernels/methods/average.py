"""The mean of all models.

    r = the affine formula of csrc/combine.h with every weight 1/K: float32(1/K) for all models but the first, whose
        weight is 1 minus the others. Two models are interpolated by `lerp` with lam 1/2.

>>> import mi_kernels, numpy as np
>>> models = [np.float32([x]) for x in (1, 2, 3, 6)]
>>> mi_kernels.combine(models, "average").tolist()
[3.0]
"""

from __future__ import annotations

from .._cpu import Formula
from .method import Combine, Method, Tensor
from .weights import affine_weights


def _formula(tensor: Tensor) -> Combine:
    count = len(tensor.models)
    return {"formula": Formula.AFFINE, "weights": affine_weights([1 / count] * count)}


METHOD = Method(
    name="average",
    summary="the mean of all models",
    paper="Wortsman et al. 2022, Model soups, https://arxiv.org/abs/2203.05482",
    formula=_formula,
)
