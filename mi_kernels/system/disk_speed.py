"""A short measure of a disk: how fast it reads some files and writes to a folder, without the page cache.

Each measure takes at most some 0.15 s and 16 MB. It reads and writes like a merge does: some threads move aligned
blocks with direct I/O where the file system supports it. So the result is a hint, not a benchmark: a disk that is fast
only for its first gigabytes is slower in the end.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .calls import PAGE, io_buffer, preallocate

BLOCK = 1 << 20
BLOCKS = 16
LIMIT = 0.12  # seconds, after which no new block is started
_THREADS = 4
_DIRECT = getattr(os, "O_DIRECT", 0)  # not on macOS
_NAMELESS = getattr(os, "O_TMPFILE", 0)  # Linux


class ReadSpeed(NamedTuple):
    """How fast files are read.

    Attributes:
        cached: the share of the samples that the page cache holds, from 0 to 1. They need no disk.
        rate: bytes per second of the others; None if there are none.
    """

    cached: float
    rate: float | None

    def seconds(self, count: int) -> float:
        """Returns the expected time to read `count` bytes from the disk."""
        return 0.0 if self.rate is None else count * (1 - self.cached) / self.rate


def read_speed(files: Sequence[str], clock: Callable[[], float] = time.perf_counter) -> ReadSpeed | None:
    """Reads blocks from places that are spread evenly over `files`. Returns None if they cannot be measured."""
    opened: dict[str, int] = {}
    try:
        places = _places([(path, os.path.getsize(path)) for path in files])
        if not places:
            return None
        for path, _ in places:
            if path not in opened:
                opened[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        cold = [(path, offset) for path, offset in places if not _is_cached(opened[path], offset)]
        cached = 1 - len(cold) / len(places)
        if not cold:
            return ReadSpeed(cached, None)
        for path in {path for path, _ in cold}:
            os.close(opened.pop(path))
            opened[path] = _open_direct(path)

        def read(block: int, memory: memoryview) -> int:
            path, offset = cold[block]
            return os.preadv(opened[path], [memory], offset)

        rate = _rate(read, len(cold), clock)
        return None if rate is None else ReadSpeed(cached, rate)
    except OSError:
        return None
    finally:
        for fd in opened.values():
            os.close(fd)


def write_speed(folder: str, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Writes and syncs a file without a name in `folder`. Returns bytes per second; None if it cannot be measured.

    The file disappears when it is closed, also when the process is killed.
    """
    try:
        fd = _open_nameless(folder)
    except OSError:
        return None
    try:
        preallocate(fd, BLOCKS * BLOCK)
        content = os.urandom(BLOCK)  # a disk that compresses must not gain from it

        def write(block: int, memory: memoryview) -> int:
            memory[:] = content
            return os.pwrite(fd, memory, block * BLOCK)

        return _rate(write, BLOCKS, clock, lambda: os.fsync(fd))
    except OSError:
        return None
    finally:
        os.close(fd)


def _places(sizes: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns (path, offset) of at most `BLOCKS` whole blocks, spread evenly over the files."""
    whole = [(path, size // BLOCK) for path, size in sizes if size >= BLOCK]
    total = sum(count for _, count in whole)
    wanted = sorted({(2 * i + 1) * total // (2 * BLOCKS) for i in range(BLOCKS)}) if total else []
    found, before = [], 0
    for path, count in whole:
        found += [(path, (number - before) * BLOCK) for number in wanted if before <= number < before + count]
        before += count
    return found


def _is_cached(fd: int, offset: int) -> bool:
    """Returns whether the page cache holds the page at `offset`. False if the system cannot say."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return os.preadv(fd, [bytearray(PAGE)], offset, os.RWF_NOWAIT) > 0
    except OSError:
        return False


def _open_direct(path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | _DIRECT)
    except OSError:  # the file system does not support it
        return os.open(path, flags)


def _open_nameless(folder: str) -> int:
    if _NAMELESS:
        for extra in (_DIRECT, 0):
            try:
                return os.open(folder, _NAMELESS | os.O_WRONLY | os.O_CLOEXEC | extra, 0o600)
            except OSError:
                continue
    fd, path = tempfile.mkstemp(prefix=".mi-kernels-", dir=folder)
    os.unlink(path)  # before anything is written
    return fd


def _rate(
    move: Callable[[int, memoryview], int],
    blocks: int,
    clock: Callable[[], float],
    finish: Callable[[], None] = lambda: None,
) -> float | None:
    """Returns the bytes per second of `move(block, memory)` on a few threads, with the time of `finish`.

    Raises:
        OSError: a block cannot be moved.
    """
    numbers, moved, failures = itertools.count(), [0] * _THREADS, []
    begin = clock()

    def work(thread: int) -> None:
        memory = io_buffer(BLOCK)
        try:
            while (block := next(numbers)) < blocks and clock() - begin < LIMIT:
                moved[thread] += move(block, memory)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    finish()
    seconds = clock() - begin
    return sum(moved) / seconds if sum(moved) and seconds > 0 else None
