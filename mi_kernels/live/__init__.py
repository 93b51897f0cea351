"""Change lam of a loaded model in place; `mi_kernels.live.knob` has the details.

    knob = mi_kernels.live.attach(model, "Qwen/Qwen3-4B-Thinking-2507")
    knob.set_lam(0.55)

Example:
    >>> import torch
    >>> import mi_kernels
    >>> instruct, thinking = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> expected = mi_kernels.lerp(instruct.weight.detach(), thinking.weight.detach(), 0.55)
    >>> knob = mi_kernels.live.attach(instruct, thinking)
    >>> knob.set_lam(0.55)
    >>> torch.equal(instruct.weight, expected)
    True

Names are imported when first used, because the knob imports torch and other modules of this folder do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .knob import InterpolatedModel, Knob, attach, unwrapped

__all__ = ["InterpolatedModel", "Knob", "attach", "unwrapped"]


if not TYPE_CHECKING:  # type checkers would take every misspelt name for an attribute

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            from ..system.names import no_such_name

            raise no_such_name(__name__, name, __all__)
        from . import knob

        return getattr(knob, name)

    def __dir__() -> list[str]:  # Python's own hints and completion know only these names
        return sorted({*globals(), *__all__})
