"""The errors that `eval` raises on purpose: what is wrong, then what to do, as in mi_kernels."""

from __future__ import annotations

from mi_kernels.errors import MIKernelsError


class EvalError(MIKernelsError):
    """An argument, a model or a run's folder cannot be used."""


class EngineError(EvalError):
    """The engine cannot start, ran out of memory or died. Responses finished before that are kept."""


class DataError(MIKernelsError):
    """A benchmark's file, or a package that grading needs, is missing or not usable."""
