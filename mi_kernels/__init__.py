"""Merges large checkpoints exactly, at the speed of the hardware.

    mi_kernels.lerp_checkpoint(instruct, thinking, out, lam=0.8)     # model folders or Hub ids
    mi_kernels.lerp(a, b, lam)                                       # one tensor: NumPy, or torch
    mi_kernels.multi_lerp(a_list, b_list, lam)                       # many tensors in one call
    mi_kernels.prepare(a_list, b_list, outs).lerp(lam)               # the same tensors again and again
    mi_kernels.combine(tensors, "ties", base=base, density=0.2)      # any other merge method
    mi_kernels.similarity(instruct, thinking).overall.sigma          # the distance between two models

Names are imported at their first use, so `import mi_kernels` loads neither NumPy nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import live
    from .checkpoint.open import open_checkpoint
    from .checkpoint.record import Checkpoint
    from .compare.similarity import Similarity, similarity
    from .errors import (
        ArgumentError,
        BackendError,
        CheckpointError,
        DTypeError,
        MIKernelsError,
        MismatchError,
        OutputError,
        StrictError,
    )
    from .merge.api import lerp_checkpoint, merge_checkpoint, sweep_checkpoint
    from .merge.job import Report
    from .ops import Prepared, combine, lerp, multi_lerp, prepare
    from .output.upload import push
    from .recipe.interpolation import Recipe
    from .recipe.models import MergeRecipe
    from .recipe.rules import Rule
    from .verify.verify import Verification, verify_checkpoint

_HOMES = {
    "ArgumentError": "errors",
    "BackendError": "errors",
    "Checkpoint": "checkpoint.record",
    "CheckpointError": "errors",
    "DTypeError": "errors",
    "MIKernelsError": "errors",
    "MismatchError": "errors",
    "OutputError": "errors",
    "StrictError": "errors",
    "Report": "merge.job",
    "Similarity": "compare.similarity",
    "combine": "ops",
    "lerp": "ops",
    "lerp_checkpoint": "merge.api",
    "MergeRecipe": "recipe.models",
    "Recipe": "recipe.interpolation",
    "Rule": "recipe.rules",
    "merge_checkpoint": "merge.api",
    "multi_lerp": "ops",
    "open_checkpoint": "checkpoint.open",
    "Prepared": "ops",
    "prepare": "ops",
    "push": "output.upload",
    "similarity": "compare.similarity",
    "sweep_checkpoint": "merge.api",
    "Verification": "verify.verify",
    "verify_checkpoint": "verify.verify",
}

__all__ = [
    "ArgumentError",
    "BackendError",
    "Checkpoint",
    "CheckpointError",
    "DTypeError",
    "MIKernelsError",
    "MergeRecipe",
    "MismatchError",
    "OutputError",
    "Prepared",
    "StrictError",
    "Recipe",
    "Report",
    "Rule",
    "Similarity",
    "Verification",
    "__version__",
    "combine",
    "lerp",
    "lerp_checkpoint",
    "live",
    "merge_checkpoint",
    "multi_lerp",
    "open_checkpoint",
    "prepare",
    "push",
    "similarity",
    "sweep_checkpoint",
    "verify_checkpoint",
]


if not TYPE_CHECKING:  # type checkers would take every misspelt name for an attribute

    def __getattr__(name: str) -> Any:
        if name not in _HOMES and name != "live":
            from .system.names import no_such_name

            raise no_such_name(__name__, name, __all__)
        from importlib import import_module

        if name == "live":  # a module
            return import_module(".live", __name__)
        value = globals()[name] = getattr(
            import_module(f".{_HOMES[name]}", __name__), name
        )  # so that __getattr__ is not called again
        return value


def __dir__() -> list[str]:
    return __all__
