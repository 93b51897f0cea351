"""Maps input files into memory, with a guard against SIGBUS. Any number of threads can read a map.

If a mapped file shrinks or its disk fails, reading it raises SIGBUS, which normally ends the process. The guard
(csrc/cpu/guard.h) gives the reader zeros instead and marks the map as damaged. `check` turns the mark into an error.
Always call `check` after reading a map and before using the result.

The map and its guard are one object that lives as long as any reference to it. If a `MappedFile` is not closed, or if a
reader keeps a view after it is closed, there is still never a guard without a map or a map without a guard.
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
    """Context manager: `data` is a guarded read-only map of the whole file, and empty after the context.

    Raises:
        CheckpointError: the file cannot be opened or mapped, or it is empty.
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
                with suppress(OSError):  # nothing was written, so the error does not matter
                    os.close(fd)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be mapped: {error.strerror}", remedy(error, reading=True)) from error
        except ValueError as error:
            raise CheckpointError(
                f"{path}: cannot be mapped: {error}", "Check the file: another program may have emptied it."
            ) from error
        self.data = memoryview(self._map)

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BufferError):  # a reader still has a view, which keeps the map alive
            self.data.release()  # now: frames in a traceback can keep `data` alive
        self.data, self._map = memoryview(b""), None

    def check_length(self, t: TensorInfo) -> None:
        """Checks that the file still contains tensor `t`. Remembers `t`, so that `check` can name it.

        Raises:
            CheckpointError: the file has become shorter and `t` is cut off.
        """
        if t.end > len(self.data):
            raise CheckpointError(f"{self.path}: has become shorter, {t.name} is cut off", "Download the model again.")
        self._tensors.append(t)

    def check(self) -> None:
        """Checks that all reads so far were good. Call it after reading and before using the data.

        Raises:
            CheckpointError: a part of the file could not be read. Names the first one.
        """
        if self._map is None or (at := self._map.damage) is None:
            return
        where = next((f"in {t.name} " for t in self._tensors if at < t.end), "")
        now = Stamp.of(os.fstat(self._map.fileno()))
        if now.size < self._stamp.size:
            raise CheckpointError(
                f"{self.path}: has become shorter while it was read, from {self._stamp.size:,} to {now.size:,} bytes; "
                f"reading {where}failed at byte {at}",
                f"Wait until the write is finished or download the model again, {_AGAIN}",
            )
        if now != self._stamp:
            raise CheckpointError(
                f"{self.path}: was written while it was read; reading {where}failed at byte {at}",
                f"Wait until the write is finished, {_AGAIN}",
            )
        raise CheckpointError(
            f"{self.path}: reading {where}failed at byte {at}: the disk or its network connection failed",
            f"Check the system log (dmesg) and copy the file to another disk, {_AGAIN}",
        )

    def read_ahead(self, begin: int, end: int) -> None:
        """Asks the operating system to prefetch bytes `begin` to `end` of the file."""
        if self._map is not None and hasattr(os, "posix_fadvise"):  # not on macOS
            with suppress(OSError):
                os.posix_fadvise(self._map.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)
