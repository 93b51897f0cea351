"""What a request may say to choose its merge: a number, the name of an effort, or a model's name with one of them.

    {"lam": 0.6}                        extra_body of OpenAI's client
    {"reasoning_effort": "high"}        the standard field of chat completions
    {"model": "NAME@high"}              also "NAME@0.6": for clients that can only choose a model
    {"mi_kernels": {"lam": 0.6, "layers": "12:"}}   a recipe with masks and rules, as responses show it

Needs neither vLLM nor torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from ...errors import ArgumentError, MIKernelsError, did_you_mean
from ...recipe.interpolation import Recipe
from ...recipe.lam import checked_lam, numeric_lam
from ...recipe.load import load
from .lam_request import RequestError, read_recipe

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
# Where each route has the standard field for an effort.
_FIELDS = {"/v1/responses": ("reasoning", "effort"), "/v1/messages": ("output_config", "effort")}
_USUAL_FIELD = ("reasoning_effort",)


class NoSuchEffort(RequestError):
    """A model's name ends in an effort that this server does not have."""


@dataclass(frozen=True)
class Wanted:
    """The weights of a recipe. Hashable and comparable, which recipes with lists are not.

    Attributes:
        key: equal for equal recipes.
    """

    key: str
    recipe: Recipe = field(compare=False)

    @classmethod
    def of(cls, recipe: Recipe) -> Wanted:
        return cls(json.dumps(recipe.to_dict(), sort_keys=True), recipe)


@dataclass(frozen=True)
class Chosen:
    """The merge that a request wants.

    Attributes:
        recipe: of the merge. effort: its name; None if it was chosen by a number or is the default.
    """

    recipe: Recipe
    effort: str | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """What the response says about its merge: {"lam": 0.6, "effort": "high"}, and masks and rules if it has any."""
        return {**shown(self.recipe), **({"effort": self.effort} if self.effort else {})}

    @property
    def wanted(self) -> Wanted:
        return Wanted.of(self.recipe)


@dataclass
class Efforts:
    """The efforts of a server.

    Attributes:
        models: the names of the model that the server serves.
        named: the recipe of each effort.
        default: the recipe for requests that choose nothing. Its masks apply to a plain lam of a request, too.
        max_wait: seconds after which a request that waits goes before new requests of the current merge.
    """

    models: tuple[str, ...]
    named: Mapping[str, Recipe]
    default: Recipe
    max_wait: float = 10.0

    def choose(self, body: dict[str, Any], path: str) -> tuple[Chosen, dict[str, Any]]:
        """Reads what a request chooses.

        Args:
            body: the JSON of the request. path: its route, since the standard field for an effort differs.

        Returns:
            The choice, and the body that vLLM gets: without `lam` and the effort, and with the served model's name.

        Raises:
            RequestError: lam is not a number in the range, an effort is unknown, or two fields choose differently.

        >>> from mi_kernels import Recipe
        >>> from mi_kernels.integrations.vllm.efforts import Efforts
        >>> efforts = Efforts(("qwen",), {"high": Recipe(0.9)}, Recipe(0.5))
        >>> chosen, body = efforts.choose({"model": "qwen@high"}, "/v1/chat/completions")
        >>> chosen.shown, body
        ({'lam': 0.9, 'effort': 'high'}, {'model': 'qwen'})
        """
        left = dict(body)
        found: list[tuple[str, Chosen]] = []
        if left.get("lam") is not None:
            found.append(("lam", self._number(left["lam"], "lam")))
        left.pop("lam", None)
        if left.get("mi_kernels") is not None:
            found.append(("mi_kernels", self._whole(left["mi_kernels"])))
        left.pop("mi_kernels", None)
        name, at, suffix = str(left.get("model")).rpartition("@")
        if at and name in self.models and left["model"] not in self.models:
            found.append(("model", self._suffix(suffix, left["model"])))
            left["model"] = name
        where = _FIELDS.get(path, _USUAL_FIELD)
        effort = _taken(left, where)
        if effort is not None:
            found.append((".".join(where), self._effort(effort, ".".join(where))))
        if not found:
            return Chosen(self.default), left
        for (name, chosen), (other, different) in pairwise(found):
            if chosen.wanted != different.wanted:
                raise RequestError(f"{name} and {other} choose different merges", "Send one of them.", other)
        return found[-1][1], left

    def listed(self) -> list[str]:
        """The names that /v1/models lists beside the model's own."""
        return [f"{self.models[0]}@{name}" for name in self.named]

    def _number(self, value: Any, param: str) -> Chosen:
        try:
            lam = numeric_lam(value, self.default.extrapolate)
        except ArgumentError as error:
            remedy = "Send a number from 0 to 1." if not self.default.extrapolate else "Send a number."
            raise RequestError(error.problem.split(":")[0], remedy, param) from error
        return Chosen(replace(self.default, lam=lam))

    def _whole(self, content: Any) -> Chosen:
        try:
            recipe = {**read_recipe(content), "extrapolate": self.default.extrapolate}
            return Chosen(Recipe.from_dict(recipe))
        except ArgumentError as error:
            raise RequestError(f"mi_kernels: {error.problem}", error.remedy, "mi_kernels") from error

    def _suffix(self, suffix: str, model: str) -> Chosen:
        if suffix in self.named:
            return Chosen(self.named[suffix], suffix)
        try:
            return Chosen(replace(self.default, lam=checked_lam(suffix, self.default.extrapolate)))
        except ArgumentError as error:
            raise NoSuchEffort(
                f"the model {json.dumps(model)} does not exist", self._remedy(suffix, "after @"), "model"
            ) from error

    def _effort(self, value: Any, param: str) -> Chosen:
        if not isinstance(value, str) or value not in self.named:
            raise RequestError(
                f"{param} is {json.dumps(value)}",
                self._remedy(value, f"as {param}") if self.named else _NO_EFFORTS,
                param,
            )
        return Chosen(self.named[value], value)

    def _remedy(self, value: Any, where: str) -> str:
        names = ", ".join(self.named)
        hint = did_you_mean(value, self.named) if isinstance(value, str) else ""
        numbers = " or a number from 0 to 1" if where == "after @" else ""
        return f"{hint} Send one of {names}{numbers} {where}.".strip()


