"""A merge, planned: checked inputs, a source for each tensor, one or more outputs. `run` streams and publishes it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
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
from .options import Options
from .progress import progress_bar
from .stream import Plan, Source, plan_buffers, stream

_SPARE = 16 << 20  # bytes left free for the file system's own needs


@dataclass
class Report:
    """What a merge did.

    Attributes:
        out: the folder made.
        seconds: from the first check to the published folder; of the whole sweep where there are several outputs.
        bytes_read, bytes_written: of tensors and headers.
        tensors_interpolated, tensors_copied: their counts; copied ones have an input's bytes.
        shards: how many safetensors files were written.
        backend, isa, threads: what did the arithmetic.
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


def open_output(out: str | os.PathLike[str], models: Sequence[Checkpoint], options: Options) -> OutputFolder:
    """The folder `out`, which must touch none of `models`."""
    return OutputFolder(out, [path for m in models for path in (*m.roots, *m.files)], options.overwrite)


def run(
    models: Sequence[Checkpoint],
    alignment: Alignment,
    sources: dict[str, Source],
    outputs: Sequence[Output],
    options: Options,
    started: float,
) -> list[Report]:
    """Streams every output and publishes them; none is visible before all of them are whole.

    Args:
        models: the first one gives the layout of the shards.
        sources: by tensor; weights in the order of `outputs`.
        started: when the merge began, by time.perf_counter().

    Raises:
        OutputError: no space, or the disk failed; nothing is left behind.
    """
    shards, index = plan_shards(_output_tensors(alignment.rows, options.out_dtype), models[0], options.max_shard_size)
    small = [_small_files(models, output, alignment.untied, options, index) for output in outputs]
    size = sum(s.size for s in shards)
    _check_space(outputs, [size + sum(map(len, files.values())) for files in small])
    plan = Plan(shards, sources, [m.files for m in models])
    buffers = plan_buffers(options.thread_count, options.max_memory, len(outputs) + plan.computes)
    try:
        with ExitStack() as stack:
            for output in outputs:
                stack.enter_context(output.folder)
            on_bytes = stack.enter_context(progress_bar(options.progress, size * len(outputs)))
            folders = [output.folder.work for output in outputs]
            stream(plan, folders, buffers, direct=options.io != "buffered", on_bytes=on_bytes)
            for output, files in zip(outputs, small):
                for name, content in files.items():
                    output.folder.write_file(name, content)
            for output in outputs:
                output.folder.publish()
    except OSError as error:
        raise OutputError(
            f"{outputs[0].folder.given}: writing failed: {error.strerror or error}",
            "Nothing is left behind, the inputs are untouched.",
        ) from error
    return _reports(models, alignment, sources, outputs, shards, options, time.perf_counter() - started)


def _reports(
    models: Sequence[Checkpoint],
    alignment: Alignment,
    sources: dict[str, Source],
    outputs: Sequence[Output],
    shards: Sequence[OutputShard],
    options: Options,
    seconds: float,
) -> list[Report]:
    reports = []
    for i, output in enumerate(outputs):
        copied = sum(s.formula is None and s.weights[i] in (0, 1) for s in sources.values())
        reports.append(
            Report(
                out=output.folder.given,
                seconds=seconds,
                bytes_read=sum(s.inputs[k].nbytes for s in sources.values() for k in s.used()),
                bytes_written=sum(s.size for s in shards),
                tensors_interpolated=len(sources) - copied,
                tensors_copied=copied,
                shards=len(shards),
                backend="cpu",
                isa=cpu.isa(),
                threads=options.thread_count,
                notes=[note for m in models for note in m.notes] + alignment.notes,
            )
        )
    return reports


def _output_tensors(rows: list[Row], dtype: str | None) -> list[OutputTensor]:
    tensors = []
    for row in rows:
        first = row.inputs[0]
        out = dtype if dtype is not None and row.floating else first.dtype
        nbytes = first.elements * ITEM_SIZE[out] if row.floating else first.nbytes
        tensors.append(OutputTensor(row.name, out, first.shape, nbytes, first.shard))
    return tensors


def _small_files(
    models: Sequence[Checkpoint], output: Output, untied: bool, options: Options, index: dict[str, object] | None
) -> dict[str, bytes]:
    origin = models[-1] if options.copy_from == "thinking" else models[0]
    files = sidefiles.collect(origin)
    config = "config.json"
    if config in files:
        path = os.path.join(origin.root, config)
        files[config] = sidefiles.adjust_config(files[config], path, untied, options.out_dtype)
    files[sidefiles.RECORD] = sidefiles.encode_record(output.record)
    files["README.md"] = sidefiles.model_card(models, output.record, os.path.basename(output.folder.path))
    files.update(encode_index(index))
    return files


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
