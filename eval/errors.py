"""The errors a user of `eval` can meet: two lines each, what is wrong and what to do, as everywhere in mi_kernels."""

from __future__ import annotations

from mi_kernels.errors import MIKernelsError


class EvalError(MIKernelsError):
    """An argument, a model or a run's folder cannot be used."""


class EngineError(EvalError):
    """The engine cannot start, ran out of memory or died. Every response finished before it is kept."""


class DataError(MIKernelsError):
    """A benchmark's file, or a package that grading needs, is missing or not usable."""
