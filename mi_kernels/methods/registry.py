"""All merge methods, by name: every module of this folder that holds a `METHOD`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .method import Method, Parameter


def _found() -> dict[str, Method]:
    package = __name__.rpartition(".")[0]
    folder = import_module(package).__path__
    names = sorted(info.name for info in iter_modules(folder) if f"{package}.{info.name}" != __name__)
    methods = [getattr(import_module(f"{package}.{name}"), "METHOD", None) for name in names]
    return {method.name: method for method in methods if isinstance(method, Method)}


METHODS: dict[str, Method] = _found()

# Every parameter of any method. Methods that share a name share what it is, but not always its default and range.
PARAMETERS: dict[str, Parameter] = {p.name: p for method in METHODS.values() for p in method.parameters}
