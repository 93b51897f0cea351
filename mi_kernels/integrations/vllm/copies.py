"""Interpolate the parameters of a vLLM worker from copies of both models' parameters.

A worker has a part of the model: its layers, if the layers are split over workers (pipeline parallelism), and its slice
of each tensor (tensor parallelism). So a recipe is read against the names of the whole model, and a parameter's own
name gives only its layer and its module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...checkpoint.names import places
from ...errors import ArgumentError, shortened
from ...live.sides import TensorSides, copies
from ...recipe.interpolation import Recipe

Tensors = dict[str, torch.Tensor]


class Copies:
    """The live parameters of a worker, and copies of both models' parameters on the device or in pinned memory.

    Args:
        live, a, b: tensors by vLLM's parameter names, one for each storage.
        whole: the names of all tensors of the model, as the checkpoints have them.
    """

    def __init__(self, live: Tensors, a: Tensors, b: Tensors, whole: Sequence[str]) -> None:
        # vLLM writes parameters in ways that torch does not count: it reloads through `.data`, and drops them to sleep.
        self._live, self._sides, self._whole = live, TensorSides(a, b, every=True), list(whole)

    def selections(self, recipe: Recipe) -> list[dict[str, float]]:
        """Returns the weights that lam, and then each rule, set for parameters of this worker.

        vLLM fuses tensors only within one layer and module, so layers and modules select parameters as they select
        tensors. Patterns cannot, because fused parameters have other names.

        Raises:
            ArgumentError: a rule has a pattern; masks cannot place a parameter; or see `Recipe.selections`.
        """
        if any(rule.pattern is not None for rule in recipe.rules):
            raise ArgumentError(
                "a rule has a pattern, but vLLM fuses tensors, so live parameters have other names",
                "Select layers and modules instead.",
            )
        if (
            not isinstance(recipe.lam, float | int)
            or recipe.layers is not None
            or recipe.modules is not None
            or recipe.rules
        ):
            self._check_places()
        return recipe.selections(list(self._live), self._whole)

    def _check_places(self) -> None:
        """Checks that layers and modules select parameters as they select tensors of the checkpoints.

        Raises:
            ArgumentError: a parameter's name gives a layer or a module that no tensor of the checkpoints has.
        """
        known = set(places(self._whole).values())
        odd = [name for name, place in places(self._live).items() if place not in known]
        if odd:
            raise ArgumentError(
                f"{shortened(odd)}: vLLM's names do not show which layer or module these parameters belong to",
                "Set one lam for the whole model, or merge into a folder with `mi-kernels lerp`.",
            )

    def weights(self, recipe: Recipe) -> dict[str, float]:
        """Returns the weight of THINKING for each parameter. Raises ArgumentError as `selections`."""
        weights = dict.fromkeys(self._live, 0.0)
        for selected in self.selections(recipe):
            weights.update(selected)
        return weights

    def write(self, recipe: Recipe) -> None:
        """Interpolates every parameter in place. On a GPU the work is queued."""
        self._sides.write(self._live, self.weights(recipe))


def parameters(model: torch.nn.Module) -> Tensors:
    """Returns every floating-point parameter once, even if two modules share it."""
    return {name: p.data for name, p in model.named_parameters() if p.is_floating_point() and p.numel()}


def copied(live: Tensors, where: str) -> Tensors:
    """Copies parameters to their own devices ("device") or to pinned memory ("host")."""
    return copies(live, {name: tensor.device for name, tensor in live.items()}, host=where == "host")
