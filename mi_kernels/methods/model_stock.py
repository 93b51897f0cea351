"""The base plus a share of the mean task vector, from the angles between the task vectors.

    r = the task formula of csrc/combine.h with weights 1/K and scale K c / (1 + (K - 1) c), c the mean cosine of all
        pairs of task vectors, in float64 (equation 2 of the paper); scale 0 where 1 + (K - 1) c is within 1e-6 of 0.

>>> import mi_kernels, numpy as np
>>> base, a, b = np.float32([0, 0]), np.float32([1, 0]), np.float32([0.5, 0.75**0.5])
>>> mi_kernels.combine([a, b], "model_stock", base=base).tolist()  # 60 degrees: 2/3 of the mean
[0.5, 0.28867...]
"""

from __future__ import annotations

import math

from .._cpu import Formula
from .angles import cosine
from .method import Combine, Mergekit, Method, Tensor

_SINGULAR = 1e-6


def _formula(tensor: Tensor) -> Combine:
    models, count = tensor.models, len(tensor.models)
    found = [cosine(tensor, models[i], models[j], tensor.base) for i in range(count) for j in range(i + 1, count)]
    mean = math.fsum(found) / len(found)
    denominator = 1 + (count - 1) * mean
    scale = 0.0 if abs(denominator) < _SINGULAR else count * mean / denominator
    return {"formula": Formula.TASK, "weights": [0.0, *[1 / count] * count], "scale": scale}


METHOD = Method(
    name="model_stock",
    summary="base + t · (mean - base), t from the angles between the task vectors",
    paper="Jang et al. 2024, https://arxiv.org/abs/2403.19522",
    formula=_formula,
    base="required",
    reads="angles",
    mergekit=Mergekit("model_stock", ignored={"filter_wise": False}),
)
