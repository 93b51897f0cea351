"""Whether a file is still the one that was opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from ..errors import CheckpointError

_AGAIN = "Nothing was published, as it could be a mixture: run the same command again when the input is left alone."


class Stamp(NamedTuple):
    """What a file shows from outside when somebody has written or replaced it: at least one of these changes."""

    size: int  # bytes
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


class Content(NamedTuple):
    """What stands for the content of a file with weights wherever it is seen: no number that a machine gives it."""

    path: str  # absolute
    size: int  # bytes
    mtime_ns: int
    header: str  # SHA-256 of its header

    def difference(self, now: Content) -> str | None:
        """What tells the file that is there `now` from this one; None where nothing does."""
        for name, here, there in zip(self._fields, self, now):
            if here != there:
                return f"its {name} is {there}, not {here}"
        return None


def check_unchanged(stamps: Mapping[str, Stamp]) -> None:
    """Compares every file, by path, with its stamp of earlier.

    Raises:
        CheckpointError: a file has been written, replaced or removed since.
    """
    for path, then in stamps.items():
        try:
            now = Stamp.of(os.stat(path))
        except OSError as error:
            raise CheckpointError(f"{path}: is gone since it was opened: {error.strerror}", _AGAIN) from error
        if now != then:
            raise CheckpointError(f"{path}: {_difference(then, now)} since it was opened", _AGAIN)


def _difference(then: Stamp, now: Stamp) -> str:
    if (now.inode, now.device) != (then.inode, then.device):
        return "has been replaced by another file"
    if now.size != then.size:
        return f"has been changed, from {then.size} to {now.size} bytes,"
    return f"has been written (last at {datetime.fromtimestamp(now.mtime_ns / 1e9):%Y-%m-%d %H:%M:%S})"
