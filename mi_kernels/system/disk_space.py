"""The free space of disks."""

from __future__ import annotations

import os
import shutil

SPARE = 16 << 20  # bytes that stay free for the file system itself


def existing_folder(path: str) -> str:
    """Returns the folder `path`, or the closest one above it that exists.

    >>> existing_folder("/no/such/folder")
    '/'
    """
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "."
    return path


def free_space(path: str) -> int:
    """Returns the free bytes of the file system that a folder is on, or would be on if it were created.

    Blocks that are reserved for root do not count.

    Raises:
        OSError: the file system does not answer.
    """
    return shutil.disk_usage(existing_folder(path)).free
