"""Check a pair of models and its recipe before vLLM starts, which takes half a minute. Needs neither vLLM nor torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...checkpoint.record import Checkpoint
from ...errors import ArgumentError, CheckpointError
from ...live.resident import Resident
from ...merge.sources import lerp_sources
from ...recipe.interpolation import Recipe
from ...recipe.load import load
from .options import LoaderOptions

_TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("tekken.json", "tiktoken.model", "spiece.model"),
)


class Checked(NamedTuple):
    """Models that can be served.

    Attributes:
        models: INSTRUCT and THINKING, or the models of a recipe file. Their files are closed.
        notes: one line for each irregularity that is handled.
    """

    models: list[Checkpoint]
    notes: list[str]


def check_models(model: str, options: LoaderOptions, others: Sequence[Recipe] = ()) -> Checked:
    """Checks what the loader will check, so that a refusal comes at once. Reads headers only.

    Args:
        model: vLLM's model, with @REVISION if a revision was given.
        options: the options of the loader. others: further recipes that the engine will change to.

    Raises:
        MIKernelsError: the loader would refuse the pair or the recipe, with the same message.

    Example:
        >>> from mi_kernels.integrations.vllm.options import LoaderOptions
        >>> from mi_kernels.integrations.vllm.preflight import check_models
        >>> checked = check_models("instruct", LoaderOptions.read({"other": "thinking", "lam": 0.8}))
        >>> [model.source for model in checked.models]
        ['instruct', 'thinking']
    """
    resident = Resident(sources(model, options))
    try:
        if options.recipe is not None:
            refuse_unloadable(resident.models[0])
            for recipe in (options.recipe, *others):
                lerp_sources(resident.alignment, [recipe])
                resident.check_tied(recipe)
        resident.check_tied(options.recipe)
        return Checked(resident.models, resident.notes)
    finally:
        resident.close()


def options_of(config: Any) -> LoaderOptions:
    """Reads `model_loader_extra_config`.

    Raises:
        ArgumentError: it is not a dict, a key is unknown or missing, or a value is invalid.
    """
    if not isinstance(config, dict):
        raise ArgumentError(f"model_loader_extra_config is {config!r}", 'Use {"other": MODEL, "lam": NUMBER}.')
    return LoaderOptions.read(config)


def sources(model: str, options: LoaderOptions) -> list[Any]:
    """Returns what to open: INSTRUCT and THINKING, or the models of the recipe file, base first."""
    if options.file is None:
        return [model, options.other]
    recipe = load(options.file)
    return [*([recipe.base] if recipe.base is not None else []), *recipe.models]


def refuse_unloadable(instruct: Checkpoint) -> None:
    """Refuses a first model that vLLM cannot read as its model.

    Raises:
        ArgumentError: it is one file, or it has an adapter.
        CheckpointError: it has no config.json.
    """
    folder = "Merge into a folder with `mi-kernels lerp`, and serve that folder."
    if instruct.adapter is not None:
        raise ArgumentError(f"{instruct.source}: vLLM cannot load INSTRUCT with an adapter", folder)
    if instruct.alone:
        raise ArgumentError(f"{instruct.source}: is one file, but vLLM loads folders", "Give the model's folder.")
    if not os.path.exists(os.path.join(instruct.root, "config.json")):
        raise CheckpointError(
            f"{instruct.source}: config.json is missing, and vLLM needs it", "Copy it from the model's repository."
        )
    method = _quantization(instruct.config)
    if method is not None:
        refuse_quantization(method)


def refuse_quantization(method: str) -> None:
    """Raises:
    ArgumentError: always. The weights of a merge are not quantised.
    """
    raise ArgumentError(
        f"quantization is {method}, but load_format mi_kernels cannot quantise a merge",
        "Leave out quantization, or merge into a folder with `mi-kernels lerp` and serve that folder.",
    )


def _quantization(config: Mapping[str, Any]) -> str | None:
    for part in (config, config.get("text_config")):
        found = part.get("quantization_config") if isinstance(part, Mapping) else None
        if found:
            return str(found.get("quant_method", "set in config.json") if isinstance(found, Mapping) else found)
    return None


def has_tokenizer(model: Checkpoint) -> bool:
    """Returns whether the folder of `model` has a file of a tokenizer."""
    return any(os.path.exists(os.path.join(model.root, name)) for name in _TOKENIZERS)
