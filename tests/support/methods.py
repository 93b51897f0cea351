"""Every registered method with parameters of any kind, and the reference's answer: what tests draw, none names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mi_kernels.backends.reference import methods as reference
from mi_kernels.methods.method import Method, Parameter
from mi_kernels.methods.registry import METHODS, PARAMETERS

BY_MODEL = {name for name, parameter in PARAMETERS.items() if parameter.by_model}

Case = tuple[str, bool, int, dict[str, Any]]  # method, whether with a base, how many models, parameters


def drawn_cases(count: int = 3) -> dict[str, Case]:
    """Some cases of every method: with and without a base where both can be, few and many models, any parameters."""
    cases: dict[str, Case] = {}
    for name, method in METHODS.items():
        for with_base in {"none": [False], "required": [True], "optional": [False, True]}[method.base]:
            for seed in range(count):
                models = min(method.least + seed, method.most or 15)
                case = f"{name}{' with a base' if method.base == 'optional' and with_base else ''}, drawn {seed}"
                cases[case] = (name, with_base, models, drawn(method, models, seed))
    return cases


def drawn(method: Method, models: int, seed: int) -> dict[str, Any]:
    """Values for all parameters of `method`, in their range: lists where they belong to a model."""
    rng = np.random.default_rng(seed)

    def value(p: Parameter) -> Any:
        if p.kind == "truth":
            return bool(rng.integers(2))
        if p.kind == "whole":
            return int(rng.integers(1 << 40))
        low, high = max(p.least, 0.1), min(p.most, 1.6)
        return round(float(rng.uniform(low, high)), 3)

    return {p.name: [value(p) for _ in range(models)] if p.by_model else value(p) for p in method.parameters}


def recipe(case: Case, paths: Sequence[str]) -> dict[str, Any]:
    """The recipe of a case, for models in these folders, the base first."""
    method, with_base, models, parameters = case
    entries = [
        {"model": path, **{key: parameters[key][k] for key in BY_MODEL & set(parameters)}}
        for k, path in enumerate(paths[with_base : with_base + models])
    ]
    shared = {key: value for key, value in parameters.items() if key not in BY_MODEL}
    return {"method": method, "models": entries, **shared, **({"base": paths[0]} if with_base else {})}


def merged(
    method: str, name: str, x: Sequence[np.ndarray], with_base: bool, parameters: Mapping[str, Any]
) -> np.ndarray:
    """The reference's float32 result for a tensor; parameters that are not given have their default.

    Args:
        x: float32 and flat, the base first where there is one.
        parameters: numbers for all models, or lists with one for each.
    """
    models = len(x) - with_base
    values = {}
    for p in METHODS[method].parameters:
        value = parameters.get(p.name, p.default)
        values[p.name] = [value] * models if p.by_model and not isinstance(value, list) else value
    base = x[0] if with_base else None
    result: np.ndarray = getattr(reference, f"merge_{method}")(name, base, x[with_base:], **values)
    return result
