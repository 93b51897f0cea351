"""The base plus a weighted sum of task vectors.

    r = the task formula of csrc/combine.h: base + scale * sum of weight * (model - base). With normalize, the weights
        are divided by their sum, unless its magnitude is less than 1e-8.

>>> import mi_kernels, numpy as np
>>> base, a, b = (np.float32([x]) for x in (1, 2, 4))
>>> mi_kernels.combine([a, b], "task_arithmetic", base=base, scale=0.5).tolist()  # 1 + 0.5 * (1 + 3)
[3.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._cpu import Formula
from .method import Combine, Mergekit, Method, Tensor
from .parameters import NORMALIZE, SCALE, WEIGHT
from .weights import divided_by_sum


def _formula(tensor: Tensor, weight: Sequence[float], scale: float, normalize: bool) -> Combine:
    weights = divided_by_sum(weight) if normalize else weight
    return {"formula": Formula.TASK, "weights": [0.0, *weights], "scale": scale}


METHOD = Method(
    name="task_arithmetic",
    summary="base + scale · Σ weight · (model - base)",
    paper="Ilharco et al. 2023, https://arxiv.org/abs/2212.04089",
    formula=_formula,
    parameters=(WEIGHT, SCALE, replace(NORMALIZE, default=False)),
    base="required",
    least=1,
    mergekit=Mergekit(
        "task_arithmetic",
        defaults={"weight": None},
        ignored={"int8_mask": None, "density": None, "rescale": None},  # nothing is trimmed, so nothing to rescale
    ),
)
