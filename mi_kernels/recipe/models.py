"""A merge of any method, as a recipe: models, parameters by model, depth and tensor, masks, and where the files go."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..checkpoint.names import Place
from ..errors import ArgumentError
from ..methods.registry import METHODS, Parameters
from .interpolation import Recipe
from .lam import checked_lam
from .masks import Layers, Modules
from .settings import Setting, check, evaluate

_DEFAULTS: dict[str, Setting] = {"weight": 1.0, "density": 1.0, "scale": 1.0}
_PARAMETERS = ("weight", "density", "scale", "normalize", "lam", "seed")
_PAIR_KEYS = ("lam", "layers", "modules", "rules", "extrapolate")
_KEYS = (
    "method",
    "models",
    "base",
    *_PAIR_KEYS,
    "weight",
    "density",
    "scale",
    "normalize",
    "seed",
    "dtype",
    "copy_from",
)
_MODEL_KEYS = ("model", "weight", "density")
_RENAMED = {"lambda": "scale", "alpha": "scale", "t": "lam", "base_model": "base", "merge_method": "method"}


class Slice(NamedTuple):
    """Layers `start` to `stop` (None: to the end), and the settings that hold there before the global ones."""

    start: int
    stop: int | None
    by_model: tuple[Mapping[str, Setting], ...]  # the base not among them
    settings: Mapping[str, Setting]


@dataclass(frozen=True)
class MergeRecipe:
    """What `merge_checkpoint` does.

    Attributes:
        method: "lerp", or one of `mi_kernels.methods.METHODS`.
        models: folders or Hub ids, the base not among them.
        base: the model that task vectors start from.
        slices: settings by layer; the whole model is one slice where they do not differ.
        settings: what holds where a slice says nothing.
        defaults: what holds where neither does.
        pair: lam, masks and rules of "lerp".
        layers, modules: masks for the other methods; what they leave out keeps the first model's bytes.
        dtype: of the output; None keeps the first model's (the base's, where there is one).
        copy_from: "thinking" (the last model), "instruct" (the first) or "base": whose small files the output gets.
    """

    method: str
    models: tuple[str, ...]
    base: str | None = None
    slices: tuple[Slice, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    defaults: Mapping[str, Setting] = field(default_factory=lambda: _DEFAULTS)
    pair: Recipe | None = None
    layers: Layers = None
    modules: Modules = None
    dtype: str | None = None
    copy_from: str = "thinking"

    def __post_init__(self) -> None:
        for model in (*self.models, *([self.base] if self.base is not None else [])):
            try:
                usable = b"\0" not in os.fsencode(model)
            except UnicodeEncodeError:
                usable = False
            if not usable:
                raise ArgumentError(f"{model!r} is not a model", "Give a folder or a Hub id.")

    def parameters(self, name: str, place: Place, depth: int) -> Parameters:
        """The parameters of the tensor `name` in a model of `depth` layers.

        Raises:
            ArgumentError: a parameter has no value for this tensor, or one that cannot be used.
        """
        method, models = METHODS[self.method], range(len(self.models))
        part, t = self._slice(name, place, depth)

        def value(key: str, model: int | None) -> float:
            places = [part.settings, self.settings, self.defaults, {"normalize": method.normalize}]
            if model is not None:
                places.insert(0, part.by_model[model])
            for settings in places:
                truth = key == "normalize"
                found = evaluate(settings[key], name, t, truth) if settings.get(key) is not None else None
                if found is not None:
                    return found
            raise ArgumentError(f"{name}: {key} has no value", f"Give {key} a value that holds for every tensor.")

        uses = method.settings
        return Parameters(
            weights=[value("weight", k) for k in models] if "weight" in uses else [1.0 for _ in models],
            densities=[value("density", k) for k in models] if "density" in uses else [],
            scale=value("scale", None) if "scale" in uses else 1.0,
            normalize=bool(value("normalize", None)),
            lam=checked_lam(value("lam", None)) if "lam" in uses else 0.5,
            seed=self.settings.get("seed", 0),
        )

    def _slice(self, name: str, place: Place, depth: int) -> tuple[Slice, float]:
        """The slice a tensor belongs to, and its depth within it from 0 to 1.

        Outside the layers the depth is 0: embeddings are the first slice's, what follows the layers is the last one's.
        """
        slices = self.slices or (Slice(0, None, tuple({} for _ in self.models), {}),)
        if slices[-1].stop not in (None, depth):
            raise ArgumentError(
                f"the slices end at layer {slices[-1].stop}, and the models have {depth} layers",
                "The slices must cover every layer.",
            )
        if place.layer is None:
            before = place.module == "embed" or (place.module == "norm" and "embed" in name)
            return slices[0 if before else -1], 0.0
        for part in slices:
            stop = depth if part.stop is None else part.stop
            if part.start <= place.layer < stop:
                length = stop - part.start
                return part, (place.layer - part.start) / (length - 1) if length > 1 else 1.0
        raise ArgumentError(f"layer {place.layer} is in no slice", f"The slices must cover all {depth} layers.")


def from_dict(content: Mapping[str, Any], where: str = "the recipe") -> MergeRecipe:
    """A recipe from plain values, as a YAML file holds them (docs/recipes.md shows them all).

    Raises:
        ArgumentError: a key that is unknown (with near misses) or missing, or a value of a wrong kind.
    """
    _check_keys(content, _KEYS, where)
    method = content.get("method")
    if not isinstance(method, str) or (method != "lerp" and method not in METHODS):
        raise ArgumentError(f"{where}: method {method!r} is unknown", f"Use lerp, {', '.join(METHODS)}.")
    models, by_model = _models(content.get("models"), where)
    dtype, copy_from = content.get("dtype"), content.get("copy_from", "thinking")
    base = content.get("base")
    if base is not None and not isinstance(base, str):
        raise ArgumentError(f"{where}: base {base!r} is not a model", "Give a folder or a Hub id.")
    if method == "lerp":
        _refuse(content, set(_KEYS) - {"method", "models", "dtype", "copy_from", *_PAIR_KEYS}, method, where)
        if len(models) != 2 or any(by_model):
            raise ArgumentError(f"{where}: lerp takes two models, INSTRUCT and THINKING", "Name two, and give `lam`.")
        pair = Recipe.from_dict({key: content[key] for key in _PAIR_KEYS if key in content})
        _check_text(where, dtype=dtype, copy_from=copy_from)
        return MergeRecipe(method, models, pair=pair, dtype=dtype, copy_from=copy_from)
    spec = METHODS[method]
    settings = {key: content[key] for key in _PARAMETERS if key in content}
    _refuse(content, {"rules", "extrapolate"} | ({*_PARAMETERS} - spec.settings), method, where)
    for k, given in enumerate(by_model):
        _refuse(given, {"weight", "density"} - spec.settings, method, f"{where}: {models[k]}")
    for key, setting in (*settings.items(), *(item for given in by_model for item in given.items())):
        if key == "seed" and type(setting) is not int:
            raise ArgumentError(f"{where}: seed {setting!r} is not a whole number", "Give one, such as 42.")
        if key != "seed":
            check(setting, f"{where}: {key}", truth=key == "normalize")
    return checked(
        MergeRecipe(
            method,
            models,
            base,
            (Slice(0, None, by_model, {}),),
            settings,
            layers=content.get("layers"),
            modules=content.get("modules"),
            dtype=dtype,
            copy_from=copy_from,
        ),
        where,
    )


def from_record(record: Mapping[str, Any], models: Sequence[str], where: str) -> MergeRecipe:
    """The recipe of a merge that mi_kernels.json describes (`merge.record`), for `models`, the base first.

    Raises:
        ArgumentError: as `from_dict`. KeyError, TypeError or ValueError: it is not such a record.
    """
    if record["method"] not in METHODS:
        raise ArgumentError(f"{where}: unknown method {record['method']!r}", f"Known are {', '.join(METHODS)}.")
    slices = []
    for part in record["slices"]:
        (start, stop), by_model = part["layers"], tuple(dict(m) for m in part["by_model"])
        slices.append(Slice(start, stop, by_model, {k: v for k, v in part.items() if k in _PARAMETERS}))
    has_base = record["base"] is not None
    return checked(
        MergeRecipe(
            record["method"],
            tuple(models[1:] if has_base else models),
            models[0] if has_base else None,
            tuple(slices),
            dict(record["settings"]),
            dict(record["defaults"]),
            layers=record["layers"],
            modules=record["modules"],
        ),
        where,
    )


def checked(recipe: MergeRecipe, where: str) -> MergeRecipe:
    """`recipe`, if its method can take its models.

    Raises:
        ArgumentError: too few or too many models, a base that is missing or not wanted, a dtype that is no text.
    """
    _check_text(where, dtype=recipe.dtype, copy_from=recipe.copy_from)
    method, count = METHODS[recipe.method], len(recipe.models)
    if not method.least <= count <= method.most:
        wanted = f"{method.least}" if method.least == method.most else f"{method.least} to {method.most}"
        raise ArgumentError(f"{where}: {recipe.method} takes {wanted} models, and {count} are given", "Mind the base.")
    if method.base and recipe.base is None:
        raise ArgumentError(f"{where}: {recipe.method} needs a base model", "Add `base: FOLDER or Hub id`.")
    if not method.base and recipe.base is not None:
        raise ArgumentError(
            f"{where}: {recipe.method} has no use for a base", "Remove it, or list it among the models."
        )
    if (
        "lam" in method.settings
        and "lam" not in recipe.settings
        and not any("lam" in s.settings for s in recipe.slices)
    ):
        raise ArgumentError(f"{where}: {recipe.method} needs lam", "Add `lam`: 0 is the first model, 1 the second.")
    return recipe


def _models(given: Any, where: str) -> tuple[tuple[str, ...], tuple[Mapping[str, Setting], ...]]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ArgumentError(f"{where}: models {given!r} is not a list of models", "List folders or Hub ids.")
    names, by_model = [], []
    for item in given:
        entry = {"model": item} if isinstance(item, str) else item
        if not isinstance(entry, Mapping):
            raise ArgumentError(
                f"{where}: {item!r} is not a model", "Give a folder, a Hub id, or `model:` with weights."
            )
        _check_keys(entry, _MODEL_KEYS, f"{where}: models")
        if not isinstance(entry.get("model"), str):
            raise ArgumentError(f"{where}: {dict(entry)!r} names no model", "Add `model: FOLDER or Hub id`.")
        names.append(entry["model"])
        by_model.append({key: value for key, value in entry.items() if key != "model"})
    return tuple(names), tuple(by_model)


def _check_text(where: str, **values: Any) -> None:
    for key, value in values.items():
        if value is not None and not isinstance(value, str):
            raise ArgumentError(f"{where}: {key} {value!r} is not text", "Write a word.")


def _check_keys(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            close = [_RENAMED[key]] if key in _RENAMED else difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise ArgumentError(f"{where}: unknown key {key!r}", f"{hint}The keys are {', '.join(known)}.")


def _refuse(content: Mapping[str, Any], keys: set[str], method: str, where: str) -> None:
    given = sorted(keys & set(content))
    if given:
        raise ArgumentError(
            f"{where}: {method} does not use {', '.join(given)}", "Remove it, or choose another method."
        )
