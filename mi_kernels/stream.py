"""Streams tensors from memory-mapped shards through a few reusable buffers into new shards.

Memory is flat: each worker owns one page-aligned buffer of a chunk. It fills the buffer (header bytes, interpolated
elements, copies) straight from the maps, writes it at its place in the output file, and takes the next chunk. While one
worker waits for the disk the others read and compute, so reading, arithmetic and writing overlap without any further
machinery. Chunks follow file order, which keeps the kernel's read-ahead useful.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from .backends import cpu
from .checkpoint.layout import OutputShard
from .checkpoint.tensor import ITEM_SIZE, TensorInfo
from .checkpoint.writer import ShardFile
from .errors import ArgumentError, CheckpointError
from .system import PAGE, io_buffer

if TYPE_CHECKING:
    from ._cpu import Span

CHUNK = 4 << 20  # large enough to amortise a system call, small enough to stay in the last-level cache
DEFAULT_MEMORY = 128 << 20
_SPARE_WORKERS = 4  # so that cores compute while others wait for the disk


class Source(NamedTuple):
    """What one output tensor is made of: weight 0 copies `a`, 1 copies `b`, anything else interpolates."""

    a: TensorInfo
    b: TensorInfo
    weight: float


class Plan(NamedTuple):
    """Everything a stream needs: output shards, a source for each of their tensors, the input files of both sides."""

    shards: Sequence[OutputShard]
    sources: Mapping[str, Source]
    a_paths: Sequence[str]
    b_paths: Sequence[str]


class Buffers(NamedTuple):
    """How memory is used: bytes of a chunk and how many workers have one."""

    chunk: int
    workers: int


def plan_buffers(threads: int, max_memory: int | None) -> Buffers:
    """Buffers for `threads` computing threads, and two more that wait for the disk, within `max_memory` bytes.

    The default of 128 MiB is a limit; each worker uses 4 MiB of it.

    Raises:
        ArgumentError: `max_memory` is not enough for one smallest buffer.
    """
    memory = DEFAULT_MEMORY if max_memory is None else max_memory
    workers = threads + _SPARE_WORKERS
    if memory < PAGE:
        raise ArgumentError(
            f"max_memory is {memory} bytes", f"Give at least {PAGE}; {DEFAULT_MEMORY >> 20} MiB is usual."
        )
    chunk = min(CHUNK, memory // workers) // PAGE * PAGE
    if chunk == 0:
        chunk, workers = PAGE, memory // PAGE
    return Buffers(chunk, workers)


class _Chunk(NamedTuple):
    shard: int
    offset: int
    length: int


def stream(
    plan: Plan,
    folder: str,
    buffers: Buffers,
    *,
    direct: bool = True,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> None:
    """Writes every shard of `plan` into `folder`, durably.

    Args:
        buffers: how many workers stream, and the size of their chunks; see `plan_buffers`.
        direct: write past the page cache where the file system can.
        on_bytes: called with the number of bytes written, from any thread.

    Raises:
        OSError: a write failed.
        CheckpointError: an input can no longer be read.
    """
    with ExitStack() as stack:
        a_maps = [stack.enter_context(_Map(path)) for path in plan.a_paths]
        b_maps = [stack.enter_context(_Map(path)) for path in plan.b_paths]
        files = [ShardFile(os.path.join(folder, s.name), s.size, direct) for s in plan.shards]
        for file in files:
            stack.callback(file.abandon)
        work = _Work(plan, files, a_maps, b_maps, buffers, on_bytes)
        work.run()


class _Map:
    """A read-only map of a whole file (None for an empty one), and its descriptor for read-ahead."""

    def __init__(self, path: str) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.data = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be mapped: {error}", "Is it still there, and whole?") from error

    def __enter__(self) -> _Map:
        return self

    def __exit__(self, *_: object) -> None:
        self.data.close()
        os.close(self.fd)

    def read_ahead(self, begin: int, end: int) -> None:
        """Asks the kernel to fetch a range while others compute."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with suppress(OSError):
                os.posix_fadvise(self.fd, begin, end - begin, os.POSIX_FADV_WILLNEED)


