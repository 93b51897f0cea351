"""A merge, planned: checked inputs, a source for each tensor, one or more outputs; then streamed and published."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from . import sidefiles
from .alignment import Alignment, Row
from .backends import cpu
from .checkpoint import Checkpoint, OutputFolder, OutputShard, plan_shards
from .checkpoint.layout import OutputTensor, encode_index
from .checkpoint.tensor import ITEM_SIZE
from .errors import OutputError
from .faults import writing_failed
from .options import Options
from .progress import progress_bar
from .stream import Buffers, Plan, Runner, Source, plan_buffers, stream

_SPARE = 16 << 20  # bytes left free for the file system's own needs


@dataclass
class Report:
    """What a merge did.

    Attributes:
        out: the folder made.
        seconds: from the first check to the published folder; of the whole sweep where there are several outputs.
        bytes_read: of the input tensors. bytes_written: of the shards, headers included.
        tensors_interpolated, tensors_copied: their counts; copied ones have an input's bytes.
        shards: how many safetensors files were written.
        backend, isa, threads: what did the arithmetic; with a GPU, isa and threads are those that fed it.
        device: "cpu", or the GPUs as "cuda:0,cuda:1".
        notes: oddities that were handled, a sentence each.
    """

    out: str
    seconds: float
    bytes_read: int
    bytes_written: int
    tensors_interpolated: int
    tensors_copied: int
    shards: int
    backend: str
    isa: str
    threads: int
    notes: list[str] = field(default_factory=list)
    device: str = "cpu"

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes read and written, in 10^9 bytes per second."""
        return (self.bytes_read + self.bytes_written) / self.seconds / 1e9

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gigabytes_per_second": round(self.gigabytes_per_second, 3)}


@dataclass(frozen=True)
class Output:
    """One folder to be made, and the record of how: what mi_kernels.json will hold."""

    folder: OutputFolder
    record: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A merge that only has to be run.

    Attributes:
        models: the first one gives the layout of the shards.
        has_base: whether the first one is the base of task vectors.
        sources: by tensor; weights in the order of `outputs`.
        started: when the merge began, by time.perf_counter().
    """

    models: Sequence[Checkpoint]
    has_base: bool
    alignment: Alignment
    sources: dict[str, Source]
    outputs: Sequence[Output]
    options: Options
    started: float

    def run(self) -> list[Report]:
        """Streams every output and publishes them; none is visible before all of them are whole.

        Raises:
            OutputError: no space, or the disk failed; nothing is left behind.
        """
        options, outputs = self.options, self.outputs
        tensors = _output_tensors(self.alignment.rows, options.out_dtype)
        shards, index = plan_shards(tensors, self.models[0], options.max_shard_size)
        small = [self._small_files(output, index) for output in outputs]
        size = sum(s.size for s in shards)
        _check_space(outputs, [size + sum(map(len, files.values())) for files in small])
        plan = Plan(shards, self.sources, [m.files for m in self.models])
        buffers = plan_buffers(options.thread_count, options.max_memory, len(outputs) + plan.computes)
        try:
            with ExitStack() as stack:
                for output in outputs:
                    stack.enter_context(output.folder)
                on_bytes = stack.enter_context(progress_bar(options.progress, size * len(outputs)))
                folders = [output.folder.work for output in outputs]
                stream(plan, folders, buffers, io=options.io, on_bytes=on_bytes, runner=self._runner(buffers))
                for output, files in zip(outputs, small):
                    for name, content in files.items():
                        output.folder.write_file(name, content)
                for model in self.models:
                    model.check_unchanged()
                for output in outputs:  # all of them before the first: a sweep appears whole or not at all
                    output.folder.check_target()
                for output in outputs:
                    output.folder.publish()
        except OSError as error:
            published = [output.folder.given for output in outputs if output.folder.published]
            raise writing_failed(error, outputs[len(published) % len(outputs)].folder.given, published) from error
        return [self._report(i, shards) for i in range(len(outputs))]

    def _runner(self, buffers: Buffers) -> Callable[[], Runner] | None:
        """What makes the workers' runners: None for the CPU kernels."""
        place = self.options.place
        if not place.devices:
            return None
        from .backends.gpu_spans import Runners

        runners = Runners(place.devices, place.backend, buffers.workers, len(self.outputs))
        return lambda: runners().run_groups

    def _report(self, i: int, shards: Sequence[OutputShard]) -> Report:
        copied = sum(s.formula is None and s.weights[i] in (0, 1) for s in self.sources.values())
        return Report(
            out=self.outputs[i].folder.given,
            seconds=time.perf_counter() - self.started,
            bytes_read=sum(s.inputs[k].nbytes for s in self.sources.values() for k in s.used()),
            bytes_written=sum(s.size for s in shards),
            tensors_interpolated=len(self.sources) - copied,
            tensors_copied=copied,
            shards=len(shards),
            backend=self.options.place.backend,
            isa=cpu.isa(),
            threads=self.options.thread_count,
            notes=self.notes(),
            device=",".join(self.options.place.devices) or "cpu",
        )

    def notes(self) -> list[str]:
        """Oddities that are handled, a sentence each."""
        notes = [note for m in self.models for note in m.notes] + self.alignment.notes
        if not self._origin().config:
            notes.append(f"{self._origin().source} has no config.json, so the output has none")
        return [*notes, *self.options.place.notes]

    def _origin(self) -> Checkpoint:
        """The model whose small files the output gets."""
        first = self.models[1 if self.has_base else 0]
        return {"thinking": self.models[-1], "instruct": first, "base": self.models[0]}[self.options.copy_from]

    def _small_files(self, output: Output, index: dict[str, object] | None) -> dict[str, bytes]:
        origin = self._origin()
        files = sidefiles.collect(origin)
        config = "config.json"
        if config in files:
            path = os.path.join(origin.root, config)
            files[config] = sidefiles.adjust_config(files[config], path, self.alignment.untied, self.options.out_dtype)
        files[sidefiles.RECORD] = sidefiles.encode_record(output.record)
        files["README.md"] = sidefiles.model_card(self.models, output.record, os.path.basename(output.folder.path))
        files.update(encode_index(index))
        return files


def _output_tensors(rows: list[Row], dtype: str | None) -> list[OutputTensor]:
    tensors = []
    for row in rows:
        first = row.inputs[0]
        out = dtype if dtype is not None and row.floating else first.dtype
        nbytes = first.elements * ITEM_SIZE[out] if row.floating else first.nbytes
        tensors.append(OutputTensor(row.name, out, first.shape, nbytes, first.shard))
    return tensors


def _check_space(outputs: Sequence[Output], sizes: list[int]) -> None:
    # Outputs may lie on several disks: each disk must hold its own.
    by_device: dict[int, list[int]] = {}
    for i, output in enumerate(outputs):
        by_device.setdefault(output.folder.device(), []).append(i)
    for members in by_device.values():
        folder = outputs[members[0]].folder
        needed, free = sum(sizes[i] for i in members) + _SPARE, folder.free_space()
        if needed > free:
            raise OutputError(
                f"{folder.given}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free",
                "Free some space, or choose another disk.",
            )
