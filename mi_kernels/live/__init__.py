"""lam as a knob on a model that is loaded; see `mi_kernels.live.knob`.

    knob = mi_kernels.live.attach(model, "Qwen/Qwen3-4B-Thinking-2507")
    knob.set_lam(0.55)

Names are imported when first used: the knob imports torch, what holds two sides in memory does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .knob import InterpolatedModel, Knob, attach, unwrapped

__all__ = ["InterpolatedModel", "Knob", "attach", "unwrapped"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import knob

    return getattr(knob, name)
