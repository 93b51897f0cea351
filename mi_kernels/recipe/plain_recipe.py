"""A recipe as the plain values that a recipe file holds: the inverse of `models.from_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..methods.registry import METHODS
from .interpolation import plain
from .models import MergeRecipe, Slice
from .settings import Setting


def plain_recipe(recipe: MergeRecipe) -> dict[str, Any]:
    """Returns plain values that `models.from_dict` reads as the same merge.

    Every parameter of the method is written, also where it has its default, so that the recipe keeps its meaning if a
    default changes. A recipe that was read from a mergekit configuration has mergekit's defaults: they become values.

    Raises:
        ArgumentError: layers are a slice with a step, which has no text form.

    Example:
        >>> from mi_kernels.recipe.models import from_dict
        >>> plain_recipe(from_dict({"method": "linear", "models": ["A", {"model": "B", "weight": 3}]}))
        {'method': 'linear', 'models': ['A', {'model': 'B', 'weight': 3}], 'weight': 1.0, 'normalize': True}
    """
    output = {"dtype": recipe.dtype} if recipe.dtype is not None else {}
    output |= {"copy_from": recipe.copy_from} if recipe.copy_from != "thinking" else {}
    content: dict[str, Any] = {"method": recipe.method}
    if recipe.pair is not None:
        return {**content, "models": list(recipe.models), **recipe.pair.to_dict(), **output}
    slices = recipe.slices or (Slice(0, None, tuple({} for _ in recipe.models), {}),)
    content |= {"base": recipe.base} if recipe.base is not None else {}
    # One slice without settings of its own covers every layer, as a recipe without slices does.
    whole = len(slices) == 1 and not slices[0].settings
    content["models"] = _models(recipe, slices[0]) if whole else list(recipe.models)
    if not whole:
        content["slices"] = [_slice(recipe, part) for part in slices]
    for parameter in METHODS[recipe.method].parameters:
        name = parameter.name
        every = [part.settings.get(name) for part in slices]
        if parameter.by_model and all(_total(m.get(name)) for part in slices for m in part.by_model):
            continue  # each model has its own value for every tensor
        if all(map(_total, every)):
            continue
        setting = _filled(recipe.settings.get(name), recipe.defaults.get(name))
        if setting is not None:
            content[name] = setting
    masks = {"layers": plain(recipe.layers), "modules": plain(recipe.modules)}
    return {**content, **{key: mask for key, mask in masks.items() if mask is not None}, **output}


def _models(recipe: MergeRecipe, part: Slice) -> list[Any]:
    own = [_given(settings) for settings in part.by_model]
    return [{"model": model, **settings} if settings else model for model, settings in zip(recipe.models, own)]


def _slice(recipe: MergeRecipe, part: Slice) -> dict[str, Any]:
    layers = f"{part.start}:{'' if part.stop is None else part.stop}"
    models = {"models": _models(recipe, part)} if any(map(_given, part.by_model)) else {}
    return {"layers": layers, **_given(part.settings), **models}


def _given(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    return {key: setting for key, setting in settings.items() if setting is not None}


def _total(setting: Setting) -> bool:
    """Returns whether a setting has a value for every tensor: numbers, gradients, and conditions with a last resort."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list) or not any(isinstance(item, Mapping) for item in setting):
        return setting is not None
    # The first condition that matches decides, so each of them must have a value where it matches.
    return all(_total(item["value"]) for item in setting) and any(item.get("filter") in (None, "*") for item in setting)


def _filled(setting: Setting, default: Setting) -> Setting:
    """Returns `setting` with `default` where none of its conditions matches."""
    if setting is None or default is None or _total(setting):
        return default if setting is None else setting
    conditions = [setting] if isinstance(setting, Mapping) else setting
    filled = [{**item, "value": _filled(item["value"], default)} for item in conditions]
    last = any(item.get("filter") in (None, "*") for item in filled)
    return filled if last else [*filled, {"value": default}]
