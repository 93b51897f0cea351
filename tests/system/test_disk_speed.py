"""The short measure of a disk: what it reads and writes, how long it may take, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mi_kernels.system import disk_speed
from mi_kernels.system.disk_speed import BLOCK, BLOCKS, ReadSpeed, read_speed, write_speed


@pytest.mark.parametrize("nameless", [True, False])
def test_the_file_has_no_name_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    """Without O_TMPFILE too: macOS and some network file systems do not have it."""
    if not nameless:
        monkeypatch.setattr(disk_speed, "_NAMELESS", 0)
    real, seen, written = os.pwrite, [], []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        seen.extend(os.listdir(tmp_path))
        written.append(len(data))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(disk_speed, "LIMIT", 1e9)
    rate = write_speed(str(tmp_path))
    assert rate is not None
    assert rate > 0
    assert written == [BLOCK] * BLOCKS
    assert seen == os.listdir(tmp_path) == []


@pytest.mark.parametrize("nameless", [True, False])
def test_nothing_stays_after_a_kill(tmp_path: Path, nameless: bool) -> None:
    code = (
        "import os, signal, sys; from mi_kernels.system import disk_speed\n"
        "if sys.argv[2] == 'False': disk_speed._NAMELESS = 0\n"
        "os.pwrite = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "disk_speed.write_speed(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(nameless)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_or_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_speed(str(tmp_path / "missing")) is None

    def full(fd: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_speed, "preallocate", full)
    assert write_speed(str(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_ends_the_measure() -> None:
    """No thread starts a block after the limit. The time of the sync counts."""
    now, moved = [0.0], []

    def move(block: int, memory: memoryview) -> int:
        moved.append(block)
        now[0] += 1.0
        return BLOCK

    def sync() -> None:
        now[0] = 100.0

    rate = disk_speed._rate(move, BLOCKS, lambda: now[0], sync)
    assert 1 <= len(moved) <= disk_speed._THREADS
    assert rate == len(moved) * BLOCK / 100.0


def test_a_block_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(bytes(2 * BLOCK))
    monkeypatch.setattr(disk_speed, "_is_cached", lambda fd, offset: False)

    def broken(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    assert read_speed([str(tmp_path / "model")]) is None


def test_the_samples_are_spread_over_all_files() -> None:
    sizes = [("a", 100 * BLOCK + 5), ("small", BLOCK - 1), ("b", 60 * BLOCK)]
    places = disk_speed._places(sizes)
    assert len(places) == BLOCKS
    assert [path for path, _ in places] == ["a"] * 10 + ["b"] * 6
    assert places[0] == ("a", 5 * BLOCK)
    assert places[-1] == ("b", 55 * BLOCK)
    assert disk_speed._places([("a", 3 * BLOCK)]) == [("a", 0), ("a", BLOCK), ("a", 2 * BLOCK)]
    assert disk_speed._places([("small", BLOCK - 1)]) == []


def test_what_is_in_the_page_cache_needs_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    path.write_bytes(bytes(4 * BLOCK))
    read: list[int] = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, memory, at: (read.append(at), real(fd, memory, at))[1])
    monkeypatch.setattr(disk_speed, "LIMIT", 1e9)
    monkeypatch.setattr(disk_speed, "_is_cached", lambda fd, offset: offset < BLOCK)
    found = read_speed([str(path)])
    assert found is not None
    assert sorted(read) == [BLOCK, 2 * BLOCK, 3 * BLOCK]
    assert found.cached == 0.25
    monkeypatch.setattr(disk_speed, "_is_cached", lambda fd, offset: True)
    assert read_speed([str(path)]) == ReadSpeed(1.0, None)
    assert read_speed([str(tmp_path / "missing")]) is read_speed([]) is None


def test_seconds() -> None:
    assert ReadSpeed(1.0, None).seconds(10**9) == 0
    assert ReadSpeed(0.75, 1e8).seconds(10**9) == 2.5
