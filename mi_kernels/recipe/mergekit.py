"""mergekit's configurations, read as they are.

Every method that says how mergekit spells it, with parameters for each model and for all, gradients, filters, and
`slices` that keep every layer in its place. What mergekit ignores is ignored with a note. What is not supported is
refused by name before any work, or, where it depends on the models, by `conditions` before any tensor is read.
Arithmetic is ours: float32 throughout, rounded once at the end, whatever `dtype` says; `out_dtype`, else `dtype`, is
what is written. Meaning and defaults are those of mergekit 0.1.5 (config.py, plan.py, parameter_resolver.py, merge.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NoReturn

from ..errors import ArgumentError, did_you_mean, nearest, shortened, with_hint
from ..methods.method import Method
from ..methods.registry import METHODS
from .conditions import TEMPLATES, Conditions
from .mergekit_names import FORMER_PARAMETERS, KEYS, MIXTURE_KEYS, PARAMETERS
from .models import KEYS as OWN_KEYS
from .models import MergeRecipe, Slice, Spelling, checked, gradient_notes
from .settings import Setting, check, plain_setting

_METHODS = {method.mergekit.name: method for method in METHODS.values() if method.mergekit is not None}
_KNOWN_PARAMETERS = (*PARAMETERS, *FORMER_PARAMETERS)
_OURS = {"base": "base_model", "method": "merge_method", "lam": "t"}  # keys of our recipes, and mergekit's names
_ENTRY_KEYS = ("model", "parameters", "layer_range")  # of a list of models or sources
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_RUN = "Run this configuration with mergekit."
_MOST_NAMES = 12  # that a note lists for one reason


def from_mergekit(content: Mapping[str, Any], where: str) -> MergeRecipe:
    """The recipe that a mergekit configuration describes.

    Raises:
        ArgumentError: it asks for something that is not supported, or is not a valid configuration.

    >>> models = [{"model": "A", "parameters": {"weight": 1}}, {"model": "B", "parameters": {"weight": 3}}]
    >>> from_mergekit({"merge_method": "linear", "models": models, "dtype": "bfloat16"}, "config.yml").dtype
    'bfloat16'
    """
    name = content.get("merge_method")
    methods = ", ".join(_METHODS)
    if name is None:
        _refuse_without_method(content, where)
    if not isinstance(name, str) or name not in _METHODS:
        raise ArgumentError(
            f"{where}: merge_method {name!r} is not supported", with_hint(name, _METHODS, f"Supported: {methods}.")
        )
    method = _METHODS[name]
    spelling = method.mergekit
    assert spelling is not None
    ignored = _Ignored()
    _check_keys(content, ignored, where)
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
    parameters = _Parameters(method, base, ignored, where)
    slices = tuple(_slice(part, models, sliced, parameters) for part in parts)
    if sliced:
        _check_stacking(slices, where)
    settings = parameters.read(content.get("parameters"), f"{where}: parameters")
    origin = base  # mergekit takes config and tokenizer of the base, and without one those of any model
    if spelling.base == "first" and (base is not None or not spelling.base_optional):
        # mergekit starts from the base, wherever it is listed.
        if base is None or len(models) != 1:
            raise ArgumentError(f"{where}: {name} takes a base_model and one other model", "Name these two.")
        models = (base, *models)
        slices = tuple(s._replace(by_model=({}, *s.by_model)) for s in slices)
    if method.base == "required" and base is None:
        raise ArgumentError(f"{where}: {name} needs a base_model", "Add `base_model: FOLDER or Hub id`.")
    parameters.check_required(models, settings, slices)
    if spelling.base != "base":
        base = None
    tokenizer = _tokenizer(content, ignored, where)
    copy_from = _copy_from(tokenizer.source, origin, base, models, where)
    defaults = {key: value for key, value in {**method.defaults, **spelling.defaults}.items() if value is not None}
    dtype = content.get("out_dtype") or content.get("dtype")
    if isinstance(dtype, str):
        dtype = dtype.removeprefix("torch.")
    names = {p.name: p.mergekit for p in method.parameters if p.mergekit is not None}
    recipe = MergeRecipe(
        method.name,
        models,
        base,
        slices,
        settings,
        defaults,
        dtype=dtype,
        copy_from=copy_from,
        conditions=tokenizer.conditions(_template(content.get("chat_template"), where), origin, where),
        notes=(*ignored.notes(where), *gradient_notes(settings, method.parameters, len(models), where, names)),
        spelling=Spelling(where, names),
    )
    return checked(recipe, where)


class _Ignored:
    """What mergekit ignores in a configuration, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, name: str, reason: str) -> None:
        names = self._names.setdefault(reason, [])
        if name not in names:
            names.append(name)

    def notes(self, where: str) -> tuple[str, ...]:
        """One note for all of it, or none."""
        parts = [f"{shortened(names, _MOST_NAMES)} ({reason})" for reason, names in self._names.items()]
        return (f"{where}: ignored, as in mergekit: {'; '.join(parts)}",) if parts else ()


