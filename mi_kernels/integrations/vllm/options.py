"""Check the options in vLLM's `model_loader_extra_config` before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError, with_hint
from ...recipe.interpolation import Recipe

_RECIPE = ("lam", "layers", "modules", "rules", "extrapolate")
_KEYS = ("other", *_RECIPE, "recipe", "live", "resident", "check")


@dataclass(frozen=True)
class LoaderOptions:
    """The options of a merge that vLLM loads.

    Attributes:
        other: the model at lam 1. vLLM's `model` is the one at lam 0.
        recipe: lam, masks and rules, from the keys "lam", "layers", "modules", "rules" and "extrapolate", as
            `mi_kernels.Recipe.from_dict` reads them. Rules with a pattern exclude `live` on a GPU.
        file: instead of `other` and `recipe`, a recipe file of any method (see `mi_kernels.merge_checkpoint`). The
            merge uses the models of the file, and vLLM's `model` provides only config and tokenizer.
        live: keep both models available, so that lam can change.
        resident: where a machine with a GPU keeps them: "device", or "host" for pinned memory.
        check: make the self-check on a CPU too, and report its result instead of refusing to start
            (`mi-kernels serve --check`).

    Example:
        >>> from mi_kernels.integrations.vllm.options import LoaderOptions
        >>> options = LoaderOptions.read({"other": "thinking", "lam": 0.8, "live": True})
        >>> options.other, options.recipe.lam, options.live, options.resident
        ('thinking', 0.8, True, 'device')
        >>> rules = [{"lam": 0, "modules": "attn"}, {"lam": [0, 1], "layers": "1/2:"}]
        >>> LoaderOptions.read({"other": "thinking", "lam": 0.8, "rules": rules}).recipe.rules[0].modules
        'attn'
    """

    other: str | None
    recipe: Recipe | None
    file: str | None
    live: bool
    resident: str
    check: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> LoaderOptions:
        """Reads the options from `model_loader_extra_config`.

        Raises:
            ArgumentError: a key is unknown or missing, or a value is invalid.
        """
        for key in config:
            if key not in _KEYS:
                keys = f"Use only the keys {', '.join(_KEYS)}."
                raise ArgumentError(f"model_loader_extra_config: unknown key {key!r}", with_hint(key, _KEYS, keys))
        for key in ("live", "check"):  # the text "false" would count as true
            if not isinstance(config.get(key, False), bool):
                raise ArgumentError(f"model_loader_extra_config: {key} is {config[key]!r:.80}", "Use true or false.")
        resident = config.get("resident", "device")
        if resident not in ("device", "host"):
            raise ArgumentError(f"model_loader_extra_config: resident is {resident!r}", "Use device or host.")
        live = config.get("live", False)
        if "recipe" in config:
            return cls(None, None, _file(config, live), live, resident)
        other = config.get("other")
        if not isinstance(other, str) or "lam" not in config:
            missing = "lam" if isinstance(other, str) else "other"
            raise ArgumentError(
                f"model_loader_extra_config: {missing} is missing",
                'Use {"other": MODEL, "lam": NUMBER}, or {"recipe": FILE}.',
            )
        given = {key: config[key] for key in _RECIPE if config.get(key) is not None}
        return cls(other, Recipe.from_dict(given), None, live, resident, config.get("check", False))


def _file(config: Mapping[str, Any], live: bool) -> str:
    beside = [key for key in config if key not in ("recipe", "live", "resident")]
    if beside:
        raise ArgumentError(
            f"model_loader_extra_config: recipe and {beside[0]} exclude each other",
            f"Leave out {beside[0]}, or use other and lam instead of recipe.",
        )
    if live:
        raise ArgumentError(
            "model_loader_extra_config: live does not work with a recipe file",
            "Use other and lam instead of recipe, or leave out live.",
        )
    if not isinstance(config["recipe"], str):
        raise ArgumentError(
            f"model_loader_extra_config: recipe is {config['recipe']!r:.80}", "Give the path of a file."
        )
    return config["recipe"]
