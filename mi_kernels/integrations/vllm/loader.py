"""Implement the load format "mi_kernels" of vLLM: interpolate weights while vLLM loads them."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterator

import torch
from vllm.config import CompilationMode, ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from ...errors import printable
from ...live.resident import Resident
from ...recipe.interpolation import Recipe
from ...recipe.load import load
from .live import Live
from .packed import packed
from .preflight import options_of, refuse_quantization, sources
from .self_check import Fingerprints, checked_lam, fingerprints

_LOGGER = logging.getLogger(__name__)


class MergeLoader(BaseModelLoader):
    """A model loader of vLLM that loads a merge; see `mi_kernels.integrations.vllm`."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._options = options_of(load_config.model_loader_extra_config)
        self._recipe = self._options.recipe  # what is loaded now: the self-check loads another lam first
        self._resident: Resident | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        self._open(model_config)

    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        model.load_weights(self.get_all_weights(model_config, model))

    def get_all_weights(self, model_config: ModelConfig, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the tensors of the merge under the names of the checkpoints. All checks precede the first tensor."""
        resident = self._open(model_config)
        if self._recipe is not None:
            return resident.lerp(self._recipe)
        recipe = load(str(self._options.file))
        for note in recipe.notes:
            _LOGGER.warning("%s", printable(note))
        return resident.merge(recipe) if recipe.pair is None else resident.lerp(recipe.pair)

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> torch.nn.Module:
        if model_config.quantization is not None:
            refuse_quantization(model_config.quantization)
        recipe = self._options.recipe
        if recipe is None:
            model = super().load_model(vllm_config=vllm_config, model_config=model_config, prefix=prefix)
            self._open(model_config).close()
            return model
        # Copy the models now and not at the first change, because vLLM measures next how much memory is free.
        resident, options = self._open(model_config), self._options
        checked = options.check or (options.live and not is_cpu(self.load_config, vllm_config))
        lam = checked_lam(recipe, [row.name for row in resident.alignment.merged])

        def afresh() -> Fingerprints:
            return self._fingerprints_at(lam, vllm_config, model_config, prefix)

        expected = afresh() if checked else {}
        model = super().load_model(vllm_config=vllm_config, model_config=model_config, prefix=prefix)
        live = Live(resident, options, model, model_config)
        if checked:
            live.self_check = live.check_itself(lam, expected, afresh)
            if not options.check:
                live.self_check.require()
            _LOGGER.info("%s", live.self_check)
        model.mi_kernels_live = live
        return model

    def _fingerprints_at(
        self, lam: float, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str
    ) -> Fingerprints:
        """Returns the fingerprints of a model that is loaded with the merge at `lam` and freed again."""
        # Layers register themselves in these, and a second model must not find the first one's.
        compilation = copy.copy(vllm_config.compilation_config)
        compilation.static_forward_context, compilation.static_all_moe_layers = {}, []
        compilation.mode = CompilationMode.NONE
        config = copy.copy(vllm_config)
        config.compilation_config = compilation
        self._recipe = Recipe(lam)
        try:
            model = super().load_model(vllm_config=config, model_config=model_config, prefix=prefix)
            found = fingerprints(model, packed(model))
        finally:
            self._recipe = self._options.recipe
        del model
        compilation.static_forward_context.clear()
        gc.collect()
        torch.accelerator.empty_cache()
        return found

    def _open(self, model_config: ModelConfig) -> Resident:
        if self._resident is None:
            revision = f"@{model_config.revision}" if model_config.revision else ""
            self._resident = Resident(sources(f"{model_config.model}{revision}", self._options))
            self._resident.check_tied(self._options.recipe)
            for note in self._resident.notes:
                _LOGGER.warning("%s", printable(note))
        return self._resident


def is_cpu(load_config: LoadConfig, vllm_config: VllmConfig) -> bool:
    """Returns whether vLLM loads to the CPU."""
    kind: str = torch.device(load_config.device or vllm_config.device_config.device).type
    return kind == "cpu"