def is_mergekit(content: Mapping[str, Any]) -> bool:
    """Returns whether a file without `merge_method` is meant for mergekit, as keys show that our recipes do not have.

    >>> is_mergekit({"merge_methd": "ties", "models": []}), is_mergekit({"method": "ties", "models": []})
    (True, False)
    """
    keys = [key for key in content if isinstance(key, str)]
    theirs = {*KEYS, *MIXTURE_KEYS} - {*OWN_KEYS}
    misspelt = "method" not in keys and any("merge_method" in nearest(key, KEYS, likeness=0.8) for key in keys)
    return misspelt or any(key in theirs for key in keys) or ("method" not in keys and _has_their_entries(content))


def _has_their_entries(content: Mapping[str, Any]) -> bool:
    """Returns whether models have `parameters`, or slices have `sources`, which entries of our recipes do not have."""
    for key, theirs in (("models", "parameters"), ("slices", "sources")):
        entries = content.get(key)
        if isinstance(entries, list | tuple) and any(isinstance(e, Mapping) and theirs in e for e in entries):
            return True
    return False


def _refuse_without_method(content: Mapping[str, Any], where: str) -> NoReturn:
    mixture = [key for key in MIXTURE_KEYS if key in content]
    if mixture:
        raise ArgumentError(
            f"{where}: is a configuration of mergekit-moe ({', '.join(mixture)}), which builds a mixture of experts",
            "Run it with mergekit-moe. mi_kernels merges models of one architecture.",
        )
    if "method" in content:
        raise ArgumentError(
            f"{where}: has method, as recipes of mi_kernels, and {_theirs(content)}, as mergekit's configurations",
            "Write merge_method for a mergekit configuration, or keep to the keys of docs/recipes.md.",
        )
    typos = [key for key in content if "merge_method" in nearest(str(key), KEYS, likeness=0.8)]
    shown = f" ({typos[0]!r} is unknown)" if typos else ""
    hint = did_you_mean(typos[0], KEYS) if typos else f"Add `merge_method:` with one of {', '.join(_METHODS)}."
    raise ArgumentError(f"{where}: merge_method is missing{shown}", hint)


def _theirs(content: Mapping[str, Any]) -> str:
    return shortened([key for key in KEYS if key in content and key not in OWN_KEYS])


def _check_keys(content: Mapping[str, Any], ignored: _Ignored, where: str) -> None:
    """Refuses keys that ask for something else, and misspelt ones. mergekit ignores all that it does not know."""
    for key, value in content.items():
        shown = f"{where}: {key}"
        if value is None:
            continue
        if key == "modules":
            raise ArgumentError(f"{shown}: per-module configurations are not supported", _RUN)
        if key in MIXTURE_KEYS:
            raise ArgumentError(f"{shown}: the key is unknown to mergekit-yaml, and mixtures are not supported", _RUN)
        if key in KEYS:
            continue
        if key in _KNOWN_PARAMETERS:
            ignored.add(key, "only read under `parameters`")
            continue
        if key in OWN_KEYS and key != "seed":
            hint = f"Did you mean {_OURS[key]}?" if key in _OURS else "Remove it."
            raise ArgumentError(f"{shown}: is a key of mi_kernels recipes, not of mergekit's configurations", hint)
        if not isinstance(key, str) or not _WORD.fullmatch(key):
            raise ArgumentError(f"{shown}: the key is unknown", f"Remove it. The keys are {', '.join(KEYS)}.")
        close = nearest(key, (*KEYS, *_KNOWN_PARAMETERS), likeness=0.8)
        if close:
            hint = f"Did you mean {close[0]}? Otherwise rename or remove it."
            raise ArgumentError(f"{shown}: the key is unknown", hint)
        ignored.add(key, "unknown to mergekit")


