"""Inputs that change at a chosen moment of a merge."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mi_kernels.checkpoint.inputs import Inputs


def at_operand(monkeypatch: pytest.MonkeyPatch, number: int, change: Callable[[], object]) -> None:
    """Runs `change` just before the kernels get the operand with this number."""
    calls, real = itertools.count(), Inputs.operand

    def operand(self: Inputs, *arguments: object) -> object:
        if next(calls) == number:
            change()
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Inputs, "operand", operand)


def write_one_byte(shard: Path) -> None:
    with open(shard, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(shard, ns=(0, 1))  # file system clocks are coarse: an immediate write can have the same time
