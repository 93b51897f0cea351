"""Computes the checksums of the files in a model folder: several threads read each byte once."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

from ..backends import cpu
from ..checkpoint.header import read_header
from ..checkpoint.subfolders import needed
from ..errors import CheckpointError
from ..system.faults import problem, reading_failed, remedy
from .accumulator import Accumulator, Extent, Layout
from .record import NAME, FileSum, Record, ShardSum

_CHUNK = 1 << 20  # small enough to stay in the L2 cache until its CRC is computed
_SPARE_WORKERS = 4  # extra threads, because some wait for the disk

OnBytes = Callable[[int], None]


def record_folder(
    root: str | os.PathLike[str], threads: int | None = None, on_bytes: OnBytes = lambda n: None
) -> Record:
    """Computes the checksums of all files in a model folder. The folder can be from any program.

    Args:
        root: the model folder.
        threads: number of threads; None chooses it.
        on_bytes: called with each number of bytes that were read.

    Raises:
        CheckpointError: the folder cannot be listed, a file cannot be read, or a shard is not valid safetensors.
    """
    sizes = file_sizes(os.fspath(root))
    layouts = [_layout(os.fspath(root), name, sizes[name]) for name in sorted(sizes) if name != NAME]
    sums = measure(os.fspath(root), layouts, threads, on_bytes)
    shards = {y.name: s for y, s in zip(layouts, sums) if _is_shard(y.name)}
    return Record(shards, {y.name: FileSum(s.size, s.crc) for y, s in zip(layouts, sums) if y.name not in shards})


def file_sizes(root: str, folders: Iterable[str] | None = None) -> dict[str, int]:
    """Returns the sizes of the files in a model folder, by path within it. Hidden files are skipped.

    Args:
        folders: the subfolders to include, with everything in them; None for those that belong to the model. Other
            subfolders are skipped, and so are links to folders.

    Raises:
        CheckpointError: a folder cannot be listed, or modules.json names a folder outside the model.
    """
    sizes: dict[str, int] = {}
    included = {folder.split("/")[0] for folder in (needed(root) if folders is None else folders)}
    todo = [""]
    while todo:
        inside = todo.pop()
        path = os.path.join(root, inside)
        try:
            for entry in os.scandir(path):
                name = f"{inside}/{entry.name}" if inside else entry.name
                if entry.name.startswith(".") or not os.path.exists(entry.path):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo += [name] if inside or name in included else []
                elif stat.S_ISREG((status := entry.stat()).st_mode):
                    sizes[name] = status.st_size
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be listed: {problem(error)}", remedy(error, reading=True)) from error
    return sizes


def measure(
    root: str, layouts: Sequence[Layout], threads: int | None = None, on_bytes: OnBytes = lambda n: None
) -> list[ShardSum]:
    """Computes the checksums of files in the folder `root`, in the order of `layouts`.

    Reads only the bytes that a layout describes; a file may be longer.

    Raises:
        CheckpointError: a file cannot be read, or it is shorter than its layout.
    """
    work = _Work(root, layouts, on_bytes)
    count = min(cpu.checked_threads(threads) + _SPARE_WORKERS, max(1, sum(y.size for y in layouts) // _CHUNK))
    helpers = [threading.Thread(target=work.run, daemon=True) for _ in range(count - 1)]
    try:
        for helper in helpers:
            helper.start()
        work.run()
        for helper in helpers:
            helper.join()
    except BaseException as interruption:  # Ctrl-C arrives here, in the main thread
        work.fail(interruption)
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
        raise
    if work.failure is not None:
        raise work.failure
    return [work.sums.shard(i) for i in range(len(layouts))]


class _Work:
    def __init__(self, root: str, layouts: Sequence[Layout], on_bytes: OnBytes) -> None:
        self._root, self._layouts, self._on_bytes = root, layouts, on_bytes
        self.sums = Accumulator(layouts)
        self.failure: BaseException | None = None
        self._chunks = self._all_chunks()
        self._lock = threading.Lock()

    def _all_chunks(self) -> Iterator[tuple[int, int, int]]:
        for number, layout in enumerate(self._layouts):
            for offset in range(0, layout.size, _CHUNK):
                yield number, offset, min(_CHUNK, layout.size - offset)

    def _next(self) -> tuple[int, int, int] | None:
        with self._lock:
            return None if self.failure is not None else next(self._chunks, None)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.failure = self.failure or error

    def run(self) -> None:
        try:
            memory = memoryview(bytearray(_CHUNK))
            with ExitStack() as stack:
                opened, current = None, -1
                while (chunk := self._next()) is not None:
                    number, offset, length = chunk
                    if number != current or opened is None:
                        stack.close()
                        opened, current = stack.enter_context(self._open(number)), number
                    self._read(opened, number, offset, memory[:length])
                    self.sums.add(number, offset, memory[:length])
                    self._on_bytes(length)
        except BaseException as error:
            self.fail(error)

    def _open(self, number: int) -> BinaryIO:
        path = self._path(number)
        try:
            return open(path, "rb", buffering=0)
        except OSError as error:
            raise reading_failed(error, path) from error

    def _read(self, file: BinaryIO, number: int, offset: int, memory: memoryview) -> None:
        try:
            file.seek(offset)
            done = 0
            while done < len(memory):
                count = file.readinto(memory[done:])  # type: ignore[attr-defined]
                if not count:
                    raise CheckpointError(
                        f"{self._path(number)}: has become shorter while it was read",
                        "Run the same command again when no other program writes to the file.",
                    )
                done += count
        except OSError as error:
            raise CheckpointError(
                f"{self._path(number)}: bytes {offset} to {offset + len(memory)} cannot be read: {problem(error)}",
                remedy(error, reading=True),
            ) from error

    def _path(self, number: int) -> str:
        return os.path.join(self._root, self._layouts[number].name)


def _is_shard(name: str) -> bool:
    """Returns whether a file is a shard of the model. Weights in a subfolder are recorded like other files."""
    return name.endswith(".safetensors") and "/" not in name


def _layout(root: str, name: str, size: int) -> Layout:
    if not _is_shard(name):
        return Layout(name, size, size, [])
    header = read_header(os.path.join(root, name), 0)
    tensors = [Extent(t.name, t.begin, t.end) for t in header.tensors]
    start = min((t.begin for t in tensors), default=header.stamp.size)
    return Layout(name, header.stamp.size, start, tensors)
