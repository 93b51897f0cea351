"""The benchmarks: one module each, which holds a BENCHMARK. `datasets` reads their files."""

from __future__ import annotations

import importlib
import pkgutil

from ..schema import Benchmark

_SHARED = ("datasets",)  # modules that are not a benchmark


def names() -> list[str]:
    """The names of all benchmarks."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)


def get(name: str) -> Benchmark:
    """The benchmark called `name`, one of `names()`."""
    benchmark: Benchmark = importlib.import_module(f"{__name__}.{name}").BENCHMARK
    return benchmark
