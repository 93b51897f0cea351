"""Combine several tensors into one with Triton: the weighted sums AFFINE, SUM and TASK.

With TRITON_INTERPRET=1 the same code runs on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import BackendError
from . import combine_table, device_table
from .combine_table import CombineTask
from .triton import CHUNK

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["CombineTask", "formulas", "multi_combine"]


def formulas() -> frozenset[int]:
    """Returns the formulas that this backend computes."""
    from .._cpu import Formula

    return frozenset({Formula.AFFINE, Formula.SUM, Formula.TASK})


def multi_combine(tasks: Sequence[CombineTask]) -> None:
    """Computes the output of every task, with one launch on the current stream for each formula and mix of dtypes.

    The call is asynchronous, like every CUDA operation of torch. It can be captured in a CUDA graph; the tables of a
    graph stay in memory until the process ends.

    Args:
        tasks: tensors on one CUDA device.

    Raises:
        BackendError: a formula is not one of `formulas()`.
        ValueError: a formula does not fit the number of operands.
    """
    from .._cpu import Formula

    for task in tasks:
        if task.formula["formula"] not in formulas():
            raise BackendError(
                f"backend 'triton' does not compute {Formula(task.formula['formula']).name}",
                "Use backend 'cuda', which computes every formula.",
            )
    waiting = [task for task in tasks if task.out.numel()]
    by_models: dict[int, list[CombineTask]] = {}
    for task in waiting:
        by_models.setdefault(len(task.operands), []).append(task)
    if not waiting:
        return
    device = waiting[0].out.device
    with device_table.on_device(device):
        for group in by_models.values():
            _run(device, group)


def _run(device: torch.device, tasks: Sequence[CombineTask]) -> None:
    """Launches tensors with the same number of operands."""
    from .._cpu import Formula

    built = combine_table.build(tasks, CHUNK)
    last = built.tensors[:, -1]
    how = built.combines[last >> combine_table.FORMULA_SHIFT]
    types = last & ((1 << combine_table.FORMULA_SHIFT) - 1)
    # A row of numbers for each tensor: its weights, then the scale. AFFINE needs those before the largest negated.
    # Triton would subtract them from 0, which has another sign for a weight of 0.
    before_largest = np.arange(built.models) < np.where(how["formula"] == Formula.AFFINE, how["largest"], 0)[:, None]
    weights = how["weight"][:, : built.models]
    numbers = np.column_stack([np.where(before_largest, -weights, weights), how["scale"]])
    of_formula = np.column_stack([how["formula"], how["largest"], types])
    for kind in np.unique(of_formula, axis=0):
        rows = np.flatnonzero((of_formula == kind).all(axis=1))
        chosen = np.isin(built.chunk_tensor, rows)
        _launch(device, built, numbers, chosen, Kind(*map(int, kind)))


class Kind(NamedTuple):
    """What a kernel is compiled for: the formula, the place of the largest weight, and the dtypes as `combine_table`
    packs them."""

    formula: int
    largest: int
    types: int


def _launch(
    device: torch.device,
    built: combine_table.CombineTable,
    numbers: npt.NDArray[np.float32],
    chosen: npt.NDArray[np.bool_],
    kind: Kind,
) -> None:
    from .._cpu import Formula
    from . import triton_combine_kernels as kernels

    parts = (built.tensors, numbers, built.chunk_tensor[chosen], built.chunk_start[chosen])
    kernels.combine_chunks[(int(chosen.sum()),)](
        *(combine_table.upload(device, np.ascontiguousarray(part)) for part in parts),
        kind.formula,
        built.models,
        kind.largest if kind.formula == Formula.AFFINE else 0,
        kind.types,
        CHUNK,
        kernels.STEP,
        kernels.INTERPRETED,
        **kernels.OPTIONS,
    )
