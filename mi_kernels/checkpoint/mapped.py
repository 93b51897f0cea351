"""Files as memory: read where they are used, by as many threads as use them, and kept by nobody but the page cache.

A file that becomes shorter while it is mapped, or a disk that fails, answers a read with SIGBUS, which ends a process.
Maps are guarded against it (csrc/cpu/guard.h): the reader gets zeros and the map a mark, which `check` turns into an
error. So whoever reads a map calls `check` afterwards, before anything of what was read is used.

A map and its guard are one object, which lives as long as anything refers to it: a `MappedFile` that is dropped instead
of closed, or a reader that still holds a view after it was closed, leaves neither a guard without a map nor a map
without a guard.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ..errors import CheckpointError
from ..system.faults import remedy
from .stamp import Stamp
from .tensor import TensorInfo

_AGAIN = "then run the same command again."


class MappedFile:
    """Context manager: a guarded read-only map of a whole file, `data`, empty after the context.

    Raises:
        CheckpointError: the file cannot be opened, or is empty.
    """

    def __init__(self, path: str) -> None:
        from .. import _cpu

        self.path = path
        self._tensors: list[TensorInfo] = []
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._stamp = Stamp.of(os.fstat(fd))
                self._map: _cpu.GuardedMap | None = _cpu.GuardedMap(fd)
            finally:
                with suppress(OSError):  # it was only read from
                    os.close(fd)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be mapped: {error.strerror}", remedy(error, reading=True)) from error
        except ValueError as error:
            raise CheckpointError(f"{path}: cannot be mapped: {error}", "Is it still there, and whole?") from error
        self.data = memoryview(self._map)

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BufferError):  # a reader still holds a part, and the map lasts until it lets go
            self.data.release()  # at once: the frames of an error's traceback refer to `data` for longer
        self.data, self._map = memoryview(b""), None

    def check_length(self, t: TensorInfo) -> None:
        """A file may have changed since its header was read. Remembers `t`, to name it where reading it fails.

        Raises:
            CheckpointError: the file ends before the tensor `t` does.
        """
        if t.end > len(self.data):
            raise CheckpointError(f"{self.path}: has become shorter, {t.name} is cut off", "Download the model again.")
        self._tensors.append(t)

    def check(self) -> None:
        """To be called after reading, before what was read is used.

        Raises:
            CheckpointError: a part of the file could not be read; names the first one.
        """
        if self._map is None or (at := self._map.damage) is None:
            return
        where = next((f"in {t.name} " for t in self._tensors if at < t.end), "")
        now = Stamp.of(os.fstat(self._map.fileno()))
        if now.size < self._stamp.size:
            raise CheckpointError(
                f"{self.path}: has become shorter while it was read, from {self._stamp.size} to {now.size} bytes; "
                f"reading {where}failed at byte {at}",
                f"Let whatever writes it finish, or download the model again; {_AGAIN}",
            )
        if now != self._stamp:
            raise CheckpointError(
                f"{self.path}: was written while it was read; reading {where}failed at byte {at}",
                f"Let whatever writes it finish; {_AGAIN}",
            )
        raise CheckpointError(
            f"{self.path}: reading {where}failed at byte {at}, and the file has kept its size: the disk or the network",
            f"See the system's log for its errors, bring the file to a sound disk; {_AGAIN}",
        )

    def read_ahead(self, begin: int, end: int) -> None:
        """Asks the kernel to fetch a range while others compute."""
        if self._map is not None and hasattr(os, "posix_fadvise"):  # not on macOS
            with suppress(OSError):
                os.posix_fadvise(self._map.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)
