"""Faults in csrc and in what launches the kernels."""

from __future__ import annotations

from . import Fault

FAULTS: list[Fault] = []
