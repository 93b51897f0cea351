"""A pseudo-terminal: what a program prints on it, and what a person sees in the end."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest


class Terminal:
    """A pseudo-terminal of some columns that a process or `sys.stderr` can write to.

    Attributes:
        slave: the descriptor to write to.
    """

    def __init__(self, columns: int = 80) -> None:
        fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
        self._master, self.slave = os.openpty()
        rows = 24 if columns else 0
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        os.set_blocking(self._master, False)

    def printed(self) -> str:
        """Returns everything that was written since the last call."""
        found = b""
        try:
            while data := os.read(self._master, 1 << 16):
                found += data
        except BlockingIOError:
            pass
        return found.decode()

    def type(self, keys: str) -> None:
        """Types on the keyboard: what reads from `slave` gets it. "\\n" is Enter, "\\x04" Ctrl-D."""
        os.write(self._master, keys.encode())

    def close(self) -> None:
        os.close(self.slave)
        os.close(self._master)


def screen(printed: str) -> list[str]:
    """Returns the lines that a person sees after `printed`: a carriage return goes back to the start of the line."""
    lines = []
    for line in printed.replace("\r\n", "\n").split("\n"):
        seen = ""
        for part in line.split("\r"):
            seen = part + seen[len(part) :]
        lines.append(seen.rstrip())
    return lines


@contextmanager
def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> Iterator[Terminal]:
    """Context: `sys.stderr` is a new pseudo-terminal."""
    terminal = Terminal(columns)
    stream: TextIO = open(os.dup(terminal.slave), "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    try:
        yield terminal
    finally:
        stream.close()
        terminal.close()
