"""A merge of any method, as a recipe: models, parameters by model, depth and tensor, masks, and where the files go."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..checkpoint.names import Place
from ..errors import ArgumentError, with_hint
from ..methods.method import Parameter
from ..methods.registry import METHODS, PARAMETERS
from ..system.arguments import checks_fields
from .conditions import Conditions
from .interpolation import Recipe
from .masks import Layers, Modules
from .settings import Setting, check, evaluate, plain_setting

_OWN: Mapping[str, Setting] = {}  # stands for the defaults of the method
_PAIR_KEYS = ("lam", "layers", "modules", "rules", "extrapolate")  # of "lerp"
KEYS = tuple(
    dict.fromkeys(("method", "models", "base", "slices", *_PAIR_KEYS, *PARAMETERS, "dtype", "copy_from"))  # in order
)
_METHOD_NAMES = ("lerp", *METHODS)
_MODEL_PARAMETERS = tuple(name for name, parameter in PARAMETERS.items() if parameter.by_model)
_RENAMED = {"base_model": "base", "merge_method": "method"}  # names in other tools, and what they are here


class Slice(NamedTuple):
    """Layers `start` to `stop` (None: to the end), with settings that come before the global ones."""

    start: int
    stop: int | None
    by_model: tuple[Mapping[str, Setting], ...]  # the base not among them
    settings: Mapping[str, Setting]


class Spelling(NamedTuple):
    """How messages must name things, if a recipe was read from a file of another tool.

    Attributes:
        where: the file.
        names: the names of parameters there, by ours.
    """

    where: str
    names: Mapping[str, str]


@checks_fields
@dataclass(frozen=True)
class MergeRecipe:
    """What `merge_checkpoint` does.

    Attributes:
        method: "lerp", or one of `mi_kernels.methods.registry.METHODS`.
        models: folders or Hub ids, the base not among them.
        base: the model that task vectors start from.
        slices: settings by layer. Empty: one slice without settings of its own.
        settings: of the parameters, for all tensors where a slice has none.
        defaults: for parameters without a setting. Not given: those of the method.
        pair: lam, masks and rules of "lerp".
        layers, modules: masks for the other methods; tensors that they leave out keep the first model's bytes.
        dtype: of the output; None keeps the first model's (the base's, where there is one).
        copy_from: "thinking" (the last model), "instruct" (the first), "base", or the number of a model from "1":
            whose small files the output gets.
        conditions: what must be true of the opened models; None: nothing.
        notes: one sentence for each thing that was ignored when the recipe was read. No part of what the recipe is.
        spelling: how messages name things; None: with our names. No part of what the recipe is either.

    >>> from mi_kernels import MergeRecipe
    >>> MergeRecipe("task_arithmetic", ("I", "T"), base="B", settings={"scale": 0.7}).defaults
    {'weight': 1.0, 'scale': 1.0, 'normalize': False}
    """

    method: str
    models: tuple[str, ...]
    base: str | None = None
    slices: tuple[Slice, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    defaults: Mapping[str, Setting] = field(default_factory=lambda: _OWN)
    pair: Recipe | None = None
    layers: Layers = None
    modules: Modules = None
    dtype: str | None = None
    copy_from: str = "thinking"
    conditions: Conditions | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    spelling: Spelling | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise ArgumentError(f"method is {self.method!r:.80}", f"Use one of {', '.join(_METHOD_NAMES)}.")
        if not isinstance(self.settings, Mapping) or not isinstance(self.defaults, Mapping):
            raise ArgumentError(f"settings is {self.settings!r:.80}", "Give a dict such as {'weight': 0.5}.")
        if self.defaults is _OWN:
            own = METHODS[self.method].defaults if self.method in METHODS else {}
            object.__setattr__(self, "defaults", own)
        if isinstance(self.models, str) or not isinstance(self.models, Sequence):
            raise ArgumentError(f"models is {self.models!r}", "Give a tuple of folders or Hub ids.")
        object.__setattr__(self, "models", tuple(map(_model, self.models)))
        if self.base is not None:
            object.__setattr__(self, "base", _model(self.base))
        for model in (*self.models, *([self.base] if self.base is not None else [])):
            try:
                usable = b"\0" not in os.fsencode(model)
            except UnicodeEncodeError:
                usable = False
            if not usable:
                raise ArgumentError(f"{model!r} is not a model", "Give a folder or a Hub id.")

    def parameters(self, name: str, place: Place, depth: int) -> dict[str, Any]:
        """The values of the method's parameters for the tensor `name` in a model of `depth` layers.

        Those that belong to a model are lists with a value for each model.

        Raises:
            ArgumentError: a parameter has no value for this tensor, or one that cannot be used.
        """
        method = METHODS[self.method]
        spelled = self.spelling.names if self.spelling is not None else {}
        part, t = self._slice(name, place, depth)
        shared = (part.settings, self.settings, self.defaults)

        def value(parameter: Parameter, *before: Mapping[str, Setting]) -> Any:
            key, truth = parameter.name, parameter.kind == "truth"
            for settings in (*before, *shared):
                if settings.get(key) is None:
                    continue
                if parameter.kind == "whole":
                    return settings[key]
                found = evaluate(settings[key], name, t, truth)
                if found is not None:
                    return bool(found) if truth else found
            shown = spelled.get(key, key)
            raise ArgumentError(
                f"{self._file}{name}: {shown} has no value", f"Give {shown} a value that holds for every tensor."
            )

        values = {
            p.name: [value(p, part.by_model[k]) for k in range(len(self.models))] if p.by_model else value(p)
            for p in method.parameters
        }
        method.check_values(values, f"{self._file}{name}", spelled)
        return values

    @property
    def _file(self) -> str:
        """The start of a message: the file that the recipe was read from, if messages name it."""
        return f"{self.spelling.where}: " if self.spelling is not None else ""

    def _slice(self, name: str, place: Place, depth: int) -> tuple[Slice, float]:
        """The slice a tensor belongs to, and its depth within it from 0 to 1.

        Outside the layers the depth is 0: embeddings belong to the first slice, tensors after the layers to the last.
        """
        slices = self.slices or (Slice(0, None, tuple({} for _ in self.models), {}),)
        if slices[-1].stop not in (None, depth):
            raise ArgumentError(
                f"{self._file}the slices end at layer {slices[-1].stop}, and the models have {depth} layers",
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
        raise ArgumentError(
            f"{self._file}layer {place.layer} is in no slice", f"The slices must cover all {depth} layers."
        )


def from_dict(content: Mapping[str, Any], where: str = "the recipe") -> MergeRecipe:
    """A recipe from plain values, as a YAML file holds them (docs/recipes.md shows them all).

    Raises:
        ArgumentError: a key that is unknown (with near misses) or missing, or a value of a wrong kind.

    >>> from_dict({"method": "linear", "models": ["A", {"model": "B", "weight": 3}]}).models
    ('A', 'B')
    """
    method = content.get("method")
    parameters = _parameters_of(method)
    _check_keys(content, KEYS, where, parameters, _used_keys(method))
    if method is None:
        raise ArgumentError(f"{where}: method is missing", f"Add `method:` with one of {', '.join(_METHOD_NAMES)}.")
    if method not in _METHOD_NAMES:
        raise ArgumentError(
            f"{where}: method {method!r} is unknown",
            with_hint(method, _METHOD_NAMES, f"The methods are {', '.join(_METHOD_NAMES)}."),
        )
    models, by_model = _models(content.get("models"), where, parameters)
    dtype, copy_from = content.get("dtype"), content.get("copy_from", "thinking")
    base = content.get("base")
    if base is not None and not isinstance(base, str):
        raise ArgumentError(f"{where}: base {base!r} is not a model", "Give a folder or a Hub id.")
    if method == "lerp":
        _refuse(content, set(KEYS) - {"method", "models", "dtype", "copy_from", *_PAIR_KEYS}, method, where)
        if len(models) != 2 or any(by_model):
            raise ArgumentError(f"{where}: lerp takes two models, INSTRUCT and THINKING", "Name two, and give `lam`.")
        pair = Recipe.from_dict({key: content[key] for key in _PAIR_KEYS if key in content})
        _check_text(where, dtype=dtype, copy_from=copy_from)
        return MergeRecipe(method, models, pair=pair, dtype=dtype, copy_from=copy_from)
    known = {p.name: p for p in METHODS[method].parameters}
    settings = {key: plain_setting(content[key]) for key in PARAMETERS if key in content}
    _refuse(content, {"rules", "extrapolate", *PARAMETERS} - set(known), method, where)
    for k, given in enumerate(by_model):
        _refuse(given, set(_MODEL_PARAMETERS) - set(known), method, f"{where}: {models[k]}")
    return checked(
        MergeRecipe(
            method,
            models,
            base,
            _slices(content.get("slices"), models, by_model, known, where),
            settings,
            layers=content.get("layers"),
            modules=content.get("modules"),
            dtype=dtype,
            copy_from=copy_from,
            notes=gradient_notes(settings, METHODS[method].parameters, len(models), where),
        ),
        where,
    )


def _parameters_of(method: Any) -> Sequence[Parameter]:
    """The parameters of a method of recipes; those of all methods for an unknown one."""
    if method == "lerp":
        return ()
    return METHODS[method].parameters if isinstance(method, str) and method in METHODS else [*PARAMETERS.values()]


def _used_keys(method: Any) -> tuple[str, ...]:
    """The keys that a recipe with this method uses; all of them for an unknown one."""
    if method == "lerp":
        others = {*PARAMETERS, "base", "slices"} - {*_PAIR_KEYS}
    elif isinstance(method, str) and method in METHODS:
        others = ({*PARAMETERS} - {p.name for p in METHODS[method].parameters}) | {"rules", "extrapolate"}
        others |= {"base"} if METHODS[method].base == "none" else set()
    else:
        return KEYS
    return tuple(key for key in KEYS if key not in others)


def gradient_notes(
    settings: Mapping[str, Setting],
    parameters: Sequence[Parameter],
    models: int,
    where: str,
    names: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """A note for each list that has as many numbers as there are models, although it is read as a gradient over depth.

    Args:
        settings: of all models.
        names: of the parameters in messages, by ours.
    """
    notes = []
    for p in parameters:
        given = settings.get(p.name)
        name = (names or {}).get(p.name, p.name)
        if not p.by_model or not isinstance(given, list) or any(isinstance(item, Mapping) for item in given):
            continue
        if len(given) == models > 1:
            notes.append(
                f"{where}: {name} {given} is a gradient over the layers, the same for all {models} models; "
                f"one {name} per model is written with the model"
            )
    return tuple(notes)


def from_record(record: Mapping[str, Any], models: Sequence[str], where: str) -> MergeRecipe:
    """The recipe of a merge that mi_kernels.json describes (`merge.record`), for `models`, the base first.

    Raises:
        ArgumentError: as `from_dict`. KeyError, TypeError or ValueError: it is not such a record.
    """
    if record["method"] not in METHODS:
        raise ArgumentError(f"{where}: unknown method {record['method']!r}", f"Known methods: {', '.join(METHODS)}.")
    slices = []
    for part in record["slices"]:
        (start, stop), by_model = part["layers"], tuple(dict(m) for m in part["by_model"])
        slices.append(Slice(start, stop, by_model, {k: v for k, v in part.items() if k in PARAMETERS}))
    # Older records hold the defaults of numbers only.
    own = {p.name: p.default for p in METHODS[record["method"]].parameters if p.kind != "number"}
    has_base = record["base"] is not None
    return checked(
        MergeRecipe(
            record["method"],
            tuple(models[1:] if has_base else models),
            models[0] if has_base else None,
            tuple(slices),
            dict(record["settings"]),
            {**own, **record["defaults"]},
            layers=record["layers"],
            modules=record["modules"],
        ),
        where,
    )


def checked(recipe: MergeRecipe, where: str) -> MergeRecipe:
    """`recipe`, if its method can take its models, and every value of its parameters is in the range.

    Every way in ends here: our recipes, mergekit's configurations, records of merges, and objects that a caller makes.

    Raises:
        ArgumentError: an unknown method; too few or too many models; a base that is missing or not used; a parameter
            that is unknown, missing, or has a value out of range; a dtype that is not text.
    """
    _check_text(where, dtype=recipe.dtype, copy_from=recipe.copy_from)
    if recipe.pair is not None or recipe.method not in METHODS:
        _check_pair(recipe, where)
        return recipe
    method = METHODS[recipe.method]
    method.check_models(len(recipe.models), recipe.base is not None, where)
    known = {p.name: p for p in method.parameters}
    names = recipe.spelling.names if recipe.spelling is not None else {}
    shared = [recipe.settings, *(part.settings for part in recipe.slices), recipe.defaults]
    own = [(f"{where}: {m}", by) for part in recipe.slices for m, by in zip(recipe.models, part.by_model)]
    for place, settings in (*((where, settings) for settings in shared), *own):
        for key, setting in settings.items():
            if key not in known:
                takes = f"Its parameters are {', '.join(known)}." if known else "It has no parameters."
                raise ArgumentError(f"{place}: {method.name} does not use {key}", with_hint(key, known, takes))
            check(setting, place, known[key], method.name, names.get(key))
    given = {key for settings in shared for key in settings}
    for p in method.parameters:
        if p.default is None and not p.by_model and p.name not in given:
            raise ArgumentError(f"{where}: {recipe.method} needs {p.name}", f"Add `{p.name}`: {p.meaning}.")
    return recipe


def _check_pair(recipe: MergeRecipe, where: str) -> None:
    """Checks a recipe of interpolation that was made as an object."""
    if recipe.method not in _METHOD_NAMES:
        raise ArgumentError(
            f"{where}: method {recipe.method!r} is unknown",
            with_hint(recipe.method, _METHOD_NAMES, f"The methods are {', '.join(_METHOD_NAMES)}."),
        )
    if recipe.method != "lerp" or recipe.pair is None:
        raise ArgumentError(
            f"{where}: method is {recipe.method!r}, and pair is {recipe.pair!r}",
            "Give method 'lerp' a pair, a mi_kernels.Recipe, and no other method one.",
        )
    if len(recipe.models) != 2 or recipe.base is not None:
        raise ArgumentError(f"{where}: lerp takes two models, INSTRUCT and THINKING", "Name two, and no base.")


def _model(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(text := os.fspath(value), str):
        raise ArgumentError(f"{value!r} is not a model", "Give a folder or a Hub id.")
    return text


def _models(
    given: Any, where: str, parameters: Sequence[Parameter]
) -> tuple[tuple[str, ...], tuple[Mapping[str, Setting], ...]]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ArgumentError(f"{where}: models {given!r} is not a list of models", "Give a list of folders or Hub ids.")
    names, by_model = [], []
    for item in given:
        entry = {"model": item} if isinstance(item, str) else item
        if not isinstance(entry, Mapping):
            raise ArgumentError(
                f"{where}: {item!r} is not a model", "Give a folder, a Hub id, or `model:` with parameters."
            )
        _check_keys(entry, ("model", *_MODEL_PARAMETERS), f"{where}: models", parameters)
        if not isinstance(entry.get("model"), str):
            raise ArgumentError(f"{where}: {dict(entry)!r} does not name a model", "Add `model: FOLDER or Hub id`.")
        names.append(entry["model"])
        by_model.append({key: plain_setting(value) for key, value in entry.items() if key != "model"})
    return tuple(names), tuple(by_model)


def _slices(
    given: Any,
    models: tuple[str, ...],
    by_model: tuple[Mapping[str, Setting], ...],
    known: Mapping[str, Parameter],
    where: str,
) -> tuple[Slice, ...]:
    """The slices of a recipe: layers "START:STOP" that follow each other, with parameters of their own.

    Args:
        by_model: the parameters that the models have where a slice gives them none.
    """
    if given is None:
        return (Slice(0, None, by_model, {}),)
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ArgumentError(f"{where}: slices {given!r} is not a list", "Give a list of slices, each with `layers`.")
    found: list[Slice] = []
    for part in given:
        if not isinstance(part, Mapping):
            raise ArgumentError(f"{where}: slices: {part!r} is not a slice", "Write its `layers` and its parameters.")
        _check_keys(part, ("layers", "models", *known), f"{where}: slices", [*known.values()])
        start = found[-1].stop if found else 0
        if start is None:
            raise ArgumentError(
                f"{where}: slices: a slice without an end is not the last one", "Write `layers: START:STOP`."
            )
        bounds = (
            re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})?", part["layers"]) if isinstance(part.get("layers"), str) else None
        )
        stop = int(bounds[2]) if bounds and bounds[2] else None
        if bounds is None or int(bounds[1]) != start or (stop is not None and stop <= start):
            raise ArgumentError(
                f"{where}: slices: layers {part.get('layers')!r} is not {start}:STOP",
                "Slices cover all layers in order: `0:12`, then `12:24`; the last one may be `24:`.",
            )
        own: tuple[Mapping[str, Setting], ...] = tuple({} for _ in models)
        if "models" in part:
            names, own = _models(part["models"], f"{where}: slices", [*known.values()])
            if names != models:
                raise ArgumentError(
                    f"{where}: slices: a slice has the models {', '.join(names)}, not {', '.join(models)}",
                    "List all models in every slice, in the same order.",
                )
        settings = {key: plain_setting(part[key]) for key in known if key in part}
        found.append(Slice(start, stop, tuple({**all_, **own_} for all_, own_ in zip(by_model, own)), settings))
    return tuple(found)


def _check_text(where: str, **values: Any) -> None:
    for key, value in values.items():
        if value is not None and not isinstance(value, str):
            raise ArgumentError(f"{where}: {key} {value!r} is not text", "Give text.")


def _check_keys(
    content: Mapping[str, Any],
    known: Sequence[str],
    where: str,
    parameters: Sequence[Parameter],
    used: Sequence[str] | None = None,
) -> None:
    """Refuses unknown keys.

    Args:
        parameters: those of the method, which other tools may call by other names.
        used: the keys that a hint can name. None: all that are known.
    """
    names = _RENAMED | {other: p.name for p in parameters for other in p.elsewhere}
    for key in content:
        if key not in known:
            word = names.get(key, key) if isinstance(key, str) else key
            keys = f"The keys are {', '.join(known)}."
            raise ArgumentError(f"{where}: unknown key {key!r}", with_hint(word, used or known, keys))


def _refuse(content: Mapping[str, Any], keys: set[str], method: str, where: str) -> None:
    given = sorted(keys & set(content))
    if given:
        raise ArgumentError(
            f"{where}: {method} does not use {', '.join(given)}",
            with_hint(
                given[0],
                [key for key in _used_keys(method) if key not in content],
                "Remove it, or choose another method.",
            ),
        )
