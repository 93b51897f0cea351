"""Faults in eval: sampling, journals, metrics, stages and advice."""

from __future__ import annotations

from . import Fault

FAULTS: list[Fault] = []
