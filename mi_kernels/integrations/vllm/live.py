"""Keep both models available inside a vLLM worker, and change its weights to another merge of them.

On a GPU, without quantisation, vLLM keeps parameters as they were loaded. There each model is loaded once, and a copy
of the resulting parameters (fused, sharded, padded) is kept. Every later lam is one multi-tensor lerp into the live
parameters, because element-wise interpolation commutes with fusing, sharding and padding.

On a CPU, vLLM packs the weights into its own formats and drops the parameters. There the merge is computed from the
mapped checkpoints and reloaded with vLLM's own reloading, which packs it again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from vllm.config import ModelConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from ...errors import ArgumentError
from ...live.resident import Resident
from ...live.sides import TensorSides
from ...recipe.interpolation import Recipe
from .options import LoaderOptions


class Live:
    """The state of a worker whose lam can change.

    Args:
        resident: both checkpoints.
        options: with `live`, a GPU copies both models now. Without it, a GPU cannot change lam.
        model: the model, loaded with the merge of `options.recipe`.
    """

    def __init__(
        self, resident: Resident, options: LoaderOptions, model: torch.nn.Module, model_config: ModelConfig
    ) -> None:
        assert options.recipe is not None
        self._resident, self._model, self._config = resident, model, model_config
        self.recipe = options.recipe
        self.copies: Copies | None = None
        self.broken = ""  # why this worker must not serve, if it must not
        on_cpu = next(model.parameters()).device.type == "cpu"
        if options.live and not on_cpu:
            self.take_copies(options.resident)
        self.changeable = on_cpu or options.live

    def take_copies(self, where: str) -> None:
        """Loads each model, copies the resulting parameters, and then restores the merge."""
        taken = []
        for side in (Recipe(0.0), Recipe(1.0)):
            self.reload(self._resident.lerp(side))
            taken.append({name: _copy(p, where) for name, p in _parameters(self._model).items()})
        self.copies = Copies(_parameters(self._model), *taken)
        self.copies.write(self.recipe)

    def check(self, recipe: Recipe) -> None:
        """Raises an error if the model cannot be changed to `recipe`. Does not change anything."""
        recipe.weights([row.name for row in self._resident.alignment.merged])
        self._resident.check_tied(recipe)
        if self.copies is not None:
            self.copies.weights(recipe)

    def change(self, recipe: Recipe) -> None:
        """Changes the model to the merge of `recipe`. After any exception the weights must not be served."""
        if self.copies is not None:
            self.copies.write(recipe)
        else:
            self.reload(self._resident.lerp(recipe))
        self.recipe = recipe

    def reload(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        initialize_layerwise_reload(self._model)
        self._model.load_weights(weights)
        finalize_layerwise_reload(self._model, self._config)
        # A head that is tied to the embedding has no weights to load, so vLLM does not pack it again.
        for module in self._model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


class Copies:
    """The live parameters of vLLM, and copies of both models' parameters on the device or in pinned memory.

    Args:
        live, a, b: tensors by vLLM's parameter names, one for each storage.
    """

    def __init__(self, live: dict[str, torch.Tensor], a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
        self._live, self._sides = live, TensorSides(a, b)

    def weights(self, recipe: Recipe) -> dict[str, float]:
        """Returns the weight of THINKING for each parameter.

        vLLM fuses tensors only within one layer and module, so layers and modules select parameters as they select
        tensors. Patterns cannot, because fused parameters have other names.

        Raises:
            ArgumentError: a rule has a pattern; or see `Recipe.weights`.
        """
        if any(rule.pattern is not None for rule in recipe.rules):
            raise ArgumentError(
                "a rule has a pattern, but vLLM fuses tensors, so live parameters have other names",
                "Select layers and modules instead.",
            )
        return recipe.weights(list(self._live))

    def write(self, recipe: Recipe) -> None:
        """Interpolates every parameter in place."""
        self._sides.write(self._live, self.weights(recipe))


def _copy(parameter: torch.Tensor, where: str) -> torch.Tensor:
    if where == "device":
        return parameter.detach().clone()
    return torch.empty(parameter.shape, dtype=parameter.dtype, pin_memory=True).copy_(parameter)


def _parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns every floating-point parameter once, even if two modules share it."""
    return {name: p.data for name, p in model.named_parameters() if p.is_floating_point() and p.numel()}
