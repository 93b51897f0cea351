"""Detects whether a file has changed since it was opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from ..errors import CheckpointError

_AGAIN = "Nothing was published. Run the same command again when no other program writes to the input."


class Stamp(NamedTuple):
    """The state of a file. At least one of these values changes when the file is written or replaced."""

    size: int  # bytes
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


class Content(NamedTuple):
    """Identifies the content of a file with weights on any machine: no values that differ between machines."""

    path: str  # absolute
    size: int  # bytes
    mtime_ns: int
    header: str  # SHA-256 of the header, in hexadecimal

    def difference(self, now: Content) -> str | None:
        """Returns how the file `now` differs from this one; None if it does not."""
        for name, here, there in zip(self._fields, self, now):
            if here != there:
                return f"its {name} is {there}, not {here}"
        return None


def check_unchanged(stamps: Mapping[str, Stamp]) -> None:
    """Compares the present state of each file with its earlier stamp, by path.

    Raises:
        CheckpointError: a file was written, replaced or removed.
    """
    for path, then in stamps.items():
        try:
            now = Stamp.of(os.stat(path))
        except OSError as error:
            raise CheckpointError(f"{path}: is no longer readable: {error.strerror}", _AGAIN) from error
        if now != then:
            raise CheckpointError(f"{path}: {_difference(then, now)} since it was opened", _AGAIN)


def _difference(then: Stamp, now: Stamp) -> str:
    if (now.inode, now.device) != (then.inode, then.device):
        return "has been replaced by another file"
    if now.size != then.size:
        return f"has changed from {then.size:,} to {now.size:,} bytes"
    return f"has been written (last at {datetime.fromtimestamp(now.mtime_ns / 1e9):%Y-%m-%d %H:%M:%S})"