class _Work:
    """One stream: the shared list of chunks and what workers do with them."""

    def __init__(
        self,
        plan: Plan,
        files: list[ShardFile],
        a_maps: list[_Map],
        b_maps: list[_Map],
        buffers: Buffers,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._plan, self._files, self._a, self._b, self._on_bytes = plan, files, a_maps, b_maps, on_bytes
        self._buffers = buffers
        self._isa = cpu.isa()
        self._ends = [[t.end for t in s.tensors] for s in plan.shards]
        self._chunks = self._all_chunks()
        self._left = [-(-s.size // buffers.chunk) for s in plan.shards]
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def run(self) -> None:
        total = sum(self._left)
        workers = [
            threading.Thread(target=self._worker, name=f"mi-kernels-{i}", daemon=True)
            for i in range(min(self._buffers.workers, total))
        ]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        except BaseException as interruption:  # Ctrl-C lands in the main thread, here
            self._fail(interruption)
            for worker in workers:
                if worker.ident is not None:
                    worker.join()
            raise
        if self._failure is not None:
            raise self._failure

    def _all_chunks(self) -> Iterator[_Chunk]:
        size = self._buffers.chunk
        for number, shard in enumerate(self._plan.shards):
            for offset in range(0, shard.size, size):
                yield _Chunk(number, offset, min(size, shard.size - offset))

    def _next(self) -> _Chunk | None:
        with self._lock:
            return None if self._failure is not None else next(self._chunks, None)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error

    def _worker(self) -> None:
        try:
            memory = io_buffer(self._buffers.chunk)
            ahead = self._next()
            while (chunk := ahead) is not None:
                ahead = self._next()
                if ahead is not None:
                    self._read_ahead(ahead)
                self._fill(memory, chunk)
                # Whole pages, for direct writing; what reaches beyond the shard's end is cut off at the close.
                self._files[chunk.shard].write(memory[: -(-chunk.length // PAGE) * PAGE], chunk.offset)
                self._on_bytes(chunk.length)
                self._finish(chunk)
        except BaseException as error:
            self._fail(error)

    def _finish(self, chunk: _Chunk) -> None:
        with self._lock:
            self._left[chunk.shard] -= 1
            last = self._left[chunk.shard] == 0
        if last:
            self._files[chunk.shard].close()

    def _pieces(self, chunk: _Chunk) -> Iterator[tuple[Source, TensorInfo, int, int]]:
        """The tensors in a chunk: (source, where it stands, first element, number of elements)."""
        tensors, end = self._plan.shards[chunk.shard].tensors, chunk.offset + chunk.length
        for i in range(bisect_right(self._ends[chunk.shard], chunk.offset), len(tensors)):
            t = tensors[i]
            if t.begin >= end:
                break
            begin, stop = max(t.begin, chunk.offset), min(t.end, end)
            item = ITEM_SIZE.get(t.dtype, 1)
            if stop > begin:
                yield self._plan.sources[t.name], t, (begin - t.begin) // item, (stop - begin) // item

    def _read_ahead(self, chunk: _Chunk) -> None:
        for source, _, first, count in self._pieces(chunk):
            for maps, t, used in ((self._a, source.a, source.weight != 1), (self._b, source.b, source.weight != 0)):
                if used:
                    item = ITEM_SIZE.get(t.dtype, 1)
                    maps[t.shard].read_ahead(t.begin + first * item, t.begin + (first + count) * item)

    def _fill(self, memory: memoryview, chunk: _Chunk) -> None:
        header = self._plan.shards[chunk.shard].header
        if chunk.offset < len(header):
            piece = header[chunk.offset : chunk.offset + chunk.length]
            memory[: len(piece)] = piece
        cpu.run_spans(list(self._spans(memory, chunk)), self._isa)

    def _spans(self, memory: memoryview, chunk: _Chunk) -> Iterator[Span]:
        for source, out, first, count in self._pieces(chunk):
            a, b, weight = source.a, source.b, source.weight
            at = out.begin + first * ITEM_SIZE.get(out.dtype, 1) - chunk.offset
            codes = [cpu.DTYPE_CODES.get(t.dtype, cpu.BYTES) for t in (out, a, b)]
            if cpu.BYTES in codes:  # a copy: count bytes, and let the side that is not read be the one that is
                item = ITEM_SIZE.get(out.dtype, 1)
                first, count, codes = first * item, count * item, [cpu.BYTES] * 3
            a_map, b_map = self._a[a.shard].data, self._b[b.shard].data
            if weight == 0:
                b, b_map, codes[2] = a, a_map, codes[1]
            elif weight == 1:
                a, a_map, codes[1] = b, b_map, codes[2]
            a_size, b_size = (cpu.ITEM_SIZES[code] for code in codes[1:])
            yield (
                memory, at, a_map, a.begin + first * a_size, b_map, b.begin + first * b_size,
                count, weight, codes[0], codes[1], codes[2],
            )  # fmt: skip
