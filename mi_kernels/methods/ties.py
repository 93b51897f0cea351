"""Task vectors trimmed, their signs elected, and the mean taken of those that agree.

    r = the ties formula of csrc/combine.h. A model's threshold is the magnitude of rank max(1, floor(density * n))
        among the n elements of its task vector, from the largest down. Elements of smaller magnitude are 0. All that
        equal the threshold are kept, as in the authors' code, so that the result does not depend on how equal
        magnitudes are sorted. The threshold is 0 where density is 1.

>>> import mi_kernels, numpy as np
>>> base, a, b = np.float32([0, 0]), np.float32([3, 0.1]), np.float32([1, -0.2])
>>> mi_kernels.combine([a, b], "ties", base=base, density=0.5).tolist()  # (3 + 1) / 2, and both others are trimmed
[2.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Sequence

from .._cpu import Formula
from .method import Combine, Mergekit, Method, Tensor
from .parameters import DENSITY, NORMALIZE, SCALE, WEIGHT
from .statistics import Reader, kth_largest_difference


def _formula(
    tensor: Tensor, weight: Sequence[float], density: Sequence[float], scale: float, normalize: bool
) -> Combine:
    assert tensor.base is not None
    thresholds = [_threshold(x, tensor.base, tensor.elements, d) for x, d in zip(tensor.models, density)]
    return {
        "formula": Formula.TIES,
        "weights": [0.0, *weight],
        "thresholds": [0.0, *thresholds],
        "scale": scale,
        "normalize": normalize,
    }


def _threshold(x: Reader, base: Reader, elements: int, density: float) -> float:
    if density == 1 or elements == 0:
        return 0.0
    return kth_largest_difference(x, base, elements, max(1, int(density * elements)))


METHOD = Method(
    name="ties",
    summary="task vectors trimmed to their `density` largest elements, signs elected, the mean of those that agree",
    paper="Yadav et al. 2023, https://arxiv.org/abs/2306.01708",
    formula=_formula,
    parameters=(WEIGHT, DENSITY, SCALE, NORMALIZE),
    base="required",
    least=1,
    reads="thresholds",
    weighted_sum=False,
    mergekit=Mergekit("ties", defaults={"weight": None}, ignored={"int8_mask": None, "rescale": False}),
)
