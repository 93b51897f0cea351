"""Streams tensors from memory-mapped shards through a few reusable buffers into new shards.

Memory use does not depend on the size of the model. Each worker has one page-aligned buffer of one chunk for each
output. It fills the buffer with header bytes, interpolated elements and copies from the mapped inputs, writes it at its
offset in the output file, and takes the next chunk. While one worker waits for the disk, others read and compute, so
that reading, computing and writing overlap. Chunks are in file order, which suits the read-ahead of the operating
system.

A virtual tensor (see `checkpoint.virtual`) is computed piece by piece into an additional scratch buffer of the worker,
by the CPU also if a GPU merges it.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple, Protocol

from ..backends import cpu
from ..checkpoint.inputs import Inputs
from ..checkpoint.tensor import TensorInfo
from ..checksums.accumulator import Accumulator
from ..checksums.record import ShardSum
from ..dtypes import item_size
from ..output.layout import checksum_layout
from ..output.writer import ShardFile
from ..system import interrupts
from ..system.calls import PAGE, io_buffer
from .findings import OutputChunk, Watch
from .plan import Buffers, Plan, Source
from .spans import CpuRunner, Filler, Runner

OnShard = Callable[[int, int, ShardSum], None]  # (number of the output, number of the shard, checksums)


class ShardWriter(Protocol):
    """Takes the bytes of one shard: `output.writer.ShardFile`, or what `Sink.open` returns instead."""

    def write(self, data: memoryview, offset: int) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


class Request(NamedTuple):
    """What a stream writes, and how.

    Attributes:
        plan: the shards, and how each tensor is computed.
        folders: the folder of each output. The weights of the sources are in the same order.
        buffers: the number of workers and the size of their chunks; see `plan_buffers`.
        io: how `output.writer.ShardFile` writes.
        finished: for each folder, the numbers of the shards that are already finished.
        runner: computes the tensors, for all workers. None: the CPU kernels.
    """

    plan: Plan
    folders: Sequence[str]
    buffers: Buffers
    io: str = "auto"
    finished: Sequence[Collection[int]] = ()
    runner: Runner | None = None


class Sink(NamedTuple):
    """Who takes the results of a stream. Any thread of the stream may call the functions.

    Attributes:
        open: opens one shard. Called with (path, size in bytes, io).
        on_bytes: called with the number of bytes of each write.
        on_shard: called when a shard is closed and synced. None: no checksums are computed.
        watch: checks the values of every chunk, before `on_shard` is called for the shard. Needs `on_shard`.
    """

    open: Callable[[str, int, str], ShardWriter] = ShardFile
    on_bytes: Callable[[int], None] = lambda count: None
    on_shard: OnShard | None = None
    watch: Watch | None = None


class _Chunk(NamedTuple):
    shard: int
    offset: int
    length: int


def stream(request: Request, sink: Sink | None = None) -> None:
    """Writes every shard of a plan into each folder, and syncs it. Reads the inputs once for all folders.

    Args:
        request: what to write, and how.
        sink: who takes the results. None: write files, and report nothing.

    Raises:
        OSError: a write failed.
        CheckpointError: an input can no longer be read. This can happen in the middle of the stream.
    """
    sink = sink or Sink()
    plan = request.plan
    with ExitStack() as stack:
        inputs = stack.enter_context(Inputs(plan.models))
        for source in plan.sources.values():
            for k in source.used():
                inputs.check_length(k, source.inputs[k])
        files = _Files(request, sink)
        stack.callback(files.abandon)
        _Stream(request, sink, files, inputs).run()


class _Files:
    """The output files that are open. A shard is opened before its first chunk and closed after its last one."""

    def __init__(self, request: Request, sink: Sink) -> None:
        self._shards, self._folders = request.plan.shards, request.folders
        self._io, self._sink = request.io, sink
        self._open: dict[int, list[ShardWriter]] = {}
        self._lock = threading.Lock()
        # For each shard, the numbers of the folders in which it is not finished.
        outputs = range(len(request.folders))
        self.wanted = [
            [i for i in outputs if not request.finished or number not in request.finished[i]]
            for number in range(len(self._shards))
        ]

    def __len__(self) -> int:
        return len(self._folders)

    def of(self, shard: int) -> list[ShardWriter]:
        """Returns the files of one shard, one for each folder that needs it. Opens them at the first call."""
        with self._lock:
            if shard not in self._open:
                name, size = self._shards[shard].name, self._shards[shard].size
                self._open[shard] = []
                for i in self.wanted[shard]:
                    self._open[shard].append(self._sink.open(os.path.join(self._folders[i], name), size, self._io))
            return self._open[shard]

    def close(self, shard: int) -> None:
        for file in self.of(shard):
            file.close()
        with self._lock:
            del self._open[shard]

    def abandon(self) -> None:
        for files in self._open.values():
            for file in files:
                with suppress(OSError):  # the user should see the error that ended the stream
                    file.abandon()


class _Stream:
    """One run of `stream`: the list of chunks that the workers share, and what a worker does with a chunk."""

    def __init__(self, request: Request, sink: Sink, files: _Files, inputs: Inputs) -> None:
        plan, buffers = request.plan, request.buffers
        self._plan, self._files, self._inputs, self._buffers, self._sink = plan, files, inputs, buffers, sink
        self._runner, self._computes = request.runner or CpuRunner(cpu.isa()), plan.computes
        self._ends = [[t.end for t in s.tensors] for s in plan.shards]
        self._chunks = self._all_chunks()
        self._left = [-(-s.size // buffers.chunk) if to else 0 for s, to in zip(plan.shards, files.wanted)]
        self._sums = [Accumulator(map(checksum_layout, plan.shards)) for _ in range(len(files))]
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._running = 0
        self._ended = threading.Event()

    def run(self) -> None:
        total = sum(self._left)
        workers = [
            threading.Thread(target=self._worker, name=f"mi-kernels-{i}", daemon=True)
            for i in range(min(self._buffers.workers, total))
        ]
        self._running = len(workers)
        started: list[threading.Thread] = []
        try:
            with interrupts.held():
                for worker in workers:
                    worker.start()
                    started.append(worker)
            if started:
                self._ended.wait()  # not join: if Ctrl-C ends it, Python can take a running thread for finished
        except BaseException as interruption:  # Python raises Ctrl-C in the main thread, which waits here
            self._fail(interruption)
            raise
        finally:
            with interrupts.held():  # workers must not write after the folder is cleaned up
                for worker in started:
                    worker.join()
        if self._failure is not None:
            raise self._failure

    def _all_chunks(self) -> Iterator[_Chunk]:
        size = self._buffers.chunk
        for number, shard in enumerate(self._plan.shards):
            for offset in range(0, shard.size if self._files.wanted[number] else 0, size):
                yield _Chunk(number, offset, min(size, shard.size - offset))

    def _next(self) -> _Chunk | None:
        with self._lock:
            return None if self._failure is not None else next(self._chunks, None)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error

    def _worker(self) -> None:
        try:
            size = self._buffers.chunk
            memory = io_buffer(size * len(self._files))
            slots = [memory[i * size : (i + 1) * size] for i in range(len(self._files))]
            scratch = io_buffer(size) if self._computes else memoryview(b"")
            filler = Filler(self._inputs, scratch, self._runner)
            ahead = self._next()
            while (chunk := ahead) is not None:
                ahead = self._next()
                if ahead is not None:
                    self._read_ahead(ahead)
                wanted = self._files.wanted[chunk.shard]
                used = slots[: len(wanted)]
                self._fill(used, chunk, filler)
                nonfinite = []
                if self._sink.on_shard is not None:
                    for slot, output in zip(used, wanted):  # now, while the bytes are in the caches
                        nonfinite.append(self._sums[output].add(chunk.shard, chunk.offset, slot[: chunk.length]))
                if self._sink.watch is not None:
                    written = [OutputChunk(*parts) for parts in zip(wanted, used, nonfinite)]
                    self._sink.watch.look(written, chunk.offset, self._pieces(chunk), self._inputs)
                self._inputs.check()
                # Direct writes need whole pages. `close` truncates what extends past the end of the shard.
                pages = -(-chunk.length // PAGE) * PAGE
                for slot, file in zip(used, self._files.of(chunk.shard)):
                    file.write(slot[:pages], chunk.offset)
                    self._sink.on_bytes(chunk.length)
                self._finish(chunk)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._ended.set()

    def _finish(self, chunk: _Chunk) -> None:
        with self._lock:
            self._left[chunk.shard] -= 1
            last = self._left[chunk.shard] == 0
        if not last:
            return
        self._files.close(chunk.shard)
        if self._sink.on_shard is not None:
            for output in self._files.wanted[chunk.shard]:
                self._sink.on_shard(output, chunk.shard, self._sums[output].shard(chunk.shard))

    def _pieces(self, chunk: _Chunk) -> Iterator[tuple[Source, TensorInfo, int, int]]:
        """Yields the tensors in a chunk: (source, place in the output, first element, number of elements)."""
        tensors, end = self._plan.shards[chunk.shard].tensors, chunk.offset + chunk.length
        for i in range(bisect_right(self._ends[chunk.shard], chunk.offset), len(tensors)):
            t = tensors[i]
            if t.begin >= end:
                break
            begin, stop = max(t.begin, chunk.offset), min(t.end, end)
            item = item_size(t.dtype)
            if stop > begin:
                for source, first, count in self._plan.sources[t.name].split(
                    (begin - t.begin) // item, (stop - begin) // item
                ):
                    yield source, t, first, count

    def _read_ahead(self, chunk: _Chunk) -> None:
        self._inputs.read_ahead(
            (k, source.inputs[k], first, count)
            for source, _, first, count in self._pieces(chunk)
            for k in source.used()
        )

    def _fill(self, slots: list[memoryview], chunk: _Chunk, filler: Filler) -> None:
        shard, wanted = self._plan.shards[chunk.shard], self._files.wanted[chunk.shard]
        if chunk.offset < len(shard.header):
            for slot, output in zip(slots, wanted):
                piece = shard.header_of(output)[chunk.offset : chunk.offset + chunk.length]
                slot[: len(piece)] = piece
        for source, out, first, count in self._pieces(chunk):
            weighted = source.formula is None and source.kept is None
            weights = [source.weights[i] for i in wanted] if weighted else ()
            at = out.begin + first * item_size(out.dtype) - chunk.offset
            filler.add(slots, at, source, weights, out, first, count)
        filler.flush(len(slots))
