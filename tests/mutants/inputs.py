"""Faults in how inputs are read, matched and looked at, and in live models."""

from __future__ import annotations

from . import Fault

FAULTS: list[Fault] = []
