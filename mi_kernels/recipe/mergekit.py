"""mergekit's configurations, read as they are.

Every method that says how mergekit spells it, with parameters for each model and for all, gradients, filters, and
`slices` that keep every layer in its place. What is not supported is refused by name before any work. Arithmetic is
ours: float32 throughout, rounded once at the end, whatever `dtype` says; `out_dtype`, else `dtype`, is what is written.
Meaning and defaults are those of mergekit 0.1.5 (config.py, plan.py, parameter_resolver.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError
from ..methods.method import Method
from ..methods.registry import METHODS, PARAMETERS
from .models import MergeRecipe, Slice, checked
from .settings import Setting, check

_KEYS = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source")
_REASONS = {
    "tokenizer": "tokenizer surgery is not supported",
    "chat_template": "chat templates are copied, not changed",
    "modules": "per-module configurations are not supported",
}
_METHODS = {method.mergekit.name: method for method in METHODS.values() if method.mergekit is not None}


def from_mergekit(content: Mapping[str, Any], where: str) -> MergeRecipe:
    """The recipe that a mergekit configuration describes.

    Raises:
        ArgumentError: it asks for something that is not supported, or is not a valid configuration.

    >>> models = [{"model": "A", "parameters": {"weight": 1}}, {"model": "B", "parameters": {"weight": 3}}]
    >>> from_mergekit({"merge_method": "linear", "models": models, "dtype": "bfloat16"}, "config.yml").dtype
    'bfloat16'
    """
    name = content["merge_method"]
    if not isinstance(name, str) or name not in _METHODS:
        raise ArgumentError(
            f"{where}: merge_method {name!r} is not supported", f"Supported methods: {', '.join(_METHODS)}."
        )
    method = _METHODS[name]
    spelling = method.mergekit
    assert spelling is not None
    for key in content:
        if content[key] is not None and key not in _KEYS:
            reason = _REASONS.get(key, "the key is unknown")
            raise ArgumentError(f"{where}: {key}: {reason}", "Remove it, or run this configuration with mergekit.")
    base = _reference(content["base_model"], where) if content.get("base_model") is not None else None
    if bool(content.get("models")) == bool(content.get("slices")):
        raise ArgumentError(f"{where}: needs either models or slices", "Give one of them.")
    if content.get("models"):
        parts: list[Mapping[str, Any]] = [{"sources": _list(content["models"], f"{where}: models")}]
    else:
        parts = _list(content["slices"], f"{where}: slices")
    sliced = bool(content.get("slices"))
    models = _models_of(parts, None if spelling.base == "model" else base, where)
    if spelling.base == "model" and base is not None and base not in models:
        if sliced:
            raise ArgumentError(f"{where}: base_model {base} is in no slice", "Remove it, or add it to the slices.")
        parts = [{"sources": [*parts[0]["sources"], {"model": base}]}]  # as mergekit does
        models = (*models, base)
    if not models:
        raise ArgumentError(f"{where}: does not name a model besides the base_model", f"Add one: {name} needs it.")
    slices = tuple(_slice(part, models, method, sliced, where) for part in parts)
    if sliced:
        _check_stacking(slices, where)
    settings = _settings(content.get("parameters"), method, f"{where}: parameters")
    origin = base  # mergekit takes config and tokenizer of the base, and without one those of any model
    if spelling.base == "first":  # mergekit starts from the base, wherever it is listed
        if base is None or len(models) != 1:
            raise ArgumentError(f"{where}: {name} takes a base_model and one other model", "Name these two.")
        models = (base, *models)
        slices = tuple(s._replace(by_model=({}, *s.by_model)) for s in slices)
    if spelling.base != "base":
        base = None
    copy_from = _tokenizer(content.get("tokenizer_source"), origin, base, models, where)
    defaults = {key: value for key, value in {**method.defaults, **spelling.defaults}.items() if value is not None}
    dtype = content.get("out_dtype") or content.get("dtype")
    if isinstance(dtype, str):
        dtype = dtype.removeprefix("torch.")
    recipe = MergeRecipe(method.name, models, base, slices, settings, defaults, dtype=dtype, copy_from=copy_from)
    return checked(recipe, where)


def _list(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        raise ArgumentError(f"{where}: is not a list of mappings", "Write it as mergekit's documentation shows.")
    return value


def _reference(value: Any, where: str) -> str:
    """A model as text, PATH[@REVISION][+ADAPTER]: from text, or from mergekit's mappings of the same."""
    if isinstance(value, Mapping) and "model" in value:
        unknown = sorted(str(key) for key in value if key not in ("model", "lora") and value[key] is not None)
        if unknown:
            raise ArgumentError(f"{where}: {unknown[0]} is not supported", "Run this configuration with mergekit.")
        adapter = f"+{_reference(value['lora'], where)}" if value.get("lora") else ""
        return _reference(value["model"], where) + adapter
    if isinstance(value, Mapping) and isinstance(value.get("path"), str) and not set(value) - {"path", "revision"}:
        return f"{value['path']}@{value['revision']}" if value.get("revision") else str(value["path"])
    if not isinstance(value, str):
        raise ArgumentError(f"{where}: {value!r} is not a model", "Give a folder or a Hub id.")
    return value


