"""The fast path of `lerp` for two ordinary torch tensors on the CPU: callers merge thousands of small ones in turn."""

from __future__ import annotations

import sys
from typing import Any

from ..backends import cpu, dispatch
from ..dtypes import torch_codes
from ..recipe.lam import numeric_lam
from .arrays import empty_like
from .eager import ONE_PAIR, increment_versions


def quick_lerp(a: Any, b: Any, lam: float, out: Any, backend: str | None, threads: int | None) -> Any:
    """`lerp`; or None, with nothing done, where `multi_lerp` must merge the pair or say what is wrong."""
    torch = sys.modules.get("torch")
    if torch is None or type(a) is not torch.Tensor or torch.compiler.is_compiling():
        return None
    codes = torch_codes()
    if a.is_nested:  # it has no shape
        return None
    shape = a.shape
    for x in (a, b) if out is None else (a, b, out):
        if not (
            type(x) is torch.Tensor
            and x.dtype in codes
            and x.is_cpu
            and not x.is_nested
            and x.shape == shape
            and x.layout is torch.strided
            and x.is_contiguous()
            and not x.requires_grad
            and not x.is_neg()
        ):
            return None
    if dispatch.backend_for(backend, "cpu") != "cpu":
        return None
    result = empty_like(a) if out is None else out
    done = cpu.run_pair(
        (result.data_ptr(), a.data_ptr(), b.data_ptr()),
        a.numel(),
        numeric_lam(lam, extrapolate=True, several=ONE_PAIR),
        (codes[result.dtype], codes[a.dtype], codes[b.dtype]),
        cpu.isa(),
        cpu.checked_threads(threads),
    )
    if done and out is not None:
        increment_versions([out])
    return result if done else None
