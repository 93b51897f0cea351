"""The arguments of public functions: names that do not fit, and paths, are refused in our words."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ArgumentError, DTypeError, counted, meant, with_hint

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K", bound=type)


def checks_names(function: F) -> F:
    """Decorates a public function or method: a missing, unknown or repeated argument is a DTypeError with a remedy.

    It is a TypeError too, as Python's own. Names cost nothing to check while they fit: Python refuses them itself, and
    only its error is replaced. But a function with another `__signature__` than its code, such as one that collects
    options, takes a few microseconds, because its arguments are bound first.

    >>> @checks_names
    ... def sweep(out, lams): ...
    >>> try:
    ...     sweep("out", lam=[0.2])
    ... except DTypeError as error:
    ...     print(error)
    sweep has no argument lam
    Did you mean lams? Its arguments are out, lams.
    """
    return _checking(function, lambda value: None)


def checks_names_after(first: Callable[[Any], object]) -> Callable[[F], F]:
    """Decorates a function as `checks_names` does. Before any other error, `first` checks the first argument.

    For a function that users mistake for another one: that another argument is missing would not help them.
    """
    return lambda function: _checking(function, first)


def _checking(function: F, first: Callable[[Any], object]) -> F:
    signature = inspect.signature(function)
    binds = hasattr(function, "__signature__")
    name = getattr(function, "__qualname__", "the function").split("<locals>.")[-1].removesuffix(".__init__")

    def refusal(args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError) -> DTypeError:
        if args:
            first(args[0])
        return _refusal(name, signature, args, kwargs, error)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if binds:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise refusal(args, kwargs, error) from None
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # raised by the function's code
                raise
            raise refusal(args, kwargs, error) from None

    return checked  # type: ignore[return-value]


def checks_fields(kind: K) -> K:
    """Decorates a class whose objects users make: its arguments are checked as by `checks_names`.

    >>> @checks_fields
    ... class Rule:
    ...     def __init__(self, lam, layers=None): ...
    >>> try:
    ...     Rule(0.5, layer="3")
    ... except DTypeError as error:
    ...     print(error)
    Rule has no argument layer
    Did you mean layers? Its arguments are lam, layers.
    """
    kind.__init__ = checks_names(kind.__init__)  # type: ignore[misc]
    return kind


def _refusal(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError
) -> DTypeError:
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self":
        parameters, args = parameters[1:], args[1:]
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    parameters = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and not p.name.startswith("_")]
    known = [p.name for p in parameters]
    takes = f"Its arguments are {', '.join(known)}." if known else "It takes no arguments."
    missing = [
        p.name
        for i, p in enumerate(parameters)
        if p.default is inspect.Parameter.empty and p.name not in kwargs and i >= len(args)
    ]
    unknown = [key for key in kwargs if key not in known and (not any_name or meant(key, missing))]
    if unknown:
        return DTypeError(f"{name} has no argument {unknown[0]}", with_hint(unknown[0], known, takes))
    positional = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if len(args) > len(positional):
        by_name = [key for key in known if key not in positional]
        each = f"{counted(len(positional), 'positional argument')} ({', '.join(positional)})"
        return DTypeError(
            f"{name} takes {each}, and {len(args)} are given",
            f"Give the others by name: {', '.join(by_name)}." if by_name else takes,
        )
    if missing:
        return DTypeError(f"{name}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing", takes)
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
