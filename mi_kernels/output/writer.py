"""Positional writes into one shard: direct (past the page cache) where the file system can, else buffered."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ..errors import OutputError
from ..system.calls import PAGE, preallocate
from ..system.faults import naming

_DIRECT = getattr(os, "O_DIRECT", 0)  # not on macOS


class ShardFile:
    """A new file of `size` bytes; chunks may be written in any order, from several threads.

    `io` is "direct" (or fail), "buffered", or "auto": direct where the file system can.

    Direct writes skip the page cache: nothing is copied, nothing waits for write-back, and a merge does not push
    the inputs out of memory. They are the default because the time of buffered ones depends on the state of the page
    cache (bench/README.md has the measurement).
    """

    def __init__(self, path: str, size: int, io: str = "auto") -> None:
        self._size, self._io = size, io
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._direct = io != "buffered"
        try:
            if self._direct and not _DIRECT:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self._fd = os.open(path, flags | (_DIRECT if self._direct else 0), 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            self._check_may_buffer()
            self._direct = False
            self._fd = os.open(path, flags, 0o666)
        self._path = path
        try:
            with naming(path):
                preallocate(self._fd, size)
        except OSError:
            self.abandon()
            raise

    def write(self, data: memoryview, offset: int) -> None:
        """Writes all of `data` at `offset`. Data reaching beyond the file's end is cut off by `close`."""
        while len(data):
            try:
                with naming(self._path):
                    written = os.pwrite(self._fd, data, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._leave_direct()  # some file systems accept the flag and refuse the write
                continue
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), self._path)
            data, offset = data[written:], offset + written
            if len(data) and written % PAGE and self._direct:
                self._leave_direct()  # a short write left us unaligned

    def close(self, sync: Callable[[int], None] = os.fsync) -> None:
        """Sets the exact size, makes the file durable and closes it."""
        with naming(self._path):
            try:
                os.ftruncate(self._fd, self._size)
                sync(self._fd)
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Closes without any of it; harmless when closed already."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # first: closing may fail, and closes all the same
            os.close(fd)

    def _check_may_buffer(self) -> None:
        if self._io == "direct":
            raise OutputError(
                "direct writes were asked for, and this file system does not take them", "Use io 'auto' or 'buffered'."
            )

    def _leave_direct(self) -> None:
        import fcntl

        self._check_may_buffer()
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~_DIRECT)
        self._direct = False
