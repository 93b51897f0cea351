"""The time of the disk alone: writes as many bytes as a model has from memory to disk. It reads and computes nothing.

python -m bench.programs.disk MODEL OUT

The fastest way we know: several direct writes of 4 MiB at once, into space that is reserved first.
"""

from __future__ import annotations

import mmap
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

CHUNK = 4 << 20
WRITERS = (os.cpu_count() or 1) + 4


def write(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_DIRECT", 0), 0o666)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)

    def every(first: int) -> None:
        memory = mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(AttributeError, OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:] = bytes([first + 1]) * CHUNK
        for at in range(first * CHUNK, size, WRITERS * CHUNK):
            os.pwrite(fd, memory, at)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(every, range(WRITERS)))
    os.ftruncate(fd, size)
    os.fsync(fd)
    os.close(fd)


def main(model: str, out: str) -> None:
    Path(out).mkdir()
    for file in sorted(Path(model).glob("*.safetensors")):
        write(Path(out) / file.name, file.stat().st_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
