"""Two models in one engine, whose weights are a merge of them that changes in place between runs."""

from __future__ import annotations

from dataclasses import dataclass

from mi_kernels.recipe.interpolation import Recipe


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
