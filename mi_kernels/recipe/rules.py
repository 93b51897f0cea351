"""Rules of a recipe: which tensors one lam, or a schedule of lam over depth, is for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..checkpoint.names import Place
from ..checkpoint.patterns import PatternError, compiled
from ..errors import ArgumentError, nearest, shortened
from ..system.arguments import checks_fields
from .lam import numeric_lam
from .masks import Layers, Masks, Modules, depth, parse_masks, show_layers, show_masks

Lam = float | Sequence[float]
_COMPARED = 200  # characters: comparing takes the square of them


@checks_fields
@dataclass(frozen=True)
class Rule:
    """`lam` for the tensors that `layers`, `modules` and `pattern` all select; for all tensors if all three are None.

    Attributes:
        lam: a number, or a schedule over depth: a list of anchors, see `schedule`.
        layers, modules: masks, see `mi_kernels.recipe.masks.select`.
        pattern: a regular expression, searched anywhere in a tensor's name.

    Raises:
        ArgumentError: lam is not a number or a list of numbers, or the pattern is not text.

    >>> from mi_kernels import Recipe, Rule
    >>> names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    >>> list(Recipe(0.5, rules=[Rule([0, 1], layers="0:2")]).weights(names).values())
    [0.0, 1.0, 0.5]
    """

    lam: Lam
    layers: Layers = None
    modules: Modules = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        checked_schedule(self.lam, extrapolate=True)  # whether it may be outside [0, 1], the recipe knows
        if self.pattern is not None and not isinstance(self.pattern, str):
            raise ArgumentError(f"pattern {self.pattern!r} is not text", "Give a regular expression as text.")

    def weights(
        self, found: Mapping[str, Place], extrapolate: bool = False, whole: Mapping[str, Place] | None = None
    ) -> dict[str, float]:
        """The weight of THINKING for each tensor this rule selects, among tensors at the places `found`.

        Args:
            whole: the places of the whole model, if `found` are a part of it. The rule must select something in the
                whole model, possibly nothing in the part; its layers and its schedule count those of the whole model.

        Raises:
            ArgumentError: the rule selects nothing, its pattern cannot be read, or its lam is out of range.
        """
        lam = checked_schedule(self.lam, extrapolate)
        model = found if whole is None else whole
        masks = Masks(None, None)
        if self.layers is not None or self.modules is not None:
            masks = parse_masks(model, self.layers, self.modules)
        chosen = self._chosen(model, masks)
        if whole is not None:
            chosen = masks.select(found)
            if self.pattern is not None:
                chosen &= _matches(self.pattern, list(found))
        if isinstance(lam, float):
            return dict.fromkeys(chosen, lam)
        by_layer = schedule(lam, sorted(range(depth(model)) if masks.layers is None else masks.layers))
        return {name: lam[0] if (layer := found[name].layer) is None else by_layer[layer] for name in chosen}

    def _chosen(self, found: Mapping[str, Place], masks: Masks) -> set[str]:
        chosen = masks.select(found)
        if self.pattern is None:
            return chosen
        matched = _search(self.pattern, found)
        if not chosen & matched:
            places = {found[name] for name in matched}
            raise ArgumentError(
                f"pattern {self.pattern!r} matches {len(matched):,} tensors, none of them in "
                f"{show_masks(self.layers, self.modules)}",
                f"They are {', '.join(sorted({p.module for p in places}))}, in {show_layers(p.layer for p in places)}.",
            )
        return chosen & matched


def checked_schedule(lam: object, extrapolate: bool = False) -> float | list[float]:
    """`lam` as a number or as a list of at least one anchor, each checked by `mi_kernels.recipe.lam.numeric_lam`."""
    if not isinstance(lam, (list, tuple)):
        return numeric_lam(lam, extrapolate, "Give a number, or lam.tolist() for anchors over the layers.")
    if not lam:
        raise ArgumentError("lam is an empty list", "Give a number, or anchors such as [0, 0.8].")
    return [numeric_lam(anchor, extrapolate, "Each anchor is one number.") for anchor in lam]


def schedule(anchors: Sequence[float], layers: Sequence[int]) -> dict[int, float]:
    """lam for each of `layers`: `anchors` are spread evenly over them and interpolated linearly.

    The arithmetic is mergekit 0.1.5's gradient (plan.py, plan_slice; config.py, evaluate_setting), in Python's floats
    and in its order. The layer at position i of n has t = i / (n - 1), or t = 1 where n is 1; then, for k anchors,

        s = t (k - 1),  j = floor(s),  f = s - j,  lam = (1 - f) anchors[j] + f anchors[min(j + 1, k - 1)]

    The result leaves the range of the anchors by a rounding at most, and never leaves [0, 1] where the anchors are in
    it: rounding is monotone, and fl(1 - f) + f rounds to 1.

    >>> schedule([0, 1], [4, 5, 6])
    {4: 0.0, 5: 0.5, 6: 1.0}
    """
    found = {}
    for i, layer in enumerate(layers):
        t = i / (len(layers) - 1) if len(layers) > 1 else 1
        scaled = t * (len(anchors) - 1)
        low = int(scaled)
        fraction = scaled - low
        found[layer] = (1 - fraction) * anchors[low] + fraction * anchors[min(low + 1, len(anchors) - 1)]
    return found


def _search(pattern: str, names: Iterable[str]) -> set[str]:
    names = list(names)
    matched = _matches(pattern, names)
    if not matched:
        close = near_misses(pattern, names)
        remedy = f"Near misses: {shortened(close)}." if close else f"Names look like {shortened(names, 2)}."
        raise ArgumentError(f"pattern {pattern!r} matches no tensor", remedy)
    return matched


def _matches(pattern: str, names: list[str]) -> set[str]:
    try:
        (expression,) = compiled([pattern], names)
    except PatternError as error:
        raise ArgumentError(
            f"pattern {pattern!r} cannot be used as a regular expression: {error}",
            r"Write one such as 'experts\.\d+\.down_proj'.",
        ) from None
    return {name for name in names if expression.search(name)}


def near_misses(pattern: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """Up to `limit` names that hold something like `pattern`, the closest first; one for each run of words.

    Regular expressions cannot be compared, so the plain text of `pattern` is, with equally many words of each kind of
    name; numbers count as equal. A model has thousands of names and a few dozen kinds.
    """
    plain = re.sub(r"\\d[+*]?|\[0-9\][+*]?|[0-9]+", "#", pattern[:_COMPARED])
    plain = re.sub(r"[\\^$()?*+|{}\[\]]", "", plain).strip(".")
    length = plain.count(".") + 1
    runs: dict[str, str] = {}
    kinds = {re.sub(r"[0-9]+", "#", name[:_COMPARED]): name for name in reversed(list(names))}
    for kind, name in kinds.items():
        words = kind.split(".")
        for i in range(max(1, len(words) - length + 1)):
            runs.setdefault(".".join(words[i : i + length]), name)
    return list(dict.fromkeys(runs[run] for run in nearest(plain, runs, limit)))
