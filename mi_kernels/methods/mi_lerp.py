"""`lerp` for mergekit's configurations: the method that `mi-kernels-mergekit` adds to mergekit, under the same name.

    r = the affine formula of csrc/combine.h with the weights 1 - float32(lam) and float32(lam), which for two models is
        `lerp`: (1 - lam) * first + lam * second, and a copy where lam is 0 or 1.

Recipes of mi_kernels write `method: lerp`, whose masks, rules and schedules this method does not have. It has what
mergekit has: gradients, and filters on names.

>>> import mi_kernels, numpy as np
>>> a, b = np.float32([0, 1]), np.float32([1, 3])
>>> mi_kernels.combine([a, b], "mi_lerp", lam=0.5).tolist()
[0.5, 2.0]
"""

from __future__ import annotations

from dataclasses import replace

from .._cpu import Formula
from .method import Combine, Mergekit, Method, Tensor
from .parameters import LAM
from .weights import affine_weights


def _formula(tensor: Tensor, lam: float) -> Combine:
    return {"formula": Formula.AFFINE, "weights": affine_weights([1 - lam, lam])}


METHOD = Method(
    name="mi_lerp",
    summary="(1 - lam) · first + lam · second; `lerp`, as our mergekit plug-in spells it",
    paper="Revisiting Model Interpolation for Efficient Reasoning, https://arxiv.org/abs/2510.10977",
    formula=_formula,
    parameters=(replace(LAM, mergekit="lam"),),
    most=2,
    mergekit=Mergekit("mi_lerp", base="first", base_optional=True),
)
