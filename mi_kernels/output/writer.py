"""Writes one shard at given offsets: with direct I/O if the file system supports it, otherwise buffered."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ..errors import OutputError
from ..system.calls import PAGE, preallocate
from ..system.faults import naming

_DIRECT = getattr(os, "O_DIRECT", 0)  # not on macOS


class ShardFile:
    """A new file of `size` bytes. Several threads can write chunks in any order.

    Direct writes bypass the page cache: nothing is copied, nothing waits for write-back, and the inputs of the merge
    stay in the cache. They are the default because the time of buffered writes depends on the state of the page cache
    (measured in bench/README.md).

    Args:
        path: the file to create. It must not exist.
        size: bytes.
        io: "direct"; "buffered"; or "auto": direct if the file system supports it, otherwise buffered.

    Raises:
        OutputError: `io` is "direct" and the file system does not support it.
        OSError: the file cannot be created, or the disk is full.
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
        """Writes all of `data` at `offset`. `close` cuts off data after the end of the file."""
        while len(data):
            try:
                with naming(self._path):
                    written = os.pwrite(self._fd, data, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._leave_direct()  # some file systems accept O_DIRECT at open but reject the write
                continue
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), self._path)
            data, offset = data[written:], offset + written
            if len(data) and written % PAGE and self._direct:
                self._leave_direct()  # after a short write the offset is not aligned

    def close(self, sync: Callable[[int], None] = os.fsync) -> None:
        """Truncates the file to its exact size, syncs it with `sync` and closes it."""
        with naming(self._path):
            try:
                os.ftruncate(self._fd, self._size)
                sync(self._fd)
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Closes the file without truncating or syncing it. Does nothing if it is closed."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # first: a failing close still closes the descriptor
            os.close(fd)

    def _check_may_buffer(self) -> None:
        if self._io == "direct":
            raise OutputError(
                "the file system of the output does not support direct writes", "Use `io='auto'` or `io='buffered'`."
            )

    def _leave_direct(self) -> None:
        import fcntl

        self._check_may_buffer()
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~_DIRECT)
        self._direct = False
