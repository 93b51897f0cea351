"""`ties` on task vectors that are thinned at random instead of trimmed.

    r = the dare formula of csrc/combine.h. An element is kept where its random number is less than density, and then
        multiplied by float32(1 / density); the others are 0. Random numbers depend on the seed, the tensor's name, the
        model's place and the element's place, and on nothing else.

>>> import mi_kernels, numpy as np
>>> base, a = np.zeros(8, np.float32), np.ones(8, np.float32)
>>> thinned = mi_kernels.combine([a], "dare_ties", base=base, density=0.5, seed=7)
>>> sorted(set(thinned.tolist()))  # dropped, or divided by the density
[0.0, 2.0]
"""

from __future__ import annotations

from collections.abc import Sequence

from .._cpu import Formula
from .method import Combine, Mergekit, Method, Tensor
from .parameters import DENSITY, NORMALIZE, SCALE, SEED, WEIGHT
from .thinning import thinning


def _formula(
    tensor: Tensor, weight: Sequence[float], density: Sequence[float], scale: float, normalize: bool, seed: int
) -> Combine:
    return {
        "formula": Formula.DARE,
        "weights": [0.0, *weight],
        "scale": scale,
        "normalize": normalize,
        **thinning(tensor, density, seed),
    }


METHOD = Method(
    name="dare_ties",
    summary="`ties` on task vectors that are thinned at random to `density` and divided by it",
    paper="Yu et al. 2024, https://arxiv.org/abs/2311.03099",
    formula=_formula,
    parameters=(WEIGHT, DENSITY, SCALE, NORMALIZE, SEED),
    base="required",
    least=1,
    weighted_sum=False,
    mergekit=Mergekit(
        "dare_ties",
        defaults={"weight": None, "normalize": False},
        ignored={"int8_mask": None, "rescale": True},  # ours divides by the density, as the paper does
    ),
)
