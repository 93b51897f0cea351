"""What a command will read and write, how much space is free, and about how long it will take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import printable
from ..system.disk_speed import BLOCK, BLOCKS, read_speed, write_speed
from ..system.duration import show_about
from ..system.sizes import show_bytes
from . import space
from .space import Space

_WORTH_MEASURING = 16 * BLOCK * BLOCKS  # bytes; with fewer, the measure takes longer than it is worth


@dataclass(frozen=True)
class Forecast:
    """What a command will do, known before it starts.

    Attributes:
        bytes_read: bytes that it reads, each as often as it is read.
        spaces: what it writes to each file system, and the free space there. Empty: it writes nothing.
        files: the files that it reads.
        seconds: the time that the disks need for this, by a short measure; None if it was not measured.
        uploaded: bytes that are uploaded to the Hub afterwards.
        besides: what takes time in addition, such as "computing thresholds"; may be empty.
        twice: bytes that are read twice, the first time for `besides`.

    Example:
        >>> from mi_kernels.merge.forecast import Forecast
        >>> str(Forecast(8_040_000_000, [], ["model.safetensors"], seconds=7.2))
        'reads 8.04 GB, about 7 s at the speed of this disk'
    """

    bytes_read: int
    spaces: Sequence[Space]
    files: Sequence[str]
    seconds: float | None = None
    uploaded: int = 0
    besides: str = ""
    twice: int = 0

    @property
    def bytes_written(self) -> int:
        """The bytes that are written to all file systems."""
        return sum(s.written for s in self.spaces)

    @property
    def missing(self) -> bool:
        """True if a file system has too little free space."""
        return any(s.missing for s in self.spaces)

    def check(self) -> None:
        """Raises OutputError if a file system has too little free space."""
        space.check(self.spaces)

    def measured(self) -> Forecast:
        """Returns this forecast with the time, from a measure of the disks that takes at most some 0.3 s.

        A small job is not measured. What is in the page cache needs no time to be read. Reading and writing add up
        unless they use different disks.
        """
        if self.bytes_read + self.bytes_written < _WORTH_MEASURING:
            return self
        reading = writing = 0.0
        if self.bytes_read and self.files:
            speed = read_speed(self.files)
            if speed is None:
                return self
            reading = speed.seconds(self.bytes_read)
        for s in self.spaces:
            rate = write_speed(s.folder)
            if rate is None:
                return self
            writing = max(writing, s.written / rate)
        shared = {os.stat(path).st_dev for path in self.files} & {os.stat(s.folder).st_dev for s in self.spaces}
        return replace(self, seconds=reading + writing if shared else max(reading, writing))

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers in JSON types."""
        return {
            "bytes_read": self.bytes_read,
            "bytes_read_twice": self.twice,
            "bytes_written": self.bytes_written,
            "bytes_uploaded": self.uploaded,
            "disks": [{**s._asdict(), "missing": s.missing} for s in self.spaces],
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }

    def __str__(self) -> str:
        twice = f" ({show_bytes(self.twice)} twice, first for {self.besides})" if self.twice else ""
        parts = [f"reads {show_bytes(self.bytes_read)}{twice}"] if self.bytes_read or not self.spaces else []
        for s in self.spaces:
            models = f" ({s.outputs} outputs)" if s.outputs > 1 else ""
            short = f", {show_bytes(s.missing)} too little" if s.missing else ""
            free = f"{show_bytes(s.free)} free{short}"
            parts.append(f"writes {show_bytes(s.written)}{models} to {printable(s.folder)} ({free})")
        if self.seconds is not None:
            besides = f" and the time for {self.besides}" if self.besides else ""
            parts.append(f"{show_about(self.seconds)} at the speed of this disk{besides}")
        if self.uploaded:
            parts.append(f"then uploads {show_bytes(self.uploaded)}")
        return ", ".join(parts)


def reading(files: Sequence[str]) -> Forecast:
    """Returns the forecast of a command that reads whole files, and writes nothing. Missing files do not count."""
    present = [path for path in files if os.path.isfile(path)]
    return Forecast(sum(map(os.path.getsize, present)), [], present)
