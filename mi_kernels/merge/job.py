"""A merge, planned: checked inputs, a source for each tensor, one or more outputs; then streamed and published."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ..backends import cpu
from ..checkpoint import differences
from ..checkpoint.alignment import Alignment, Row
from ..checkpoint.differences import Difference
from ..checkpoint.record import Checkpoint
from ..checksums.record import ShardSum
from ..dtypes import item_size
from ..errors import OutputError
from ..output import card, sidefiles
from ..output.folder import OutputFolder
from ..output.layout import OutputShard, OutputTensor, encode_index, plan_shards
from ..system import interrupts
from ..system.faults import writing_failed
from ..system.progress import progress_bar
from .findings import Values, Watch
from .options import Options
from .plan import Buffers, Plan, Source, plan_buffers
from .record import MergeRecord
from .resume import Work, publish, request_of
from .spans import Runner
from .stream import Request, Sink, stream

_SPARE = 16 << 20  # bytes left free for the file system's own needs


@dataclass
class Report:
    """What a merge did.

    Attributes:
        out: the folder made.
        seconds: from the first check to the published folder; of the whole sweep where there are several outputs.
        bytes_read: of the input tensors. bytes_written: of the shards, headers included. Without what a merge that was
            killed had finished.
        tensors_interpolated, tensors_copied: their counts; copied ones have an input's bytes.
        shards: how many safetensors files were written.
        backend, isa, threads: what did the arithmetic; with a GPU, isa and threads are those that fed it.
        device: "cpu", or the GPUs as "cuda:0,cuda:1".
        notes: oddities that were handled, and what was found in the values, a sentence each.
        values: what was found, tensor by tensor: `nonfinite`, `overflowed`, `identical`; see `merge.findings`.
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
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes read and written, in 10^9 bytes per second."""
        return (self.bytes_read + self.bytes_written) / self.seconds / 1e9

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gigabytes_per_second": round(self.gigabytes_per_second, 3)}


@dataclass(frozen=True)
class Output:
    """One folder to be made, and the record of how: what mi_kernels.json will hold.

    `card` is what only the model card says besides: "command", "sigma". It does not decide a byte of the weights.
    """

    folder: OutputFolder
    record: MergeRecord
    card: dict[str, Any] = field(default_factory=dict)


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

    def __post_init__(self) -> None:
        if self.options.strict:
            differences.refuse(self.outputs[0].folder.given, self._differences)

    def run(self, streamer: Callable[[Request, Sink], None] = stream) -> list[Report]:
        """Streams every output and publishes them; none is visible before all of them are whole.

        Args:
            streamer: what writes the shards, as `stream` does.

        Raises:
            ClusterError: the streamer's cluster failed; what was finished is kept.
            OutputError: no space, or the disk failed; nothing is left behind.
            StrictError: a strict merge met values that are not finite, or one model twice; nothing is left behind.
        """
        options, outputs = self.options, self.outputs
        if options.sigma:
            self._measure()
        notes = self.notes()  # of files that might not be there later
        shards, index = self.layout()
        small = [self.small_files(output, index) for output in outputs]
        plan = Plan(shards, self.sources, [m.files for m in self.models])
        buffers = plan_buffers(options.thread_count, options.max_memory, len(outputs) + plan.computes)
        try:
            with ExitStack() as stack:
                works = self._begin(stack, shards, small)
                todo = sum(work.left for work in works)
                on_bytes = stack.enter_context(progress_bar(options.progress, todo))
                watch = Watch(plan)

                def on_shard(output: int, shard: int, sums: ShardSum) -> None:
                    works[output].finish(shard, sums, watch.shard(shard, output))

                folders, finished = [output.folder.staged for output in outputs], [work.finished for work in works]
                request = Request(plan, folders, buffers, options.io, finished, self._runner(buffers))
                streamer(request, Sink(on_bytes=on_bytes, on_shard=on_shard, watch=watch))
                found = [Values.joined(work.values[i] for i in range(len(shards))) for work in works]
                if options.strict:
                    for output, values in zip(outputs, found):
                        values.refuse(output.folder.given, self._names())
                for model in self.models:
                    model.check_unchanged()
                for work, files in zip(works, small):
                    work.complete(files)
                with interrupts.held():  # all of them or none: a sweep appears whole or not at all
                    publish([output.folder for output in outputs])
        except OSError as error:
            raise self._failed(error) from error
        return [self._report(i, shards, works, notes, found[i]) for i in range(len(outputs))]

    def _failed(self, error: OSError) -> OutputError:
        folders = [output.folder for output in self.outputs]
        path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        hit = next((folder for folder in folders if folder.holds(path)), folders[0])
        return writing_failed(error, hit.given, [folder.given for folder in folders if folder.published])

    def _begin(self, stack: ExitStack, shards: list[OutputShard], small: Sequence[dict[str, bytes]]) -> list[Work]:
        """The work on each output, its folder locked and taken over. What refuses changes nothing."""
        outputs, options = self.outputs, self.options
        for output in outputs:
            stack.push(output.folder)  # before it is entered: an interruption finds no gap between the two
            output.folder.__enter__()
        works = []
        for i, output in enumerate(outputs):
            asked = {**output.record.asked(), **({"strict": True} if options.strict else {})}
            request = request_of(asked, self.models, shards, self.sources, i)
            works.append(Work(output.folder, request, shards, options.restart))
        for work, files in zip(works, small):
            work.verify(files, options.thread_count)
            work.folder.check_target()
        _check_space([work.folder for work in works], [w.needed(files) for w, files in zip(works, small)])
        for work in works:
            work.begin()
        return works

    def layout(self) -> tuple[list[OutputShard], dict[str, object] | None]:
        """The shards of every output, and the content of the index."""
        tensors = _output_tensors(self.alignment.rows, self.options.out_dtype)
        return plan_shards(tensors, self.models[0], self.options.max_shard_size)

    def _measure(self) -> None:
        """Records how far apart the two models are, for the card."""
        from ..compare.similarity import similarity_of

        found = similarity_of(self.models, threads=self.options.threads, progress=self.options.progress)
        for output in self.outputs:
            output.card["sigma"] = found.overall.sigma

    def _runner(self, buffers: Buffers) -> Callable[[], Runner] | None:
        """What makes the workers' runners: None for the CPU kernels."""
        place = self.options.place
        if not place.devices:
            return None
        from ..backends.gpu_runner import Runners

        runners = Runners(place.devices, place.backend, buffers.workers, len(self.outputs))
        return lambda: runners().run_groups

    def _report(
        self, i: int, shards: Sequence[OutputShard], works: Sequence[Work], notes: list[str], values: Values
    ) -> Report:
        # Read for any of the outputs, written for this one.
        read = [s for k, s in enumerate(shards) if any(k not in work.finished for work in works)]
        written = [s for k, s in enumerate(shards) if k not in works[i].finished]
        sources = [self.sources[t.name] for s in read for t in s.tensors]
        finished, all_shards = sum(len(work.finished) for work in works), len(shards) * len(works)
        resumed = [f"resumed: {finished} of {all_shards} shards were finished"] if finished else []
        copied = sum(s.formula is None and s.weights[i] in (0, 1) for s in self.sources.values())
        return Report(
            out=self.outputs[i].folder.given,
            seconds=time.perf_counter() - self.started,
            bytes_read=sum(s.inputs[k].nbytes for s in sources for k in s.used()),
            bytes_written=sum(s.size for s in written),
            tensors_interpolated=len(self.sources) - copied,
            tensors_copied=copied,
            shards=len(written),
            backend=self.options.place.backend,
            isa=cpu.isa(),
            threads=self.options.thread_count,
            notes=[*resumed, *notes, *values.notes(self._names())],
            device=",".join(self.options.place.devices) or "cpu",
            values=values.as_dict(self._names()),
        )

    def notes(self) -> list[str]:
        """Oddities that are handled, a sentence each."""
        notes = [note for m in self.models for note in m.notes] + self.alignment.notes
        if not self._origin().config:
            notes.append(f"{self._origin().source} has no config.json, so the output has none")
        return [*notes, *(d.text for d in self._differences), *self.options.place.notes]

    @cached_property
    def _differences(self) -> list[Difference]:
        return differences.between(self.models, self._origin(), self.alignment.untied)

    def _names(self) -> list[str]:
        return [model.source for model in self.models]

    def _origin(self) -> Checkpoint:
        """The model whose small files the output gets."""
        first = self.models[1 if self.has_base else 0]
        return {"thinking": self.models[-1], "instruct": first, "base": self.models[0]}[self.options.copy_from]

    def small_files(self, output: Output, index: dict[str, object] | None) -> dict[str, bytes]:
        """The files beside the shards, by name."""
        origin = self._origin()
        files = sidefiles.collect(origin)
        config = "config.json"
        if config in files:
            path = os.path.join(origin.root, config)
            files[config] = sidefiles.adjust_config(files[config], path, self.alignment.untied, self.options.out_dtype)
        files[sidefiles.RECORD] = output.record.encode()
        record = output.record
        facts = card.Facts(record.summary, record.numerics, record.version, **output.card)
        files["README.md"] = card.model_card(self.models, facts, os.path.basename(output.folder.path))
        files.update(encode_index(index))
        return files


def _output_tensors(rows: list[Row], dtype: str | None) -> list[OutputTensor]:
    tensors = []
    for row in rows:
        first = row.inputs[0]
        out = dtype if dtype is not None and row.floating else first.dtype
        nbytes = first.elements * item_size(out) if row.floating else first.nbytes
        tensors.append(OutputTensor(row.name, out, first.shape, nbytes, first.shard))
    return tensors


def _check_space(folders: Sequence[OutputFolder], sizes: list[int]) -> None:
    # Outputs may lie on several disks: each disk must hold its own.
    by_device: dict[int, list[int]] = {}
    for i, folder in enumerate(folders):
        by_device.setdefault(folder.device(), []).append(i)
    for members in by_device.values():
        first = folders[members[0]]
        needed, free = sum(sizes[i] for i in members) + _SPARE, first.free_space()
        if needed > free:
            raise OutputError(
                f"{first.given}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free",
                "Free some space, or choose another disk.",
            )
