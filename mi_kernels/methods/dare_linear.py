"""The base plus a weighted sum of task vectors that are thinned at random.

    r = the dare_linear formula of csrc/combine.h: base + scale * sum of weight * t. An element of a task vector is kept
        where its random number is less than density, and then multiplied by float32(1 / density); the others are 0.
        Random numbers are those of `dare_ties`. With normalize, the weights are divided by their sum, unless its
        magnitude is less than 1e-8.

>>> import mi_kernels, numpy as np
>>> base, a, b = (np.full(6, x, np.float32) for x in (1, 2, 4))
>>> mi_kernels.combine([a, b], "dare_linear", base=base, scale=0.5).tolist()  # nothing dropped: 1 + 0.5 * (1 + 3)
[3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
>>> mi_kernels.combine([a, b], "dare_linear", base=base, weight=[1, 3], normalize=True).tolist()[0]  # 1 + (1 + 9) / 4
3.5
>>> many = [np.full(1000, x, np.float32) for x in (0, 1, 10)]
>>> thinned = mi_kernels.combine(many[1:], "dare_linear", base=many[0], density=0.5)
>>> sorted(set(thinned.tolist()))  # twice neither, one, the other or both
[0.0, 2.0, 20.0, 22.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._cpu import Formula
from .method import Combine, Mergekit, Method, Tensor
from .parameters import DENSITY, NORMALIZE, SCALE, SEED, WEIGHT
from .thinning import thinning
from .weights import divided_by_sum


def _formula(
    tensor: Tensor, weight: Sequence[float], density: Sequence[float], scale: float, normalize: bool, seed: int
) -> Combine:
    return {
        "formula": Formula.DARE_LINEAR,
        "weights": [0.0, *(divided_by_sum(weight) if normalize else weight)],
        "scale": scale,
        **thinning(tensor, density, seed),
    }


METHOD = Method(
    name="dare_linear",
    summary="`task_arithmetic` on task vectors that are thinned at random to `density` and divided by it",
    paper="Yu et al. 2024, https://arxiv.org/abs/2311.03099",
    formula=_formula,
    parameters=(WEIGHT, DENSITY, SCALE, replace(NORMALIZE, default=False), SEED),
    base="required",
    least=1,
    weighted_sum=False,
    mergekit=Mergekit(
        "dare_linear",
        defaults={"weight": None},
        ignored={"int8_mask": None, "rescale": True},  # ours divides by the density, as the paper does
    ),
)
