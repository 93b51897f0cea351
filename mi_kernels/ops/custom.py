"""lerp and multi_lerp as torch custom ops, which `torch.compile` keeps whole and FakeTensors pass through.

    mi_kernels::multi_lerp(Tensor[] a, Tensor[] b, float[] lam, str? backend, int? threads) -> Tensor[]
    mi_kernels::multi_lerp_out(Tensor(a!)[] outs, Tensor[] a, Tensor[] b, float[] lam, ...) -> ()

One pair is a list of one. `lam` has one number a pair. The ops run what the plain functions run; they are not
differentiable. Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..errors import ArgumentError
from . import eager
from .arrays import check_tensor, empty_like

_ARGUMENTS = "Tensor[] a, Tensor[] b, float[] lam, str? backend=None, int? threads=None"


def _multi_lerp(
    a: list[Any], b: list[Any], lam: list[float], backend: str | None = None, threads: int | None = None
) -> list[Any]:
    return eager.multi_lerp_now(a, b, lam, None, backend, threads)


def _multi_lerp_out(
    outs: list[Any],
    a: list[Any],
    b: list[Any],
    lam: list[float],
    backend: str | None = None,
    threads: int | None = None,
) -> None:
    eager.multi_lerp_now(a, b, lam, outs, backend, threads)


def _fake_multi_lerp(a: list[Any], b: list[Any], *rest: Any) -> list[Any]:
    outs = [empty_like(x) for x in a]
    _check(outs, a, b)
    return outs


def _fake_multi_lerp_out(outs: list[Any], a: list[Any], b: list[Any], *rest: Any) -> None:
    _check(outs, a, b)


multi_lerp = torch.library.custom_op(
    "mi_kernels::multi_lerp", _multi_lerp, mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor[]"
)
multi_lerp_out = torch.library.custom_op(
    "mi_kernels::multi_lerp_out",
    _multi_lerp_out,
    mutates_args=("outs",),
    schema=f"(Tensor(a!)[] outs, {_ARGUMENTS}) -> ()",
)
multi_lerp.register_fake(_fake_multi_lerp)
multi_lerp_out.register_fake(_fake_multi_lerp_out)


def _check(outs: Sequence[Any], a: Sequence[Any], b: Sequence[Any]) -> None:
    """What can be refused before there is memory: the lists' lengths are equal already."""
    label = eager.names(single=False)
    for name, tensors in (("a", a), ("b", b), ("out", outs)):
        for i, x in enumerate(tensors):
            check_tensor(x, partial(label, name), i)
    eager.check_pairs(a, b, outs, label)


def traced(
    a: Sequence[Any],
    b: Sequence[Any],
    lam: float | Sequence[float],
    outs: Sequence[Any] | None,
    backend: str | None,
    threads: int | None,
    single: bool,
) -> list[Any]:
    """`multi_lerp` of tensors being traced: one custom op in the graph.

    Raises:
        ArgumentError: a tensor requires grad (below, where the ops see it, autograd has hidden that), or lam is wrong.
            While compiling, a ValueError: Dynamo shows the text of built-in exceptions only.
    """
    compiling = torch.compiler.is_compiling()
    for name, tensors in (("a", a), ("b", b), ("out", outs or ())):
        for i, x in enumerate(tensors):
            if getattr(x, "is_nested", False):
                check_tensor(x, partial(eager.names(single), name), i)  # refuses it
            if getattr(x, "requires_grad", False):
                label = eager.names(single)(name, i)
                problem, remedy = f"{label} requires grad, and this function has no gradient", f"Pass {label}.detach()."
                raise ValueError(f"{problem}\n{remedy}") if compiling else ArgumentError(problem, remedy)
    if not compiling:
        lams = eager.checked_lams(lam, len(a), single)
    else:  # lam may be symbolic; the op checks its value
        lams = [float(value) for value in lam] if isinstance(lam, (list, tuple)) else [float(lam)] * len(a)  # type: ignore[arg-type]
    if outs is None:
        created: list[Any] = multi_lerp(list(a), list(b), lams, backend, threads)
        return created
    multi_lerp_out(list(outs), list(a), list(b), lams, backend, threads)
    return list(outs)