def _list(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        raise ArgumentError(f"{where}: is not a list of mappings", "Write it as mergekit's documentation shows.")
    return value


def _reference(value: Any, where: str) -> str:
    """A model as text, PATH[@REVISION][+ADAPTER]: from text, or from mergekit's mappings of the same."""
    if isinstance(value, Mapping) and "model" in value:
        unknown = sorted(str(key) for key in value if key not in ("model", "lora") and value[key] is not None)
        if unknown:
            raise ArgumentError(f"{where}: {unknown[0]} is not supported", _RUN)
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
        for source in sources:
            if source.get("model") is None:
                typo = next((key for key in source if "model" in nearest(str(key), _ENTRY_KEYS)), None)
                raise ArgumentError(
                    f"{where}: {dict(source)!r:.80} does not name a model",
                    "Add `model: FOLDER or Hub id`."
                    if typo is None
                    else f"Did you mean `model:` instead of `{typo}:`?",
                )
            name = _reference(source["model"], where)
            found += [name] if name not in found else []
    return tuple(m for m in found if m != base)


def _slice(part: Mapping[str, Any], models: tuple[str, ...], sliced: bool, parameters: _Parameters) -> Slice:
    where = parameters.where
    for key, value in part.items():
        if value is None or key in ("sources", "parameters"):
            continue
        if key != "base_model" or parameters.base is None or _reference(value, where) != parameters.base:
            known = ("sources", "parameters", "base_model")
            remedy = did_you_mean(key, known, _RUN) if key not in known else _RUN
            remedy = "Remove it: mergekit does not read it." if key == "residual_weight" else remedy
            raise ArgumentError(f"{where}: slices: {key} is not supported", remedy)
    ranges: set[tuple[int, int]] = set()
    by_model: dict[str, Mapping[str, Setting]] = {}
    for source in _list(part["sources"], f"{where}: sources"):
        for key in source:
            if source[key] is not None and key not in ("model", "parameters", *(["layer_range"] if sliced else [])):
                _refuse_entry(key, "sources" if sliced else "models", where)
        name = _reference(source.get("model"), where)
        if name in by_model:
            raise ArgumentError(f"{where}: {name} is named twice", "Name each model once.")
        if sliced:
            ranges.add(_range(source.get("layer_range"), where))
        by_model[name] = parameters.read(source.get("parameters"), f"{where}: {name}", name)
    missing = [m for m in models if m not in by_model]
    if missing:
        raise ArgumentError(f"{where}: a slice leaves out {missing[0]}", "Every slice must hold every model.")
    if len(ranges) > 1:
        raise ArgumentError(
            f"{where}: a slice takes different layers from its models: {', '.join(map(str, sorted(ranges)))}",
            "Passthrough stacking is not supported: run this configuration with mergekit.",
        )
    start, stop = ranges.pop() if ranges else (0, None)
    settings = parameters.read(part.get("parameters"), f"{where}: slice parameters")
    return Slice(start, stop, tuple(by_model[m] for m in models), settings)


def _refuse_entry(key: Any, place: str, where: str) -> None:
    remedy = with_hint(key, _ENTRY_KEYS, "Remove it: mergekit ignores it here.")
    if key in _KNOWN_PARAMETERS:
        remedy = f"Move it to the model's `parameters`, or remove it: mergekit ignores {key} here."
    raise ArgumentError(f"{where}: {place}: {key} is not supported", remedy)


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


@dataclass(frozen=True)
class _Parameters:
    """Reads the mappings named `parameters` of a configuration.

    Attributes:
        method: what it merges by.
        base: the base_model.
        ignored: collects what is ignored.
        where: the file, for messages.
    """

    method: Method
    base: str | None
    ignored: _Ignored = field(repr=False)
    where: str

    def read(self, given: Any, where: str, model: str | None = None) -> dict[str, Setting]:
        """The settings that the method uses, by our names.

        Args:
            where: names the mapping in messages.
            model: whose entry holds the mapping; None: it is for all models.
        """
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise ArgumentError(f"{where}: is not a mapping of parameters", "Write `weight: 0.5`, and so on.")
        used = {p.mergekit: p for p in self.method.parameters if p.mergekit is not None}
        spelling = self.method.mergekit
        assert spelling is not None
        fixed = spelling.ignored
        settings = {}
        for key, value in given.items():
            if key not in used and key not in fixed and key not in _KNOWN_PARAMETERS:
                self._refuse_unknown(key, where)
            elif key not in used and fixed.get(key) is None:
                self.ignored.add(key, f"no effect under {self.method.name}")
            elif model is not None and not (key in used and used[key].by_model):
                self.ignored.add(f"{key} of {model}", "only read for all models")
            elif key in fixed:
                self._check_fixed(key, value, fixed[key], where)
            elif model is not None and model == self.base and spelling.base != "model":
                self.ignored.add(f"{key} of {model}", "not read for the base_model")
            else:
                check(value, where, used[key], self.method.name, key)
                settings[used[key].name] = plain_setting(value)
        return settings

    def check_required(
        self, models: tuple[str, ...], settings: Mapping[str, Setting], slices: tuple[Slice, ...]
    ) -> None:
        """Refuses a configuration without a parameter that the method needs in mergekit."""
        spelling = self.method.mergekit
        assert spelling is not None
        for p in self.method.parameters:
            if spelling.defaults.get(p.name, p.default) is not None or p.name in settings:
                continue
            if not p.by_model:
                if not any(p.name in part.settings for part in slices):
                    called = "" if p.mergekit == p.name else f", which mergekit calls {p.mergekit}"
                    raise ArgumentError(
                        f"{self.where}: {self.method.name} needs {p.name}{called}",
                        f"Add `{p.mergekit}` to the parameters: {p.meaning}.",
                    )
                continue
            for part in slices:
                lacking = [m for m, own in zip(models, part.by_model) if p.name not in {**part.settings, **own}]
                if lacking:
                    raise ArgumentError(
                        f"{self.where}: {lacking[0]}: {p.mergekit} is missing, which {self.method.name} needs",
                        f"Add `parameters: {{{p.mergekit}: ...}}` to the model, or to the file for all models.",
                    )

    def _check_fixed(self, key: str, value: Any, only: bool | None, where: str) -> None:
        if any(v != only for v in _values(value)):
            shown = f"{key}: {value}" if isinstance(value, bool) else key
            raise ArgumentError(
                f"{where}: {shown} is not supported for {self.method.name}",
                "Remove it, or run this configuration with mergekit.",
            )

    def _refuse_unknown(self, key: Any, where: str) -> None:
        own = {p.name: p.mergekit for p in self.method.parameters if p.mergekit is not None}
        names = [*own.values()]
        known = f"{self.method.name} uses {', '.join(names)}." if names else f"{self.method.name} uses no parameter."
        hint = with_hint(own.get(key, key), (*names, *_KNOWN_PARAMETERS), known)
        raise ArgumentError(f"{where}: mergekit has no parameter {key!r}", hint)


def _values(setting: Any) -> Iterator[Any]:
    """All values of a setting: of its gradient, and under its filters."""
    if isinstance(setting, Mapping):
        yield from _values(setting.get("value"))
    elif isinstance(setting, list):
        for item in setting:
            yield from _values(item)
    else:
        yield setting


class _Tokenizer(NamedTuple):
    """What a configuration asks of the tokenizer.

    Attributes:
        source: "base", "union", a reference to a model, or None: nothing is asked.
        tokens: the configured tokens.
        multiple: of which the number of rows must be a multiple.
        block: it is asked for by `tokenizer`, not by `tokenizer_source`.
    """

    source: Any = None
    tokens: tuple[str, ...] = ()
    multiple: int = 1
    block: bool = False

    def conditions(self, template: str | None, base: str | None, where: str) -> Conditions | None:
        rows: Literal["union", "one"] | None = None
        if self.source is not None:
            rows = "union" if self.source == "union" else "one"
        if rows is None and template is None:
            return None
        return Conditions(
            where=where,
            rows=rows,
            tokens=self.tokens,
            multiple=self.multiple,
            template=template,
            base=base,
            block=self.block,
        )


def _tokenizer(content: Mapping[str, Any], ignored: _Ignored, where: str) -> _Tokenizer:
    source, block = content.get("tokenizer_source"), content.get("tokenizer")
    if block is None:
        return _Tokenizer(source or None)
    if not isinstance(block, Mapping):
        raise ArgumentError(
            f"{where}: tokenizer {block!r} is not a mapping", "Write `tokenizer: {source: base}`, and so on."
        )
    if source:
        raise ArgumentError(f"{where}: has both tokenizer_source and tokenizer", "Remove one of them, as for mergekit.")
    where = f"{where}: tokenizer"
    keys = ("source", "tokens", "pad_to_multiple_of")
    for key, value in block.items():
        if key not in keys and value is not None:
            close = nearest(str(key), keys)
            if close or not isinstance(key, str) or not _WORD.fullmatch(key):
                hint = with_hint(key, keys, f"The keys are {', '.join(keys)}.")
                raise ArgumentError(f"{where}: the key {key!r} is unknown", hint)
            ignored.add(f"{key} of tokenizer", "unknown to mergekit")
    multiple = block.get("pad_to_multiple_of") or 1
    if type(multiple) is not int or multiple < 1:
        raise ArgumentError(f"{where}: pad_to_multiple_of is {multiple!r}", "Give a whole number from 1, or remove it.")
    return _Tokenizer(block.get("source") or "union", _tokens(block.get("tokens"), where), multiple, block=True)


def _tokens(given: Any, where: str) -> tuple[str, ...]:
    """The configured tokens. Their embeddings change nothing where every model has them, unless they are forced."""
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{where}: tokens is not a mapping", "Write each token with its `source`.")
    for token, setting in given.items():
        if not isinstance(token, str) or not isinstance(setting, Mapping):
            raise ArgumentError(f"{where}: tokens: {token!r} is not a token with a mapping", "Write its `source`.")
        if setting.get("force"):
            raise ArgumentError(
                f"{where}: tokens: {token!r}: force replaces the embedding of a token, which is not supported",
                "Remove the token, or run this configuration with mergekit.",
            )
    return tuple(given)


def _template(given: Any, where: str) -> str | None:
    if not given and (given is None or isinstance(given, str)):
        return None
    if not isinstance(given, str):
        raise ArgumentError(f"{where}: chat_template {given!r} is not text", "Write auto, a name or a template.")
    if given != "auto" and given not in TEMPLATES and (len(given) < 20 or "{" not in given):
        names = ("auto", *TEMPLATES)
        raise ArgumentError(
            f"{where}: chat_template {given[:80]!r} is neither the name of a template nor a template",
            with_hint(given, names, f"The names are {', '.join(names)}."),
        )
    return given


def _copy_from(source: Any, origin: str | None, base: str | None, models: tuple[str, ...], where: str) -> str:
    """Whose small files are copied: `origin`'s (the base_model's), else the first model's, unless `source` names one.

    Args:
        base: the recipe's base, where its method has one.
    """
    if source == "base" and origin is None:
        raise ArgumentError(f"{where}: tokenizer_source is base, and there is no base_model", "Name a model.")
    name = (origin or models[0]) if source in (None, "base", "union") else _reference(source, where)
    numbers = {model: str(number) for number, model in enumerate(models, 1)}
    places = {**numbers, models[-1]: "thinking", models[0]: "instruct", **({base: "base"} if base else {})}
    if name not in places:
        raise ArgumentError(
            f"{where}: tokenizer_source {name!r} is not supported",
            "Name one of the models, or run this configuration with mergekit.",
        )
    return places[name]
