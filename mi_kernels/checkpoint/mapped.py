"""Files as memory: read where they are used, by as many threads as use them, and kept by nobody but the page cache."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

from ..errors import CheckpointError
from .tensor import TensorInfo


class MappedFile:
    """Context manager: a read-only map of a whole file, `data`, and its descriptor for read-ahead.

    Raises:
        CheckpointError: the file cannot be opened, or is empty.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.data = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)
            except BaseException:
                os.close(self.fd)
                raise
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be mapped: {error}", "Is it still there, and whole?") from error

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.data.close()
        os.close(self.fd)

    def check_length(self, t: TensorInfo) -> None:
        """A file may have changed since its header was read.

        Raises:
            CheckpointError: the file ends before the tensor `t` does.
        """
        if t.end > len(self.data):
            raise CheckpointError(f"{self.path}: has become shorter, {t.name} is cut off", "Download the model again.")

    def read_ahead(self, begin: int, end: int) -> None:
        """Asks the kernel to fetch a range while others compute."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with suppress(OSError):
                os.posix_fadvise(self.fd, begin, end - begin, os.POSIX_FADV_WILLNEED)