_NO_EFFORTS = "This server has no efforts: send lam instead."


def shown(recipe: Recipe) -> dict[str, Any]:
    """lam, masks and rules as `set_lam` takes them: whether lam may be outside [0, 1] is a matter of the engine."""
    return {key: value for key, value in recipe.to_dict().items() if key != "extrapolate"}


def read_efforts(words: Sequence[str], default: Recipe, pair: tuple[str, str]) -> dict[str, Recipe]:
    """Reads `--effort low=0.2,high=0.9` and `--effort max=recipe.yml`, in the order given.

    A number gets the masks of `default`. A file must interpolate the pair.

    Args:
        pair: INSTRUCT and THINKING, as the user gave them.

    Raises:
        ArgumentError: a word is not NAME=LAM or NAME=FILE, a name is given twice, a value is invalid, or a file
            interpolates other models.

    >>> from mi_kernels import Recipe
    >>> from mi_kernels.integrations.vllm.efforts import read_efforts
    >>> read_efforts(["low=0.2,high=0.9"], Recipe(0.5), ("instruct", "thinking"))["high"].lam
    0.9
    """
    named: dict[str, Recipe] = {}
    for part in (part.strip() for word in words for part in word.split(",")):
        name, separator, value = part.partition("=")
        if not separator or not _NAME.fullmatch(name) or not value:
            raise ArgumentError(
                f"--effort: {part!r} is not NAME=LAM", "Write it as in --effort low=0.2,high=0.9,max=recipe.yml."
            )
        if name in named:
            raise ArgumentError(f"--effort: {name} is given twice", "Give each effort one value.")
        try:
            named[name] = _recipe(value, default, pair)
        except MIKernelsError as error:
            raise ArgumentError(f"--effort {name}: {error.problem}", error.remedy) from error
    return named


def _recipe(value: str, default: Recipe, pair: tuple[str, str]) -> Recipe:
    if not value.lower().endswith((".yml", ".yaml")):
        return replace(default, lam=checked_lam(value, default.extrapolate))
    recipe = load(value)
    if recipe.pair is None:
        raise ArgumentError(f"{value}: is not an interpolation of two models", "Use a recipe with method: lerp.")
    if list(map(_place, recipe.models)) != list(map(_place, pair)):
        raise ArgumentError(
            f"{value}: interpolates {' and '.join(recipe.models)}, not {' and '.join(pair)}",
            "Serve the models of the recipe, in its order.",
        )
    return recipe.pair


def _place(model: str) -> str:
    """What two names of one model have in common: the folder, or the Hub id."""
    return os.path.realpath(model) if os.path.exists(model) else model


def _taken(body: dict[str, Any], where: tuple[str, ...]) -> Any:
    """Removes the value at the path `where` from `body`, and returns it; None if there is none."""
    if len(where) == 1:
        return body.pop(where[0], None)
    part = body.get(where[0])
    if not isinstance(part, dict):
        return None
    body[where[0]] = {key: value for key, value in part.items() if key != where[1]}
    return part.get(where[1])
