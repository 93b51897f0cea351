"""What a merge method declares: its parameters, how many models it takes, its formula, and how mergekit spells it."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..dtypes import FLOAT32_MAX
from ..errors import ArgumentError
from ..system.arguments import dimensions, short_repr
from .statistics import Reader

if TYPE_CHECKING:
    from .._cpu import Combine as Combine
else:
    Combine = dict

MAX_MODELS = 16  # kMaxModels in csrc/combine.h; the base is one of them


NO_NAMES: Mapping[str, str] = {}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a merge method.

    Attributes:
        name: in recipes and as a keyword of `mi_kernels.combine`.
        default: used where nothing is given; None: it must be given.
        meaning: a few words for documentation and messages.
        kind: "number"; "truth", true or false; "whole", a whole number that is the same for all tensors.
        by_model: each model has its own value; the base has none.
        least, most: the range of its values, both included, unless `open` excludes `least`. Numbers must also be finite
            in float32, in which formulas use them.
        mergekit: its name in mergekit's configurations; None where mergekit has no such parameter.
        aliases: names that other tools use, recognised in error messages.
    """

    name: str
    default: float | None
    meaning: str
    kind: Literal["number", "truth", "whole"] = "number"
    by_model: bool = False
    least: float = -math.inf
    most: float = math.inf
    open: bool = False
    mergekit: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The names of this parameter in other tools, where they are not ours."""
        return tuple(name for name in (self.mergekit, *self.aliases) if name not in (None, self.name))

    def allows(self, value: float) -> bool:
        """Whether `value` is in the range: the only check of it, for every way in which a value is given."""
        if self.kind == "truth":
            return value in (0, 1)
        if self.kind == "number" and not abs(value) <= FLOAT32_MAX:  # nan too
            return False
        if self.open and 0 < value < 1 / FLOAT32_MAX:  # formulas divide by it
            return False
        return (self.least < value if self.open else self.least <= value) and value <= self.most

    @property
    def range(self) -> str:
        """The range in words, for messages and for docs/recipes.md: "from 0 to 1", "more than 0, at most 1"."""
        if self.kind == "truth":
            return "true or false"
        what = {"number": "number", "whole": "whole number"}[self.kind]
        if math.isinf(self.least):
            return f"any finite {what}"
        if self.kind == "whole":
            return f"a whole number from {self.least} to {self.most}"
        if self.open:
            return f"more than {self.least:g}, at most {self.most:g}"
        return f"from {self.least:g} to {self.most:g}"

    def checked(self, value: object, where: str, user: str, name: str | None = None, text: bool = False) -> Any:
        """Returns one value as a float, a bool or an int, after checking its type and its range.

        Args:
            where: the start of the message: a file, a tensor's name. May be empty.
            user: who needs the value, for the message: the name of the method.
            name: how the message names the parameter, if not by our name.
            text: numbers may be written as text, as mergekit reads them.

        Raises:
            ArgumentError: the value is of another type, or outside the range.

        >>> from mi_kernels.methods.parameters import DENSITY
        >>> DENSITY.checked(1, "the recipe", "ties")
        1.0
        """
        shown = f"{where}: {name or self.name}" if where else name or self.name
        number = _number(value, text and self.kind == "number", whole=self.kind == "whole")
        if self.kind == "truth" and number not in (0, 1):
            raise ArgumentError(f"{shown} is {value!r}, which is not true or false", "Give true or false.")
        if self.kind == "truth":
            return bool(number)
        if number is None or isinstance(value, bool):
            what = "whole number" if self.kind == "whole" else "number"
            raise ArgumentError(f"{shown} is {short_repr(value)}, which is not a {what}", f"Give {self._wanted}.")
        if self.kind == "whole" and isinstance(number, float) and not number.is_integer():
            raise ArgumentError(f"{shown} is {short_repr(value)}, which is not a whole number", f"Give {self._wanted}.")
        if not self.allows(number):
            if not abs(number) <= FLOAT32_MAX and self.kind == "number":
                raise ArgumentError(f"{shown} is {number:g}, which is not finite in float32", f"Give {self._wanted}.")
            percent = f" {number:g} % is {number / 100:g}." if self.open and self.most == 1 < number <= 100 else ""
            found = f"{number:g}" if self.kind == "number" else short_repr(value)
            raise ArgumentError(
                f"{shown} is {found}, which {user} cannot use", f"Give a {name or self.name} {self._span}.{percent}"
            )
        return int(number) if self.kind == "whole" else float(number)

    @property
    def _span(self) -> str:
        return self.range if self.kind == "number" and not math.isinf(self.least) else f"that is {self.range}"

    @property
    def _wanted(self) -> str:
        return f"a number {self.range}" if self.kind == "number" and not math.isinf(self.least) else self.range


@dataclass(frozen=True)
class Mergekit:
    """How a method is written in mergekit's configurations.

    Attributes:
        name: its `merge_method`.
        base: what `base_model` is: "base", where task vectors start; "model", one of the models, added to them where it
            is not listed; "first", the first of two models.
        base_optional: where the base is "first": without a `base_model`, the first of two listed models is the first.
        defaults: mergekit's, where they are not ours; None: mergekit has none, and the parameter must be given.
        ignored: mergekit's other parameters of this method, with the only value that asks for what is computed here;
            None: no value changes the result, so a configuration that gives one is read with a note.
    """

    name: str
    base: Literal["base", "model", "first"] = "base"
    base_optional: bool = False
    defaults: Mapping[str, float | None] = field(default_factory=dict)
    ignored: Mapping[str, bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """A tensor to be merged: its name, its number of elements, and a reader for each model and for the base."""

    name: str
    elements: int
    models: Sequence[Reader]
    base: Reader | None = None


@dataclass(frozen=True)
class Method:
    """A merge method.

    Attributes:
        name: in recipes and in `mi_kernels.combine`.
        summary: what it computes, in a few words.
        paper: the source of the formula.
        formula: called with a Tensor and the values of all parameters by name; returns what the kernels run. May read
            the tensor, see `reads`.
        parameters: in the order of the documentation.
        base: whether a base model is part of it.
        least, most: how many models, the base not counted; None: as many as the kernels take.
        reads: what `formula` reads the tensors for. Methods that read nothing cost nothing before the merge.
        weighted_sum: whether the formula is AFFINE, SUM or TASK, which every backend has. Triton has no others.
        mergekit: None where mergekit has no such method.
    """

    name: str
    summary: str
    paper: str
    formula: Callable[..., Combine]
    parameters: tuple[Parameter, ...] = ()
    base: Literal["none", "optional", "required"] = "none"
    least: int = 2
    most: int | None = None
    reads: Literal["nothing", "thresholds", "angles"] = "nothing"
    weighted_sum: bool = True
    mergekit: Mergekit | None = None

    @property
    def defaults(self) -> dict[str, float]:
        """The defaults of those parameters that have one."""
        return {p.name: p.default for p in self.parameters if p.default is not None}

    def check_models(self, count: int, with_base: bool, where: str) -> None:
        """Refuses models that this method cannot take: too few, too many, or a base that is missing or not used.

        Raises:
            ArgumentError: starts with `where`.
        """
        if self.base == "required" and not with_base:
            raise ArgumentError(f"{where}: {self.name} needs a base model", "Add `base`.")
        if self.base == "none" and with_base:
            raise ArgumentError(f"{where}: {self.name} does not use a base", "Remove it, or list it among the models.")
        most = MAX_MODELS - (self.base != "none") if self.most is None else self.most
        if not self.least <= count <= most:
            wanted = f"{self.least}" if self.least == most else f"{self.least} to {most}"
            besides = " besides the base" if with_base else ""
            raise ArgumentError(
                f"{where}: {self.name} takes {wanted} models{besides}, and {count} are given",
                f"Give {wanted} models{besides}.",
            )

    def check_values(self, values: Mapping[str, Any], where: str, spelled: Mapping[str, str] = NO_NAMES) -> None:
        """Refuses values outside their parameter's range.

        Args:
            spelled: how messages name the parameters, by our names, where it is not by those.

        Raises:
            ArgumentError: starts with `where`, the tensor's name.
        """
        for parameter in self.parameters:
            given = values[parameter.name]
            for value in given if parameter.by_model else [given]:
                if not parameter.allows(value):
                    parameter.checked(value, where, self.name, spelled.get(parameter.name))


def _number(value: object, text: bool, whole: bool) -> float | None:
    """`value` as a number, inf if it is too large for a float; None if it is none. `whole`: whole numbers are exact."""
    if isinstance(value, (bytes, bytearray)) or (isinstance(value, str) and not text):
        return None
    if dimensions(value) != 0 or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    if whole:
        with contextlib.suppress(TypeError):
            return operator.index(value)  # type: ignore[arg-type]
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except (TypeError, ValueError, RuntimeError):
        return None


def as_lerp(combine: Combine, tensors: int) -> float | None:
    """lam, where `combine` is the interpolation of two tensors: `lerp` runs those, and copies where a weight is 1."""
    from .._cpu import Formula

    return combine["weights"][1] if combine["formula"] == Formula.AFFINE and tensors == 2 else None
