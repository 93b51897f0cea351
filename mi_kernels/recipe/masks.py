"""Which tensors a merge changes: masks over decoder layers and over modules.

Tensors that no mask selects keep INSTRUCT's bytes, as in the paper's ablations.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..checkpoint.names import MODULES, OTHER, Place, meant_module, places
from ..errors import ArgumentError, shortened

Layers = str | int | slice | Iterable[int | str] | None
Modules = str | Iterable[str] | None

# A bound: 12, -4 or 1/3. Nine digits are enough for layers, and Python refuses to read numbers of thousands.
_BOUND = r"-?[0-9]{1,9}|[0-9]{1,9}/[0-9]{1,9}"
_RANGE = re.compile(rf"({_BOUND})?\s*(:)?\s*({_BOUND})?")


def select(names: Sequence[str], layers: Layers = None, modules: Modules = None) -> set[str]:
    """The names that `layers` and `modules` both select; all of them when both are None.

    Args:
        names: every tensor of the model.
        layers: half-open ranges over the decoder layers as text ("12:36", ":12,24:", "-4:", "7"), a number, a slice, or
            an iterable of numbers and ranges. A bound may be a fraction of the depth, "1/3:2/3": it means the floor of
            fraction * count, so ranges that share a bound neither overlap nor leave a gap. Selects nothing outside the
            layers (embeddings, final norm, head).
        modules: names out of attn, ffn, router, norm, embed, head, as text ("attn,ffn") or an iterable.

    Raises:
        ArgumentError: a layer or module that this model does not have, or masks that select nothing.

    >>> names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(4)] + ["model.norm.weight"]
    >>> sorted(select(names, layers="1:3", modules="ffn"))
    ['model.layers.1.mlp.up_proj.weight', 'model.layers.2.mlp.up_proj.weight']
    """
    if layers is None and modules is None:
        return set(names)
    return select_places(places(names), layers, modules)


def select_places(found: Mapping[str, Place], layers: Layers, modules: Modules) -> set[str]:
    """`select`, given the place of each name."""
    return parse_masks(found, layers, modules).select(found)


class Masks(NamedTuple):
    """Masks whose text has been read: the numbers of layers and the names of modules, None for no mask."""

    layers: set[int] | None
    modules: set[str] | None

    def select(self, found: Mapping[str, Place]) -> set[str]:
        """The names among `found` that both masks select; possibly none of them."""
        return {
            name
            for name, place in found.items()
            if (self.layers is None or place.layer in self.layers)
            and (self.modules is None or place.module in self.modules)
        }


def parse_masks(found: Mapping[str, Place], layers: Layers, modules: Modules) -> Masks:
    """Reads masks for a model whose tensors have the places `found`.

    Raises:
        ArgumentError: a layer or module that this model does not have, or masks that select nothing.
    """
    masks = Masks(
        None if layers is None else parse_layers(layers, depth(found)),
        None if modules is None else parse_modules(modules, found.values()),
    )
    if not masks.select(found):
        there = [f"{m} is in {show_layers(_layers_of(found, m))}" for m in sorted(masks.modules or ())]
        where = "; ".join(there) or f"tensors are in {show_layers(p.layer for p in found.values())}"
        raise ArgumentError(f"{show_masks(layers, modules)} select no tensor", f"In this model {where}.")
    return masks


def depth(found: Mapping[str, Place]) -> int:
    """How many decoder layers there are: one more than the largest number."""
    return 1 + max((place.layer for place in found.values() if place.layer is not None), default=-1)


def show_layers(layers: Iterable[int | None]) -> str:
    """ "layers 0:3, 5", as masks are written, and "no layer" for none: None stands for tensors outside the layers."""
    present = {layer for layer in layers if layer is not None}
    numbers = sorted(present)
    starts = [n for n in numbers if n - 1 not in present]
    stops = [n for n in numbers if n + 1 not in present]
    ranges = [str(a) if a == b else f"{a}:{b + 1}" for a, b in zip(starts, stops)]
    return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(ranges)}" if ranges else "no layer"


def show_masks(layers: Layers, modules: Modules) -> str:
    """ "layers 12:36 and modules ffn", without a mask that is None."""
    return " and ".join(f"{k} {v}" for k, v in (("layers", layers), ("modules", modules)) if v is not None)


def _layers_of(found: Mapping[str, Place], module: str) -> set[int | None]:
    return {place.layer for place in found.values() if place.module == module}


def parse_layers(layers: Layers, count: int) -> set[int]:
    """The layer numbers that `layers` means in a model of `count` layers."""
    if count == 0:
        raise ArgumentError(
            "layers are given, but no tensor's name has a layer number",
            "Merge without layers, or select by modules.",
            argument="layers",
        )
    chosen: set[int]
    if isinstance(layers, str):
        chosen = set().union(*(_parse_range(part.strip(), count) for part in layers.split(",")))
    elif isinstance(layers, slice):
        try:
            chosen = set(range(*layers.indices(count)))
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"layers {layers!r}: {error}", "Use whole numbers, and no step of 0.", argument="layers"
            ) from None
    elif isinstance(layers, Iterable):
        chosen = set().union(*(parse_layers(n, count) if isinstance(n, str) else {_index(n, count)} for n in layers))
    else:
        chosen = {_index(layers, count)}
    if not chosen:
        raise ArgumentError(
            f"layers {layers!r} selects none of the {count} layers",
            f"They count from 0 to {count - 1}.",
            argument="layers",
        )
    return chosen


def _parse_range(text: str, count: int) -> set[int]:
    match = _RANGE.fullmatch(text)
    lone = match is not None and match[2] is None
    if not text or not match or (lone and (match[3] is not None or "/" in match[1])):
        raise ArgumentError(
            f"layers: {text!r} is not a range",
            'Write half-open ranges such as "12:36", ":12,24:", "-4:" or "1/3:".',
            argument="layers",
        )
    if lone:
        return {_index(int(match[1]), count)}
    start = 0 if match[1] is None else _bound(match[1], count)
    stop = count if match[3] is None else _bound(match[3], count)
    if start >= stop:
        raise ArgumentError(
            f"layers: {text!r} is empty",
            f"The {count} layers count from 0, and the end is not included.",
            argument="layers",
        )
    return set(range(start, stop))


def _bound(text: str, count: int) -> int:
    if "/" in text:
        part, whole = map(int, text.split("/"))
        if part > whole or whole == 0:
            raise ArgumentError(
                f"layers: {text} is not a fraction of the depth", "Use fractions from 0/1 to 1/1.", argument="layers"
            )
        return count * part // whole
    value = int(text)
    bound = value + count if value < 0 else value
    if not 0 <= bound <= count:
        raise ArgumentError(
            f"layers: {value} is beyond the {count} layers of this model",
            f"Use bounds from 0 to {count}, or negative ones.",
            argument="layers",
        )
    return bound


def _index(value: object, count: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(
            f"layers: {value!r} is not a layer number", "Give whole numbers.", argument="layers"
        ) from None
    index = number + count if number < 0 else number
    if not 0 <= index < count:
        raise ArgumentError(
            f"layers: this model has no layer {number}",
            f"Its {count} layers count from 0 to {count - 1}.",
            argument="layers",
        )
    return index


def parse_modules(modules: Modules, found: Iterable[Place]) -> set[str]:
    """The module names in `modules`, each of which must occur among the places `found`."""
    if isinstance(modules, str):
        modules = modules.split(",")
    elif modules is not None and not isinstance(modules, Iterable):
        raise ArgumentError(
            f"modules: {modules!r} is not a list of names", f"Use some of {', '.join(MODULES)}.", argument="modules"
        )
    given = [m.strip() if isinstance(m, str) else m for m in (modules if modules is not None else ())]
    unknown = [f"{m!s:.80}" for m in given if not isinstance(m, str) or m not in MODULES]
    if unknown or not given:
        raise ArgumentError(
            f"modules: {shortened(unknown) or 'none'} unknown",
            f"{meant_module(unknown[0]) if unknown else ''} Use some of {', '.join(MODULES)}.".lstrip(),
            argument="modules",
        )
    chosen = set(given)
    present = {place.module for place in found}
    absent = sorted(chosen - present)
    if absent:
        raise ArgumentError(
            f"modules: this model has no {shortened(absent)}",
            f"It has {', '.join(sorted(present - {OTHER}))}.",
            argument="modules",
        )
    return chosen
