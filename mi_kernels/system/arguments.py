"""The arguments of public functions: names that do not fit, and paths, are refused in our words."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ArgumentError, DTypeError, with_hint

F = TypeVar("F", bound=Callable[..., Any])


def checks_names(function: F) -> F:
    """Decorates a public function: a missing, an unknown or a repeated argument is a DTypeError with a remedy.

    It is a TypeError too, as Python's own. For functions that run for a while: binding takes a few microseconds.

    >>> @checks_names
    ... def sweep(out, lams): ...
    >>> try:
    ...     sweep("out", lam=[0.2])
    ... except DTypeError as error:
    ...     print(error)
    sweep has no argument lam
    Did you mean lams? Its arguments are out, lams.
    """
    signature = inspect.signature(function)
    name = getattr(function, "__name__", "the function")

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _refusal(name, signature, args, kwargs, error) from None
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def _refusal(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError
) -> DTypeError:
    known = list(signature.parameters)
    takes = f"Its arguments are {', '.join(known)}."
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        return DTypeError(f"{name} has no argument {unknown[0]}", with_hint(unknown[0], known, takes))
    positional = [p.name for p in signature.parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(args) > len(positional):
        by_name = [key for key in known if key not in positional]
        return DTypeError(
            f"{name} takes {len(positional)} positional arguments ({', '.join(positional)}), and {len(args)} are given",
            f"Give the others by name: {', '.join(by_name)}." if by_name else takes,
        )
    missing = [
        p.name
        for i, p in enumerate(signature.parameters.values())
        if p.default is inspect.Parameter.empty and p.name not in kwargs and i >= len(args)
    ]
    if missing:
        return DTypeError(f"{name}: {', '.join(missing)} is missing", takes)
    return DTypeError(f"{name}: {error}", takes)


def checked_path(value: Any, name: str, what: str = "a model folder, a file or a Hub id") -> str:
    """Returns `value` as text.

    Raises:
        ArgumentError: not text or a path.

    >>> checked_path("mi-0.8", "out")
    'mi-0.8'
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise ArgumentError(f"{name} is {value!r:.80}, a {type(value).__name__}", f"Give {what}, as text or a path.")
    if not text:
        raise ArgumentError(f"{name} is empty", f"Give {what}.")
    return text


def short_repr(value: object) -> str:
    """Returns the `repr` of a value for a message: on one line, and cut after 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]} ..."


def dimensions(value: Any) -> int:
    """Returns the number of dimensions of an array or tensor of any kind; 0 for everything else."""
    try:
        shape = getattr(value, "shape", ())
        return len(shape) if hasattr(shape, "__len__") else 0
    except RuntimeError:  # a nested tensor has none
        return -1


def items(array: Any) -> list[Any] | None:
    """Returns the numbers of an array or tensor with one dimension as a list; None if it is none, or has no values.

    >>> import numpy as np
    >>> items(np.array([0.5, 1])), items(0.5)
    ([0.5, 1.0], None)
    """
    if dimensions(array) != 1 or not hasattr(array, "tolist"):
        return None
    try:
        found = array.tolist()
    except (RuntimeError, TypeError, ValueError):  # on the meta device, sparse
        return None
    return found if isinstance(found, list) else None
