"""The journal of an unfinished merge: each line is synced before any step relies on it, and no line is lost."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from mi_kernels.checksums.record import FileSum, ShardSum
from mi_kernels.merge.findings import Findings
from mi_kernels.merge.journal import Journal, MergeRequest, State, read

REQUEST: MergeRequest = {"lam": 0.5}


def sums(number: int) -> ShardSum:
    return ShardSum(4096 + number, number, FileSum(4096, number + 1), {})


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work" / "model").mkdir(parents=True)
    return tmp_path / "work"


def journal(work: Path) -> Journal:
    """Returns a journal that continues the one in `work`, or starts it."""
    path = str(work / "journal")
    return Journal(path, REQUEST, read(path), str(work / "model"))


def finish(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        journal.finished(f"{number}.safetensors", sums(number), Findings())


def test_lines_are_read_back(work: Path) -> None:
    path = str(work / "journal")
    assert read(path) == State()
    finish(journal(work), 1, 2)
    first = read(path)
    assert first.request == REQUEST
    assert first.shards == {"1.safetensors": sums(1), "2.safetensors": sums(2)}
    assert set(first.findings) == set(first.shards)
    assert not first.publishing
    again = journal(work)
    finish(again, 3)
    again.publishing()
    second = read(path)
    assert second.shards == {**first.shards, "3.safetensors": sums(3)}
    assert second.publishing
    assert second.length == os.path.getsize(path)


@pytest.fixture
def events(work: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All writes and syncs in order, with paths relative to the parent of the work folder."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    found: list[str] = []
    fsync, pwrite = os.fsync, os.pwrite

    def name(fd: int) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), work.parent)

    def syncing(fd: int) -> None:
        found.append(f"sync {name(fd)}")
        fsync(fd)

    def writing(fd: int, data: bytes, offset: int) -> int:
        found.append(f"write {name(fd)}")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "pwrite", writing)
    return found


def test_a_line_is_synced_and_so_are_the_names_it_relies_on(work: Path, events: list[str]) -> None:
    """First the bytes of the line, then the names of the shards, then the name of the journal if it is new."""
    line = ["write work/journal", "sync work/journal", "sync work/model"]
    made = journal(work)
    finish(made, 1)
    assert events == [*line, "sync work"]
    events.clear()
    finish(made, 2)
    assert events == line
    events.clear()
    journal(work).publishing()
    assert events == line


@pytest.mark.parametrize("torn", [b"0", b"x" * 1000 + b"\n", b"deadbeef {}\n"])
def test_a_torn_end_is_cut_off(work: Path, torn: bytes) -> None:
    """Also if it is longer than the line that replaces it."""
    path = work / "journal"
    finish(journal(work), 1, 2)
    right = path.read_bytes()
    whole = right.splitlines(keepends=True)
    path.write_bytes(b"".join([*whole[:2], torn]))
    finish(journal(work), 2)
    assert path.read_bytes() == right


def test_a_line_with_any_wrong_bit_is_dropped(work: Path) -> None:
    """All lines after it are dropped too, even if the changed line is valid JSON with another size."""
    path = work / "journal"
    finish(journal(work), 1, 2, 3)
    whole = path.read_bytes()
    first, second, third, _ = whole.splitlines(keepends=True)
    for at in range(len(first + second), len(first + second + third)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert set(read(str(path)).shards) == {"1.safetensors"}, at


def test_lines_after_a_damaged_one_stay_dropped(work: Path) -> None:
    """The new line is as long as the damaged one. Without truncation, the lines after it would count again."""
    path = work / "journal"
    made = journal(work)
    finish(made, 1, 2, 3)
    made.publishing()
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*whole[:2], whole[2].replace(b"sums", b"sumz"), *whole[3:]]))
    finish(journal(work), 2)
    state = read(str(path))
    assert set(state.shards) == {"1.safetensors", "2.safetensors"}
    assert not state.publishing


def test_short_writes_go_on_where_they_stopped(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    finish(journal(work), 1, 2)
    assert set(read(str(work / "journal")).shards) == {"1.safetensors", "2.safetensors"}


def test_shards_that_are_finished_at_once_each_get_a_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the disk is slow, so that the next shard is finished while a line is being synced."""
    monkeypatch.setattr(os, "fsync", lambda fd: time.sleep(0.001))
    made, ready = journal(work), threading.Barrier(4)

    def work_of(thread: int) -> None:
        ready.wait()
        finish(made, *range(thread * 5, thread * 5 + 5))

    threads = [threading.Thread(target=work_of, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(str(work / "journal")).shards == {f"{i}.safetensors": sums(i) for i in range(20)}