def _models_of(parts: list[Mapping[str, Any]], base: str | None, where: str) -> tuple[str, ...]:
    """The models of every part, in the order of the first one; the base among them is left out."""
    found: list[str] = []
    for part in parts:
        sources = _list(part.get("sources"), f"{where}: sources")
        found += [m for m in (_reference(s.get("model"), where) for s in sources) if m not in found]
    return tuple(m for m in found if m != base)


def _slice(part: Mapping[str, Any], models: tuple[str, ...], method: Method, sliced: bool, where: str) -> Slice:
    for key in part:
        if part[key] is not None and key not in ("sources", "parameters"):
            raise ArgumentError(f"{where}: slices: {key} is not supported", "Run this configuration with mergekit.")
    ranges: set[tuple[int, int]] = set()
    by_model: dict[str, Mapping[str, Setting]] = {}
    for source in _list(part["sources"], f"{where}: sources"):
        for key in source:
            if key not in (("model", "parameters", "layer_range") if sliced else ("model", "parameters")):
                raise ArgumentError(
                    f"{where}: {'sources' if sliced else 'models'}: {key} is not supported",
                    "Run this configuration with mergekit.",
                )
        name = _reference(source.get("model"), where)
        if name in by_model:
            raise ArgumentError(f"{where}: {name} is named twice", "Name each model once.")
        if sliced:
            ranges.add(_range(source.get("layer_range"), where))
        by_model[name] = _settings(source.get("parameters"), method, f"{where}: {name}")
        shared = [key for key in by_model[name] if not PARAMETERS[key].by_model]
        if shared:
            own = " and ".join(p.name for p in method.parameters if p.by_model) or "no parameter"
            raise ArgumentError(
                f"{where}: {name}: of the parameters of {method.name}, only {own} may differ by model",
                f"Move {shared[0]} to the parameters of the whole configuration.",
            )
    missing = [m for m in models if m not in by_model]
    if missing:
        raise ArgumentError(f"{where}: a slice leaves out {missing[0]}", "Every slice must hold every model.")
    if len(ranges) > 1:
        raise ArgumentError(
            f"{where}: a slice takes different layers from its models: {', '.join(map(str, sorted(ranges)))}",
            "Passthrough stacking is not supported: run this configuration with mergekit.",
        )
    start, stop = ranges.pop() if ranges else (0, None)
    settings = _settings(part.get("parameters"), method, f"{where}: slice parameters")
    return Slice(start, stop, tuple(by_model[m] for m in models), settings)


def _range(value: Any, where: str) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value) and 0 <= value[0] < value[1]:
        return value[0], value[1]
    raise ArgumentError(
        f"{where}: layer_range {value!r} is not [START, END]", "Count layers from 0; the end is excluded."
    )


def _check_stacking(slices: tuple[Slice, ...], where: str) -> None:
    expected = 0
    for part in slices:
        if part.start != expected or part.stop is None:
            raise ArgumentError(
                f"{where}: a slice starts at layer {part.start}, and {expected} is next",
                "Passthrough stacking is not supported: slices must keep every layer in its place.",
            )
        expected = part.stop


def _settings(given: Any, method: Method, where: str) -> dict[str, Setting]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{where}: is not a mapping of parameters", "Write `weight: 0.5`, and so on.")
    known = {p.mergekit: p for p in method.parameters if p.mergekit is not None}
    ignored = method.mergekit.ignored if method.mergekit is not None else {}
    settings = {}
    for key, value in given.items():
        if key in ignored and ignored[key] in (None, value):
            continue
        if key not in known:
            shown = f"{key}: {value}" if isinstance(value, bool) else key
            raise ArgumentError(
                f"{where}: {shown} is not supported for {method.name}",
                "Remove it, or run this configuration with mergekit.",
            )
        check(value, f"{where}: {key}", truth=known[key].kind == "truth")
        settings[known[key].name] = value
    return settings


def _tokenizer(source: Any, origin: str | None, base: str | None, models: tuple[str, ...], where: str) -> str:
    """Whose small files are copied: `origin`'s (the base_model's), else the first model's, unless `source` names one.

    Args:
        base: the recipe's base, where its method has one.
    """
    if source == "base" and origin is None:
        raise ArgumentError(f"{where}: tokenizer_source is base, and there is no base_model", "Name a model.")
    name = (origin or models[0]) if source in (None, "base") else _reference(source, where)
    places = {models[-1]: "thinking", models[0]: "instruct", **({base: "base"} if base else {})}
    if name not in places:
        raise ArgumentError(
            f"{where}: tokenizer_source {name!r} is not supported", "Name the base, the first or the last model."
        )
    return places[name]
