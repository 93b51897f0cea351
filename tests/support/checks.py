"""Shared assertions: a command is rejected correctly, and no file was changed or left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mi_kernels.cli import program as cli

from .models import Tensors, save, tiny

# The command that runs the installed program.
PROGRAM = [sys.executable, "-c", "import sys; from mi_kernels.cli import main; sys.exit(main())"]


@dataclass
class World:
    """A folder with two models that can be merged, and a path for the output."""

    root: Path
    a: Tensors = field(default_factory=lambda: tiny(1))
    b: Tensors = field(default_factory=lambda: tiny(2))
    shards: int = 2

    def __post_init__(self) -> None:
        save(self.instruct, self.a, self.shards)
        save(self.thinking, self.b, self.shards)

    @property
    def instruct(self) -> Path:
        return self.root / "instruct"

    @property
    def thinking(self) -> Path:
        return self.root / "thinking"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def argv(self, *extra: object) -> list[str]:
        """Returns the arguments of a merge. Options in `extra` take precedence."""
        words = ["lerp", self.instruct, self.thinking, "--out", self.out, "--lam", "0.5", "--threads", "1", *extra]
        return [str(w) for w in words]


def snapshot(root: Path) -> dict[str, object]:
    """Returns the state of all files under `root`: kind, link target, bytes, mode, link count and mtime."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            found[name] = (path.read_bytes(), status.st_mode, status.st_nlink, status.st_mtime_ns)
        else:
            found[name] = stat.S_IFMT(status.st_mode)
    return found


def run_cli(argv: list[str]) -> int:
    """Runs `main` and returns its exit status, also when argparse exits."""
    try:
        return cli.main(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def assert_refused(capsys: pytest.CaptureFixture[str], root: Path, argv: list[str], *words: str) -> None:
    """Asserts exit status 2, a message of one to three lines with `words`, and that no file under `root` changed."""
    before = snapshot(root)
    capsys.readouterr()
    status = run_cli(argv)
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out == ""
    assert_message(err, *words)
    assert snapshot(root) == before


def handled(notes: list[str]) -> list[str]:
    """Returns the notes without those on NaN and inf, which random bits contain."""
    return [note for note in notes if not re.search(r"\d (NaN|inf) in |overflow|identical", note)]


def without_announcements(err: str) -> str:
    """Returns stderr without the lines that say what a command is about to do."""
    announced = re.compile("mi-kernels: (reads|writes|waiting) ")
    return "".join(line for line in err.splitlines(keepends=True) if not announced.match(line))


def assert_message(err: str, *words: str) -> None:
    err = without_announcements(err)
    assert err.startswith("mi-kernels: ")
    assert 1 <= len(err.splitlines()) <= 3, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, f"{word!r} is not in {err!r}"


_IN_OPEN, _IN_CLOSE_WRITE, _IN_MODIFY, _IN_ATTRIB = 0x20, 0x8, 0x2, 0x4


class FileEvents:
    """Names of files that were opened and of files that were written, as reported by inotify."""

    def __init__(self) -> None:
        self.opened: set[str] = set()
        self.written: set[str] = set()


@contextlib.contextmanager
def watched(*folders: Path) -> Iterator[FileEvents]:
    """Context: watches `folders` with inotify, which also reports files that compiled code opens."""
    if not sys.platform.startswith("linux"):
        pytest.skip("inotify is Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        pytest.skip("no inotify instance is to be had")
    events = FileEvents()
    try:
        for folder in folders:
            mask = _IN_OPEN | _IN_CLOSE_WRITE | _IN_MODIFY | _IN_ATTRIB
            assert libc.inotify_add_watch(fd, os.fsencode(folder), mask) >= 0
        yield events
        with contextlib.suppress(BlockingIOError):
            while data := os.read(fd, 1 << 16):
                _record(data, events)
    finally:
        os.close(fd)


def _record(data: bytes, events: FileEvents) -> None:
    at = 0
    while at < len(data):
        _, mask, _, length = struct.unpack_from("iIII", data, at)
        name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode()
        at += 16 + length
        (events.opened if mask & _IN_OPEN else events.written).add(name)
