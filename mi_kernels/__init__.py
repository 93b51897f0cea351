"""Merging large checkpoints, exactly and at the speed of the hardware.

    mi_kernels.lerp_checkpoint(instruct, thinking, out, lam=0.8)     # model folders or Hub ids
    mi_kernels.lerp(a, b, lam)                                       # one tensor: NumPy, or torch
    mi_kernels.multi_lerp(a_list, b_list, lam)                       # many tensors in one call
    mi_kernels.similarity(instruct, thinking).overall.sigma          # how far apart two models are

Names are imported when first used: `import mi_kernels` loads neither NumPy nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import live
    from .checkpoint import Checkpoint, open_checkpoint
    from .compare import Similarity, similarity
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
    from .job import Report
    from .merge import lerp_checkpoint, merge_checkpoint, sweep_checkpoint
    from .merge_recipe import MergeRecipe
    from .ops import lerp, multi_lerp
    from .recipe import Recipe
    from .rules import Rule
    from .upload import push
    from .verify import Verification, verify_checkpoint

_HOMES = {
    "ArgumentError": "errors",
    "BackendError": "errors",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "DTypeError": "errors",
    "MIKernelsError": "errors",
    "MismatchError": "errors",
    "OutputError": "errors",
    "StrictError": "errors",
    "Report": "job",
    "Similarity": "compare",
    "lerp": "ops",
    "lerp_checkpoint": "merge",
    "MergeRecipe": "merge_recipe",
    "Recipe": "recipe",
    "Rule": "rules",
    "merge_checkpoint": "merge",
    "multi_lerp": "ops",
    "open_checkpoint": "checkpoint",
    "push": "upload",
    "similarity": "compare",
    "sweep_checkpoint": "merge",
    "Verification": "verify",
    "verify_checkpoint": "verify",
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
    "StrictError",
    "Recipe",
    "Report",
    "Rule",
    "Similarity",
    "Verification",
    "__version__",
    "lerp",
    "lerp_checkpoint",
    "live",
    "merge_checkpoint",
    "multi_lerp",
    "open_checkpoint",
    "push",
    "similarity",
    "sweep_checkpoint",
    "verify_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name != "live":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "live":  # a module
        return import_module(".live", __name__)
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)  # next time it is simply there
    return value


def __dir__() -> list[str]:
    return __all__
