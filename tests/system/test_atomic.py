"""The one atomic write: a reader finds the previous file or the new one, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mi_kernels.system import atomic
from mi_kernels.system.atomic import write_file


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for content in (b"one", b"", b"three"):
        write_file(path, content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["run.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_the_content_reaches_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "run.json", []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def renamed(source: str, target: os.PathLike[str]) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_file(path, b"new")
    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_previous_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        assert path.read_bytes() == b"old"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_relative_path_is_written_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_file("run.json", b"{}")
    assert os.listdir(tmp_path) == ["run.json"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
