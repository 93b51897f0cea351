"""Two models in one engine, whose weights are a merge of them that changes in place between runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from mi_kernels.recipe.interpolation import Recipe

from ..errors import EngineError


class NotLiveError(EngineError):
    """The engine cannot hold this pair, or not with this recipe. A merged folder can be evaluated instead."""


@dataclass(frozen=True)
class LivePair:
    """A merge that an engine holds without a folder of its own.

    An engine that is open with a merge of the same pair only changes its weights, see `mi_kernels.integrations.vllm`.

    Attributes:
        instruct, thinking: model folders.
        recipe: the weights to generate with: lam, masks and rules.
        side: which model's small files apply: "instruct" or "thinking". They hold the chat template, the tokens that
            end a response and the context length. A merged folder has those of THINKING.
    """

    instruct: str
    thinking: str
    recipe: Recipe
    side: str = "thinking"

    @property
    def end(self) -> str | None:
        """The model that this is without any merging: that of lam 0 or 1 with its own files; None for a merge."""
        if self.recipe == Recipe(0.0) and self.side == "instruct":
            return self.instruct
        return self.thinking if self.recipe == Recipe(1.0) and self.side == "thinking" else None

    def absolute(self) -> LivePair:
        """The same pair with absolute paths. Hub ids stay."""
        return replace(self, instruct=_absolute(self.instruct), thinking=_absolute(self.thinking))


def _absolute(model: str) -> str:
    return os.path.abspath(model) if os.path.isdir(model) else model
