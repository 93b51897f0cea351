"""Which files a merge reads, so that it is noticed when they are no longer the same."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .checkpoint import Checkpoint
from .errors import CheckpointError


class FileIdentity(NamedTuple):
    """What stands for the content of a large file.

    Attributes:
        path: without links.
        size: in bytes.
        mtime_ns: the time of its last change, in nanoseconds.
        inode: its number in the file system: another one where a file was replaced.
        header: SHA-256 of its safetensors header.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    header: str

    def difference(self, other: FileIdentity) -> str | None:
        """What tells `other`, an earlier state, from this one; None where nothing does."""
        for name, was, now in zip(self._fields, other, self):
            if was != now:
                return f"its {name} is no longer {was}, but {now}"
        return None


def identify(models: Iterable[Checkpoint]) -> list[FileIdentity]:
    """The files with weights of all `models`, in their order.

    Raises:
        CheckpointError: one of them can no longer be read.
    """
    return [_identify(path) for model in models for path in model.files]


def check_same_content(seen: FileIdentity, where: str) -> None:
    """On another node of a cluster, whose paths without links and numbers of files may be its own.

    Args:
        seen: what the file was elsewhere. where: what this node is called.

    Raises:
        CheckpointError: the file at that path is another one here, or none.
    """
    here = _identify(seen.path)
    change = here.difference(seen._replace(path=here.path, inode=here.inode))
    if change is not None:
        raise CheckpointError(
            f"{seen.path}: is another file on {where}: {change}", "All nodes must share the storage of the inputs."
        )


def _identify(path: str) -> FileIdentity:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            length = file.read(8)
            header = file.read(struct.unpack("<Q", length)[0])
    except (OSError, struct.error, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}", "Is it still there, and whole?") from error
    digest = hashlib.sha256(length + header).hexdigest()
    return FileIdentity(os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino, digest)


def check_unchanged(files: Sequence[FileIdentity]) -> None:
    """After they were read.

    Raises:
        CheckpointError: one of them has changed since it was identified, so that nobody knows what was read.
    """
    for before in files:
        change = _identify(before.path).difference(before)
        if change is not None:
            raise CheckpointError(
                f"{before.path}: has changed while it was read: {change}",
                "Run the command again when nothing writes to it.",
            )
