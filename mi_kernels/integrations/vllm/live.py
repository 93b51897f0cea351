"""Both models at hand inside a vLLM worker, and what it takes to make its weights another merge of them.

Where vLLM keeps parameters as they were loaded (a GPU, unquantised), each of the two models has been loaded once and
what vLLM made of it (fused, sharded, padded) kept: every later lam is one multi-tensor lerp into the live parameters,
since interpolating element by element commutes with all of that.

On a CPU vLLM packs weights into forms of its own and drops the parameters. There the merge is computed from the mapped
checkpoints and goes through vLLM's own reloading, which packs it again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from vllm.config import ModelConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from ...errors import ArgumentError
from ...live.resident import Resident
from ...live.sides import Held
from ...recipe.interpolation import Recipe
from .options import LoaderOptions


class Live:
    """What a worker needs to change lam.

    Args:
        resident: both checkpoints.
        options: `live` takes the copies now; without it, a GPU has none and lam stays.
        model: loaded with the merge of `options.recipe`.
    """

    def __init__(
        self, resident: Resident, options: LoaderOptions, model: torch.nn.Module, model_config: ModelConfig
    ) -> None:
        assert options.recipe is not None
        self._resident, self._model, self._config = resident, model, model_config
        self.recipe = options.recipe
        self.copies: Copies | None = None
        self.broken = ""  # why this worker must not serve
        on_cpu = next(model.parameters()).device.type == "cpu"
        if options.live and not on_cpu:
            self.take_copies(options.resident)
        self.changeable = on_cpu or options.live

    def take_copies(self, where: str) -> None:
        """Loads both models in turn and keeps what became of them, then goes back to the merge."""
        taken = []
        for side in (Recipe(0.0), Recipe(1.0)):
            self.reload(self._resident.lerp(side))
            taken.append({name: _copy(p, where) for name, p in _parameters(self._model).items()})
        self.copies = Copies(_parameters(self._model), *taken)
        self.copies.write(self.recipe)

    def check(self, recipe: Recipe) -> None:
        """Refuses what cannot be done before anything is touched."""
        recipe.weights(self._resident.names)
        if self.copies is not None:
            self.copies.weights(recipe)

    def change(self, recipe: Recipe) -> None:
        """Makes the model the merge of `recipe`. Whatever it raises leaves weights that must not be served."""
        if self.copies is not None:
            self.copies.write(recipe)
        else:
            self.reload(self._resident.lerp(recipe))
        self.recipe = recipe

    def reload(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        initialize_layerwise_reload(self._model)
        self._model.load_weights(weights)
        finalize_layerwise_reload(self._model, self._config)
        # A head tied to the embedding has no weights of its own to load, so nothing packs it again.
        for module in self._model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


class Copies:
    """Parameters as vLLM made them: the live ones, and those of either model, on the device or in pinned memory.

    Args:
        live, a, b: by vLLM's names, one tensor for each storage.
    """

    def __init__(self, live: dict[str, torch.Tensor], a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
        self._live, self._sides = live, Held(a, b)

    def weights(self, recipe: Recipe) -> dict[str, float]:
        """The weight of THINKING for each parameter. Layers and modules stay apart when vLLM fuses; names do not.

        Raises:
            ArgumentError: a rule with a pattern, which names tensors of the checkpoint; or as `Recipe.weights`.
        """
        if any(rule.pattern is not None for rule in recipe.rules):
            raise ArgumentError(
                "a rule has a pattern, and live parameters are fused under other names", "Use layers and modules."
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
    """Every floating parameter once, also where two modules share it."""
    return {name: p.data for name, p in model.named_parameters() if p.is_floating_point() and p.numel()}
