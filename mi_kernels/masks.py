"""Which tensors a merge changes: masks over decoder layers and over modules.

What no mask selects keeps INSTRUCT's bytes, as in the paper's ablations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .errors import ArgumentError, shortened
from .names import MODULES, OTHER, Place, classify

Layers = str | int | slice | Iterable[int] | None
Modules = str | Iterable[str] | None


def select(names: Sequence[str], layers: Layers = None, modules: Modules = None) -> set[str]:
    """The names that `layers` and `modules` both select; all of them when both are None.

    Args:
        names: every tensor of the model.
        layers: half-open ranges over the decoder layers as text ("12:36", ":12,24:", "-4:", "7"), a number, a slice, or
            an iterable of numbers. Selects nothing outside the layers (embeddings, final norm, head).
        modules: names out of attn, ffn, router, norm, embed, head, as text ("attn,ffn") or an iterable.

    Raises:
        ArgumentError: a layer or module that this model does not have, or masks that select nothing.
    """
    if layers is None and modules is None:
        return set(names)
    places = {name: classify(name) for name in names}
    count = 1 + max((p.layer for p in places.values() if p.layer is not None), default=-1)
    wanted_layers = None if layers is None else parse_layers(layers, count)
    wanted_modules = None if modules is None else parse_modules(modules, places.values())
    chosen = {
        name
        for name, place in places.items()
        if (wanted_layers is None or place.layer in wanted_layers)
        and (wanted_modules is None or place.module in wanted_modules)
    }
    if not chosen:
        raise ArgumentError(f"layers {layers} and modules {modules} together select no tensor", "Widen one of them.")
    return chosen


def parse_layers(layers: Layers, count: int) -> set[int]:
    """The layer numbers that `layers` means in a model of `count` layers."""
    if count == 0:
        raise ArgumentError(
            "layers are given, and no tensor's name holds a layer number", "Merge without layers, or select by modules."
        )
    if isinstance(layers, str):
        chosen = set().union(*(_parse_range(part.strip(), count) for part in layers.split(",")))
    elif isinstance(layers, slice):
        chosen = set(range(*layers.indices(count)))
    else:
        chosen = {_index(n, count) for n in ([layers] if isinstance(layers, int) else layers or ())}
    if not chosen:
        raise ArgumentError(
            f"layers {layers!r} selects none of the {count} layers", f"They count from 0 to {count - 1}."
        )
    return chosen


def _parse_range(text: str, count: int) -> set[int]:
    match = re.fullmatch(r"(-?\d+)?(:)?(-?\d+)?", text)
    if not text or not match or (match[3] is not None and match[2] is None):
        raise ArgumentError(
            f"layers: {text!r} is not a range", 'Write half-open ranges such as "12:36", ":12,24:" or "-4:".'
        )
    if match[2] is None:
        return {_index(int(match[1]), count)}
    start = 0 if match[1] is None else _bound(int(match[1]), count)
    stop = count if match[3] is None else _bound(int(match[3]), count)
    if start >= stop:
        raise ArgumentError(
            f"layers: {text!r} is empty", f"The {count} layers count from 0, and the end is not included."
        )
    return set(range(start, stop))


def _bound(value: int, count: int) -> int:
    bound = value + count if value < 0 else value
    if not 0 <= bound <= count:
        raise ArgumentError(
            f"layers: {value} is beyond the {count} layers of this model",
            f"Use bounds from 0 to {count}, or negative ones.",
        )
    return bound


def _index(value: object, count: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(f"layers: {value!r} is not a layer number", "Give whole numbers.")
    index = value + count if value < 0 else value
    if not 0 <= index < count:
        raise ArgumentError(
            f"layers: this model has no layer {value}", f"Its {count} layers count from 0 to {count - 1}."
        )
    return index


def parse_modules(modules: Modules, places: Iterable[Place]) -> set[str]:
    """The module names in `modules`, each of which must occur among `places`."""
    given = modules.split(",") if isinstance(modules, str) else list(modules or ())
    chosen = {m.strip() if isinstance(m, str) else m for m in given}
    unknown = sorted(str(m) for m in chosen if m not in MODULES)
    if unknown or not chosen:
        raise ArgumentError(f"modules: {shortened(unknown) or 'none'} unknown", f"Use some of {', '.join(MODULES)}.")
    present = {place.module for place in places}
    absent = sorted(chosen - present)
    if absent:
        raise ArgumentError(
            f"modules: this model has no {shortened(absent)}", f"It has {', '.join(sorted(present - {OTHER}))}."
        )
    return chosen
