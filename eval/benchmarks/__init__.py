"""The benchmarks, one module each; a module that holds a BENCHMARK is one."""

from __future__ import annotations

import importlib
import pkgutil

from ..schema import Benchmark


def names() -> list[str]:
    """Every benchmark there is."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> Benchmark:
    """The benchmark called `name`, one of `names()`."""
    benchmark: Benchmark = importlib.import_module(f"{__name__}.{name}").BENCHMARK
    return benchmark
