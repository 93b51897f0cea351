"""Keep both models available inside a vLLM worker, and change its weights to another merge of them.

On a GPU, without quantisation, vLLM keeps parameters as they were loaded. There each model is loaded once, and a copy
of the resulting parameters (fused, sharded, padded) is kept. Every later lam is one multi-tensor lerp into the live
parameters, because element-wise interpolation commutes with fusing, sharding and padding. `self_check` tests that it
does for the model at hand.

On a CPU, vLLM packs the weights into its own formats and drops the parameters. There the merge is computed from the
mapped checkpoints and reloaded with vLLM's own reloading, which packs it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...live.resident import Resident
from ...recipe.interpolation import Recipe
from .copies import Copies, copied, parameters
from .options import LoaderOptions
from .packed import packed
from .self_check import Fingerprints, SelfCheck, differences, fingerprints


class Live:
    """The state of a worker whose lam can change.

    Args:
        resident: both checkpoints.
        options: with `live`, a GPU copies both models now. Without it, a GPU cannot change lam.
        model: the model, loaded with the merge of `options.recipe`. With pipeline parallelism, this worker's layers.

    Attributes:
        recipe: the recipe of the current weights.
        extrapolate: whether lam may be outside [0, 1], as the options say.
        copies: copies of both models' parameters; None where a change reloads the model.
        changeable: whether lam can change.
        broken: why this worker must not serve, if it must not.
        self_check: the result of the self-check; None if there was none.
    """

    def __init__(self, resident: Resident, options: LoaderOptions, model: torch.nn.Module, model_config: Any) -> None:
        assert options.recipe is not None
        self._resident, self._model, self._config = resident, model, model_config
        self._whole = [row.name for row in resident.alignment.merged]  # the same on every worker
        self.recipe = options.recipe
        self.extrapolate = options.recipe.extrapolate
        self.copies: Copies | None = None
        self.broken = ""
        self.self_check: SelfCheck | None = None
        self._where = options.resident
        on_cpu = next(model.parameters()).device.type == "cpu"
        if options.live and not on_cpu:
            self.take_copies(options.resident)
        self.changeable = on_cpu or options.live

    def take_copies(self, where: str) -> None:
        """Loads each model, copies the resulting parameters, and then restores the merge."""
        self._where = where
        taken: list[dict[str, torch.Tensor]] = []
        for side in (Recipe(0.0), Recipe(1.0)):
            self.reload(self._resident.lerp(side))
            taken.append(copied(parameters(self._model), where))
        a, b = taken
        self.copies = Copies(parameters(self._model), a, b, self._whole)
        self.copies.write(self.recipe)
        synchronize(self._model)

    def check_itself(self, lam: float, expected: Fingerprints, afresh: Callable[[], Fingerprints]) -> SelfCheck:
        """Compares the model, changed to `lam`, with the merge at `lam` loaded afresh. Then restores the merge.

        Args:
            lam: a lam that the current merge does not have, so that a tensor that stays as it was is different.
            expected: the fingerprints of a model that was loaded at `lam` and freed.
            afresh: loads such a model again. It is called only if tensors differ, to find out whether the merge
                determines them at all. The copies of both models are freed meanwhile, so it needs no more memory.
        """
        served, way = self.recipe, "copies" if self.copies is not None else "reload"
        self.change(Recipe(lam))
        found = fingerprints(self._model, packed(self._model))
        different, ignored = differences(expected, found), []
        if different:
            where = self._where
            self.copies = None
            again = afresh()
            ignored = sorted(set(different) & set(differences(expected, again)))
            different = [name for name in different if name not in ignored]
            if way == "copies":
                self.take_copies(where)
        self.change(served)
        return SelfCheck(way, lam, len(found), tuple(different), tuple(ignored))

    def check(self, recipe: Recipe) -> list[int]:
        """Checks that the model can be changed to `recipe`. Does not change anything.

        Returns:
            How many tensors of this worker lam with its masks, and then each rule, select. Zero is not an error: with
            pipeline parallelism other workers have the other layers.

        Raises:
            ArgumentError, MismatchError: the recipe is invalid for this model. It is invalid on every worker then.
            CheckpointError: a change reads the models' files, and one of them was removed, written or replaced.
        """
        selections = recipe.selections(self._whole, self._whole)
        self._resident.check_tied(recipe)
        if self.copies is not None:
            selections = self.copies.selections(recipe)
        else:  # the change will read the files, and a file that is gone must not be found midway
            for checkpoint in self._resident.models:
                checkpoint.check_unchanged()
        return [len(selected) for selected in selections]

    def change(self, recipe: Recipe) -> None:
        """Changes the model to the merge of `recipe`, and waits until the device has done it.

        After any exception the weights must not be served.
        """
        if self.copies is not None:
            self.copies.write(recipe)
        else:
            self.reload(self._resident.lerp(recipe))
        synchronize(self._model)
        self.recipe = recipe

    def reload(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replaces the weights by those of a checkpoint, with vLLM's reloading."""
        # Imported here because the rest of this module needs no vLLM.
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        initialize_layerwise_reload(self._model)
        self._model.load_weights(weights)
        finalize_layerwise_reload(self._model, self._config)
        # A head that is tied to the embedding has no weights to load, so vLLM does not pack it again.
        for module in self._model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def synchronize(model: torch.nn.Module) -> None:
    """Waits for the device of `model`. What a kernel does wrong is an exception here, and not at a later call."""
    device = next(model.parameters()).device
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
