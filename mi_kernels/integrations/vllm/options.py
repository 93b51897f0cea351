"""What `model_loader_extra_config` may hold, checked before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError
from ...recipe.interpolation import Recipe

_RECIPE = ("lam", "layers", "modules", "rules", "extrapolate")
_KEYS = ("other", *_RECIPE, "recipe", "live", "resident")


@dataclass(frozen=True)
class LoaderOptions:
    """How a model is merged while it is loaded.

    Attributes:
        other: the model at lam 1; vLLM's own `model` is the one at lam 0.
        recipe: lam, masks and rules.
        file: instead of both, a recipe file of any method (`mi_kernels.merge_checkpoint`); its models are loaded, and
            vLLM's `model` gives config and tokenizer only.
        live: keep both models at hand, so that lam can change.
        resident: where on a GPU machine they are kept: "device", or "host" for pinned memory.
    """

    other: str | None
    recipe: Recipe | None
    file: str | None
    live: bool
    resident: str

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> LoaderOptions:
        """
        Raises:
            ArgumentError: a key that is unknown, missing or of a wrong kind.
        """
        for key in config:
            if key not in _KEYS:
                close = difflib.get_close_matches(str(key), _KEYS, n=1)
                hint = f"Did you mean {close[0]}? " if close else ""
                raise ArgumentError(
                    f"model_loader_extra_config: unknown key {key!r}", f"{hint}The keys are {', '.join(_KEYS)}."
                )
        resident = config.get("resident", "device")
        if resident not in ("device", "host"):
            raise ArgumentError(f"model_loader_extra_config: resident is {resident!r}", "Say device or host.")
        live = bool(config.get("live", False))
        if "recipe" in config:
            return cls(None, None, _file(config, live), live, resident)
        other = config.get("other")
        if not isinstance(other, str) or "lam" not in config:
            missing = "lam" if isinstance(other, str) else "other"
            raise ArgumentError(
                f"model_loader_extra_config: {missing} is missing",
                'Give {"other": MODEL, "lam": NUMBER}, or {"recipe": FILE}.',
            )
        given = {key: config[key] for key in _RECIPE if config.get(key) is not None}
        return cls(other, Recipe.from_dict(given), None, live, resident)


def _file(config: Mapping[str, Any], live: bool) -> str:
    beside = [key for key in config if key not in ("recipe", "live", "resident")]
    if beside:
        raise ArgumentError(
            f"model_loader_extra_config: recipe and {beside[0]} are both given",
            "A recipe says it all: give one of them.",
        )
    if live:
        raise ArgumentError(
            "model_loader_extra_config: a recipe file cannot be changed live", "Give other and lam, or leave live out."
        )
    return str(config["recipe"])
