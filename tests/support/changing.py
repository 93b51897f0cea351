"""Inputs that change at a chosen moment of a merge."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mi_kernels.checkpoint.inputs import Inputs


def at_operand(monkeypatch: pytest.MonkeyPatch, number: int, change: Callable[[], object]) -> None:
    """Runs `change` when the kernels are about to be given their operand of that number."""
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
    os.utime(shard, ns=(0, 1))  # clocks of file systems are coarse: a write at once may show the same time
