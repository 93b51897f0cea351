"""Streams tensors from memory-mapped shards through a few reusable buffers into new shards.

Memory is flat: each worker owns one page-aligned buffer of a chunk. It fills the buffer (header bytes, interpolated
elements, copies) straight from the maps, writes it at its place in the output file, and takes the next chunk. While one
worker waits for the disk the others read and compute, so reading, arithmetic and writing overlap without any further
machinery. Chunks follow file order, which keeps the kernel's read-ahead useful.

A virtual tensor (see `checkpoint.virtual`) is computed piece by piece into a scratch buffer, one more for each worker.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from .backends import cpu
from .checkpoint.layout import OutputShard
from .checkpoint.tensor import ITEM_SIZE, TensorInfo
from .checkpoint.virtual import Tensor
from .checkpoint.writer import ShardFile
from .errors import ArgumentError
from .inputs import Inputs, is_computed
from .system import PAGE, io_buffer

if TYPE_CHECKING:
    from ._cpu import CombineSpan, Formula, Operand, Span

Runner = Callable[[Sequence["Span"], int], None]  # as `cpu.run_groups` without its isa

CHUNK = 4 << 20  # large enough to amortise a system call, small enough to stay in the last-level cache
DEFAULT_MEMORY = 128 << 20
_BLOCK = 1 << 18  # elements of a virtual tensor at a time: its float32 values stay in the second-level cache
_SPARE_WORKERS = 4  # so that cores compute while others wait for the disk


class Source(NamedTuple):
    """What one output tensor is made of.

    Attributes:
        inputs: where each model holds it, model by model. Dtypes may differ; shapes do not.
        weights: one for each output: 0 copies inputs[0], 1 copies inputs[1], anything else interpolates the two.
        formula: instead of weights, how all inputs are combined into the one output; see `_cpu.pyi`.
    """

    inputs: tuple[Tensor, ...]
    weights: tuple[float, ...] = ()
    formula: Formula | None = None

    @property
    def copied(self) -> bool:
        """True when every output has the bytes of an input."""
        return self.formula is None and all(w in (0, 1) for w in self.weights)

    def used(self) -> list[int]:
        """The numbers of the models that are read."""
        if self.formula is not None:
            return list(range(len(self.inputs)))
        return [k for k, unused in ((0, 1), (1, 0)) if any(w != unused for w in self.weights)]

    def computed(self) -> list[int]:
        """The numbers of those models that are read whose tensor is computed into scratch memory."""
        return [k for k in self.used() if is_computed(self.inputs[k])]


class Plan(NamedTuple):
    """Everything a stream needs.

    Attributes:
        shards: the files of each output; all outputs are laid out alike.
        sources: a Source for each tensor of the shards.
        models: the files of each input model, by path.
    """

    shards: Sequence[OutputShard]
    sources: Mapping[str, Source]
    models: Sequence[Sequence[str]]

    @property
    def computes(self) -> bool:
        """True when workers need scratch memory."""
        return any(source.computed() for source in self.sources.values())


class Buffers(NamedTuple):
    """How memory is used: bytes of a chunk, and how many workers have one of them for each output."""

    chunk: int
    workers: int


def plan_buffers(threads: int, max_memory: int | None, outputs: int = 1) -> Buffers:
    """Buffers for `threads` computing threads, and four more that wait for the disk, within `max_memory` bytes.

    The default of 128 MiB is a limit; a worker uses 4 MiB of it for each output, or less where there are many. Scratch
    memory counts as one more output.

    Raises:
        ArgumentError: `max_memory` is not enough for one smallest buffer.
    """
    memory = DEFAULT_MEMORY if max_memory is None else max_memory
    if memory < PAGE * outputs:
        raise ArgumentError(
            f"max_memory is {memory} bytes", f"Give at least {PAGE * outputs}; {DEFAULT_MEMORY >> 20} MiB is usual."
        )
    workers = min(threads + _SPARE_WORKERS, memory // (PAGE * outputs))
    return Buffers(min(CHUNK, memory // (workers * outputs)) // PAGE * PAGE, workers)


class _Chunk(NamedTuple):
    shard: int
    offset: int
    length: int


def stream(
    plan: Plan,
    folders: Sequence[str],
    buffers: Buffers,
    *,
    io: str = "auto",
    on_bytes: Callable[[int], None] = lambda n: None,
    runner: Callable[[], Runner] | None = None,
) -> None:
    """Writes every shard of `plan` into each of `folders`, durably. The inputs are read once for all of them.

    Args:
        folders: one for each weight of the sources.
        buffers: how many workers stream, and the size of their chunks; see `plan_buffers`.
        io: how `checkpoint.writer.ShardFile` writes.
        on_bytes: called with the number of bytes written, from any thread.
        runner: makes what interpolates for one worker, in its thread; None for the CPU kernels. Formulas are theirs.

    Raises:
        OSError: a write failed.
        CheckpointError: an input can no longer be read, also where it fails half-way.
    """
    with ExitStack() as stack:
        inputs = stack.enter_context(Inputs(plan.models))
        for source in plan.sources.values():
            for k in source.used():
                inputs.check_length(k, source.inputs[k])
        files = _Files(plan.shards, folders, io)
        stack.callback(files.abandon)
        _Work(plan, files, inputs, buffers, on_bytes, runner).run()


class _Files:
    """The output files that are being written: opened at the first chunk, closed after the last one."""

    def __init__(self, shards: Sequence[OutputShard], folders: Sequence[str], io: str) -> None:
        self._shards, self._folders, self._io = shards, folders, io
        self._open: dict[int, list[ShardFile]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._folders)

    def of(self, shard: int) -> list[ShardFile]:
        """The files of one shard, one for each output."""
        with self._lock:
            if shard not in self._open:
                name, size = self._shards[shard].name, self._shards[shard].size
                self._open[shard] = []
                for folder in self._folders:
                    self._open[shard].append(ShardFile(os.path.join(folder, name), size, self._io))
            return self._open[shard]

    def close(self, shard: int) -> None:
        for file in self.of(shard):
            file.close()
        with self._lock:
            del self._open[shard]

    def abandon(self) -> None:
        for files in self._open.values():
            for file in files:
                with suppress(OSError):  # what ended the stream is what the user should read
                    file.abandon()


class _Work:
    """One stream: the shared list of chunks and what workers do with them."""

    def __init__(
        self,
        plan: Plan,
        files: _Files,
        inputs: Inputs,
        buffers: Buffers,
        on_bytes: Callable[[int], None],
        runner: Callable[[], Runner] | None,
    ) -> None:
        self._plan, self._files, self._inputs, self._buffers, self._on_bytes = plan, files, inputs, buffers, on_bytes
        self._isa = cpu.isa()
        self._runner = runner or (lambda: partial(cpu.run_groups, isa=self._isa))
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
            size = self._buffers.chunk
            memory = io_buffer(size * len(self._files))
            slots = [memory[i * size : (i + 1) * size] for i in range(len(self._files))]
            scratch = io_buffer(size) if self._plan.computes else memoryview(b"")
            run_groups = self._runner()
            ahead = self._next()
            while (chunk := ahead) is not None:
                ahead = self._next()
                if ahead is not None:
                    self._read_ahead(ahead)
                self._fill(slots, scratch, chunk, run_groups)
                self._inputs.check()
                # Whole pages, for direct writing; what reaches beyond the shard's end is cut off at the close.
                pages = -(-chunk.length // PAGE) * PAGE
                for slot, file in zip(slots, self._files.of(chunk.shard)):
                    file.write(slot[:pages], chunk.offset)
                    self._on_bytes(chunk.length)
                self._finish(chunk)
        except BaseException as error:
            self._fail(error)

    def _finish(self, chunk: _Chunk) -> None:
        with self._lock:
            self._left[chunk.shard] -= 1
            last = self._left[chunk.shard] == 0
        if last:
            self._files.close(chunk.shard)

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
            for k in source.used():
                self._inputs.read_ahead(k, source.inputs[k], first, count)

    def _fill(self, slots: list[memoryview], scratch: memoryview, chunk: _Chunk, run_groups: Runner) -> None:
        header = self._plan.shards[chunk.shard].header
        if chunk.offset < len(header):
            piece = header[chunk.offset : chunk.offset + chunk.length]
            for slot in slots:
                slot[: len(piece)] = piece
        lerps: list[Span] = []
        combines: list[CombineSpan] = []
        for source, out, begin, length in self._pieces(chunk):
            computed = source.computed()
            block = min(_BLOCK, len(scratch) // len(computed) // 4) if computed else length
            for first in range(begin, begin + length, block):
                count = min(block, begin + length - first)
                # One block behind the other, in the order of the models.
                memory = {k: scratch[4 * block * i : 4 * block * (i + 1)] for i, k in enumerate(computed)}
                operands = {
                    k: self._inputs.operand(k, source.inputs[k], first, count, memory.get(k)) for k in source.used()
                }
                at = out.begin + first * ITEM_SIZE.get(out.dtype, 1) - chunk.offset
                if source.formula is None:
                    lerps += _lerp_spans(slots, at, source, out, operands, count)
                else:
                    combines.append(_combine_span(slots[0], at, source.formula, out, operands, first, count))
                if computed:  # the next block needs the scratch memory
                    self._run(lerps, combines, len(slots), run_groups)
        self._run(lerps, combines, len(slots), run_groups)

    def _run(self, lerps: list[Span], combines: list[CombineSpan], group: int, run_groups: Runner) -> None:
        run_groups(lerps, group)
        cpu.run_combine(combines, self._isa)
        lerps.clear()
        combines.clear()


def _lerp_spans(
    slots: list[memoryview], at: int, source: Source, out: TensorInfo, operands: dict[int, Operand], count: int
) -> Iterator[Span]:
    code = cpu.DTYPE_CODES.get(out.dtype, cpu.BYTES)
    if code == cpu.BYTES:  # a copy: count bytes, not elements
        count *= ITEM_SIZE.get(out.dtype, 1)
    for slot, weight in zip(slots, source.weights):
        # The side that a copy does not read may be of another dtype, or bytes: let it be the side that is read.
        a = operands[1 if weight == 1 else 0]
        b = operands[0 if weight == 0 else 1]
        yield (slot, at, a[0], a[1], b[0], b[1], count, weight, code, a[2], b[2])


def _combine_span(
    slot: memoryview,
    at: int,
    formula: Formula,
    out: TensorInfo,
    operands: dict[int, Operand],
    first: int,
    count: int,
) -> CombineSpan:
    return (slot, at, cpu.DTYPE_CODES[out.dtype], list(operands.values()), count, first, formula)
