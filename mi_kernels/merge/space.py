"""The free space that outputs need, by file system, and the refusal if one has too little."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import OutputError
from ..output.folder import OutputFolder
from ..system.disk_space import SPARE, free_space
from ..system.sizes import show_bytes


class Space(NamedTuple):
    """The space of one file system.

    Attributes:
        given: the first output on it, as the user wrote it.
        folder: the existing folder that the outputs are created in.
        outputs: the number of outputs on it.
        written: the bytes that are written to it.
        needed: the bytes that must be free.
        free: the bytes that are free.
    """

    given: str
    folder: str
    outputs: int
    written: int
    needed: int
    free: int

    @property
    def missing(self) -> int:
        """The bytes that are needed and not free; 0 if there is enough space."""
        return max(0, self.needed - self.free)


def spaces(folders: Sequence[OutputFolder], written: Sequence[int], needed: Sequence[int]) -> list[Space]:
    """Returns the space of each file system that has some of the outputs.

    Args:
        written: the bytes that are written to each output.
        needed: the free bytes that each output needs. It can be less, because an unfinished merge frees some.

    Raises:
        OSError: a file system does not answer.
    """
    # The outputs can be on different disks. Each disk must have space for the outputs on it.
    by_device: dict[int, list[int]] = {}
    for i, folder in enumerate(folders):
        by_device.setdefault(folder.device(), []).append(i)
    found = []
    for members in by_device.values():
        first = folders[members[0]]
        found.append(
            Space(
                given=first.given,
                folder=first.existing_parent(),
                outputs=len(members),
                written=sum(written[i] for i in members),
                needed=sum(needed[i] for i in members) + SPARE,
                free=first.free_space(),
            )
        )
    return found


def of_folder(path: str, written: int, needed: int) -> Space:
    """Returns the space of the file system of an existing folder.

    Args:
        written: the bytes that are written to it.
        needed: the most bytes that it holds at one time.

    Raises:
        OSError: the file system does not answer.
    """
    return Space(path, os.path.realpath(path), 1, written, needed + SPARE, free_space(path))


def check(found: Sequence[Space]) -> None:
    """Compares the space that is needed with the free space.

    Raises:
        OutputError: a file system has too little free space.
    """
    for space in found:
        if space.missing:
            models = f" for {space.outputs} outputs" if space.outputs > 1 else ""
            raise OutputError(
                f"{space.given}: the disk of {space.folder} needs {show_bytes(space.needed)} of free space{models}, "
                f"but has {show_bytes(space.free)}: {show_bytes(space.missing)} are missing",
                f"Free {show_bytes(space.missing)} there, or choose an output on another disk.",
            )
