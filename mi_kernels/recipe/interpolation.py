"""Interpolation: lam, masks and rules in, a weight for each tensor out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..checkpoint.names import OTHER, Place, places
from ..errors import ArgumentError, with_hint
from ..system.arguments import checks_fields
from .lam import numeric_lam
from .masks import Layers, Modules, depth
from .rules import Lam, Rule, checked_schedule


@checks_fields
@dataclass(frozen=True)
class Recipe:
    """Interpolation with masks and rules.

    Tensors that `layers` and `modules` select get `lam`, all others 0 (INSTRUCT's bytes). Then each rule in order sets
    the tensors it selects, so that the last match wins.

    Attributes:
        lam: a number, or a schedule over depth, see `mi_kernels.recipe.rules.schedule`.
        layers, modules: masks, see `mi_kernels.recipe.masks.select`.
        rules: see `mi_kernels.recipe.rules.Rule`.
        extrapolate: allows lam outside [0, 1].

    Raises:
        ArgumentError: lam is not a number or a list of numbers, or rules are not a list of `Rule`.

    Every function that interpolates takes a recipe as `lam`, or its parts:

        mi_kernels.lerp_checkpoint("instruct", "thinking", "out", Recipe(0.8, rules=[Rule(0, modules="attn")]))
        mi_kernels.lerp_checkpoint("instruct", "thinking", "out", 0.8, rules=[Rule(0, modules="attn")])

    >>> from mi_kernels import Recipe
    >>> Recipe(0.8, layers="1:").weights(["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"])
    {'model.layers.0.mlp.up_proj.weight': 0.0, 'model.layers.1.mlp.up_proj.weight': 0.8}
    """

    lam: Lam
    layers: Layers = None
    modules: Modules = None
    rules: Sequence[Rule] = ()
    extrapolate: bool = False

    def __post_init__(self) -> None:
        checked_schedule(self.lam, extrapolate=True)  # the range is checked where weights are made
        if not isinstance(self.rules, (list, tuple)):
            raise ArgumentError(f"rules is {_named(self.rules)}", "Give a list of rules: [Rule(0, modules='attn')].")
        for number, rule in enumerate(self.rules, 1):
            if not isinstance(rule, Rule):
                raise ArgumentError(f"rule {number} is {_named(rule)}", "Give a mi_kernels.Rule.")
        if not isinstance(self.extrapolate, bool):
            raise ArgumentError(f"extrapolate is {self.extrapolate!r}", "Give True or False.")

    @classmethod
    def given(
        cls,
        lam: Lam | Recipe,
        layers: Layers = None,
        modules: Modules = None,
        rules: Sequence[Rule] = (),
        extrapolate: bool = False,
    ) -> Recipe:
        """The recipe that the arguments of a public function describe: `lam` with masks and rules, or a whole recipe.

        `lam` and the masks apply first, then the rules in order, see `Recipe`.

        Raises:
            ArgumentError: `lam` is a recipe and another argument is given too, or an argument is invalid.

        >>> from mi_kernels import Recipe, Rule
        >>> Recipe.given(0.8, rules=[Rule(0, modules="attn")]) == Recipe(0.8, rules=[Rule(0, modules="attn")])
        True
        """
        if not isinstance(lam, Recipe):
            return cls(lam, layers, modules, rules, extrapolate)
        beside = {"layers": layers, "modules": modules, "rules": rules or None, "extrapolate": extrapolate or None}
        extra = [name for name, value in beside.items() if value is not None]
        if extra:
            raise ArgumentError(
                f"lam is a Recipe, and {extra[0]} is given too",
                f"Put {extra[0]} into the recipe: dataclasses.replace(recipe, {extra[0]}={extra[0]}).",
            )
        return lam

    def weights(self, names: Sequence[str]) -> dict[str, float]:
        """The weight of THINKING for each tensor, in the order of `names`.

        Raises:
            ArgumentError: a mask names a layer or module that is not among `names`, a mask or a rule selects nothing,
                or a lam is out of range. Rules count from 1.
        """
        if names and self.layers is None and self.modules is None and not self.rules and isinstance(self.lam, float):
            return dict.fromkeys(names, numeric_lam(self.lam, self.extrapolate))  # the usual case, and a fast one
        found = places(names)
        weights = dict.fromkeys(names, 0.0)
        for selected in self._selections(found, None):
            weights.update(selected)
        return weights

    def selections(self, part: Sequence[str], whole: Sequence[str]) -> list[dict[str, float]]:
        """What the recipe sets in a part of a model, such as the layers that one worker of several holds.

        Layers, fractions of the depth, negative numbers and schedules count the layers of the whole model.

        Args:
            part: names of tensors of the part. They may differ from those in `whole`, as fused tensors do, but their
                layer and module must be recognisable (`mi_kernels.checkpoint.names`).
            whole: the names of all tensors of the model, as for `weights`.

        Returns:
            The weights that lam with its masks, and then each rule, set for tensors of `part`. Later ones replace
            earlier ones; a tensor in none of them has weight 0. An empty dict selects nothing in this part.

        Raises:
            ArgumentError: as `weights` for the whole model. A part in which nothing is selected is not an error.

        >>> from mi_kernels import Recipe
        >>> whole = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(4)]
        >>> Recipe([0, 0.75], layers="-4:").selections(["model.layers.3.self_attn.qkv_proj.weight"], whole)
        [{'model.layers.3.self_attn.qkv_proj.weight': 0.75}]
        """
        model = places(whole)
        count = depth(model)
        # A layer beyond the last one is for multi-token prediction. Only the whole model shows which layers those are.
        found = {
            name: Place(OTHER, None) if place.layer is not None and place.layer >= count else place
            for name, place in places(part).items()
        }
        return self._selections(found, model)

    def _selections(self, found: Mapping[str, Place], whole: Mapping[str, Place] | None) -> list[dict[str, float]]:
        selected = [Rule(self.lam, self.layers, self.modules).weights(found, self.extrapolate, whole)]
        for number, rule in enumerate(self.rules, 1):
            try:
                selected.append(rule.weights(found, self.extrapolate, whole))
            except ArgumentError as error:
                raise ArgumentError(f"rule {number}: {error.problem}", error.remedy) from None
        return selected

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values, as a YAML or JSON file holds them.

        Raises:
            ArgumentError: a key that is unknown (with near misses) or missing, or a value of a wrong kind.

        >>> from mi_kernels import Recipe
        >>> Recipe.from_dict({"lam": 0.8, "modules": "ffn"})
        Recipe(lam=0.8, layers=None, modules='ffn', rules=(), extrapolate=False)
        """
        values = _checked_keys(cls, content, "the recipe")
        rules = values.get("rules") or ()
        if not isinstance(rules, (list, tuple)):
            raise ArgumentError(f"rules: {rules!r} is not a list", "Write a list of rules, each with its lam.")
        extrapolate = values.get("extrapolate", False)
        if not isinstance(extrapolate, bool):
            raise ArgumentError(f"extrapolate: {extrapolate!r} is not true or false", "Write true or false.")
        values["rules"] = tuple(_rule(rule, number, extrapolate) for number, rule in enumerate(rules, 1))
        checked_schedule(values["lam"], extrapolate)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads, without those that are defaults.

        Raises:
            ArgumentError: layers are a slice with a step, which has no text form.

        >>> from mi_kernels import Recipe
        >>> Recipe(0.8, layers=slice(12, 36)).to_dict()
        {'lam': 0.8, 'layers': '12:36'}
        """
        content = _plain_fields(self)
        if self.rules:
            content["rules"] = [_plain_fields(rule) for rule in self.rules]
        return content


def _rule(content: Any, number: int, extrapolate: bool) -> Rule:
    where = f"rule {number}"
    if isinstance(content, Rule):
        return content
    values = _checked_keys(Rule, content, where)
    pattern = values.get("pattern")
    if pattern is not None and not isinstance(pattern, str):
        raise ArgumentError(f"{where}: pattern {pattern!r} is not text", "Put it in quotes.")
    try:
        checked_schedule(values["lam"], extrapolate)
    except ArgumentError as error:
        raise ArgumentError(f"{where}: {error.problem}", error.remedy) from None
    return Rule(**values)


def _checked_keys(kind: type[Recipe] | type[Rule], content: Any, where: str) -> dict[str, Any]:
    known = [field.name for field in fields(kind)]
    if not isinstance(content, Mapping):
        raise ArgumentError(
            f"{where}: {content!r} is not a mapping", f"Give a mapping with the keys {', '.join(known)}."
        )
    for key in content:
        if key not in known:
            keys = f"The keys are {', '.join(known)}."
            raise ArgumentError(f"{where}: unknown key {key!r}", with_hint(key, known, keys))
    if "lam" not in content:
        raise ArgumentError(f"{where}: lam is missing", "Add lam: a number from 0 to 1, or a list of them.")
    return dict(content)


def _named(value: object) -> str:
    return f"{value!r:.80}, a {type(value).__name__}"


def _plain_fields(part: Recipe | Rule) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name != "rules" and (field.name == "lam" or value != field.default):
            content[field.name] = plain(value)
    return content


def plain(value: Any) -> Any:
    """A mask or a lam as JSON and YAML hold it.

    Raises:
        ArgumentError: a slice with a step, which has no text form.
    """
    if hasattr(value, "tolist"):  # NumPy's
        return value.tolist()
    if isinstance(value, slice):
        if value.step not in (None, 1):
            raise ArgumentError(f"layers {value!r} has no text form, because of its step", "Give the layers as a list.")
        return ":".join("" if bound is None else str(bound) for bound in (value.start, value.stop))
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=lambda item: (isinstance(item, str), item))
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
