"""A merge that is checked and planned, with a source for each tensor. `Job.run` writes and publishes its outputs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ..backends import cpu
from ..checkpoint import differences
from ..checkpoint.alignment import Alignment, Row
from ..checkpoint.differences import Difference
from ..checkpoint.record import Checkpoint
from ..checksums.record import ShardSum
from ..dtypes import TORCH_NAMES, item_size
from ..errors import ArgumentError, MismatchError, OutputError
from ..output import card, copied_files, sidefiles
from ..output.folder import OutputFolder
from ..output.layout import OutputShard, OutputTensor, encode_index, plan_file, plan_shards
from ..output.model_config import Written, adjusted
from ..system import interrupts
from ..system.faults import writing_failed
from ..system.progress import progress_bar, without_functions
from . import space
from .findings import Findings, Watch
from .forecast import Forecast
from .journal import MergeRequest
from .options import Options
from .plan import Buffers, Plan, Source, plan_buffers
from .record import MergeRecord
from .resume import ResumableWork, merge_request, publish
from .sources import unties
from .spans import Runner
from .staging import piece_sizes
from .stream import Request, Sink, stream

_CONFIG, _PARAMS = "config.json", "params.json"


@dataclass
class Report:
    """The result of a merge.

    Attributes:
        out: the folder or file that was created.
        seconds: the time from the first check to the published folder. For a sweep, the time of the whole sweep.
        bytes_read: bytes of the input tensors that were read. A resumed merge does not count finished shards.
        bytes_written: bytes of the shards that were written, headers included. Counted like `bytes_read`.
        tensors_interpolated: the number of tensors that were computed.
        tensors_copied: the number of tensors that have the bytes of an input.
        shards: the number of safetensors files that were written.
        backend, isa, threads: where the tensors were computed. With a GPU, `isa` and `threads` are those of the CPU
            that feeds it.
        notes: one sentence for each unusual thing in the inputs and each problem in the values.
        device: "cpu", or the GPUs, such as "cuda:0,cuda:1".
        values: the problems in the values for each tensor: `nonfinite`, `overflowed`, `identical`; see
            `mi_kernels.merge.findings`.

    Example:
        >>> import mi_kernels
        >>> report = mi_kernels.lerp_checkpoint("instruct", "thinking", "mi-0.5", lam=0.5, progress=False)
        >>> report.out, report.device, report.values["nonfinite"]
        ('mi-0.5', 'cpu', [])
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
        """The rate of reading and writing together, in 10^9 bytes per second."""
        return (self.bytes_read + self.bytes_written) / self.seconds / 1e9

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as values that JSON supports."""
        return {**asdict(self), "gigabytes_per_second": round(self.gigabytes_per_second, 3)}


@dataclass(frozen=True)
class Output:
    """One output.

    Attributes:
        folder: the folder or file to create.
        record: how the output is made, for mi_kernels.json.
        card: additional facts for the model card only: "command", "sigma", "repo", "origin". They have no effect on the
            tensors.
    """

    folder: OutputFolder
    record: MergeRecord
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A merge that is checked and planned, and ready to run.

    Attributes:
        models: the input models. The first one decides the layout of the shards.
        has_base: True if the first model is the base of task vectors.
        alignment: the tensors of all models, matched by name.
        sources: the Source of each output tensor, by name. The weights are in the order of `outputs`.
        outputs: the folders or files to create. They are of one kind.
        options: how the merge runs.
        started: time.perf_counter() at the start of the merge.
        recipe_notes: the notes of the recipe.
    """

    models: Sequence[Checkpoint]
    has_base: bool
    alignment: Alignment
    sources: dict[str, Source]
    outputs: Sequence[Output]
    options: Options
    started: float
    recipe_notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        lead = self.models[self.alignment.lead]
        if self.alignment.towers and not lead.config and self._origin().config and not self.single_file:
            raise MismatchError(
                f"{lead.source}: has vision or audio towers, but no config.json, and that of {self._origin().source} "
                "describes a model without them",
                "Add the config.json of the multimodal model.",
            )
        if self.single_file and self.options.shard_bytes:
            raise ArgumentError(
                f"{self.outputs[0].folder.given}: is one file, but `max_shard_size` is set",
                "Give a folder as output, or leave out the size.",
            )
        if self.options.strict:
            differences.refuse(self.outputs[0].folder.given, self.differences_found)

    @property
    def single_file(self) -> bool:
        """True if each output is one file instead of a folder."""
        return self.outputs[0].folder.single_file

    def run(self, streamer: Callable[[Request, Sink], None] = stream) -> list[Report]:
        """Writes all outputs, and publishes them when all of them are complete.

        Args:
            streamer: a function that writes the shards. It has the signature of `stream`.

        Raises:
            CheckpointError: an input changed during the merge, or can no longer be read.
            ClusterError: the cluster of the streamer failed. Finished shards are kept.
            OutputError: the disk has too little space, or a write failed. All work of this merge is removed.
            StrictError: a strict merge found non-finite values, or one model was passed twice. All work is removed.
        """
        options, outputs = self.options, self.outputs
        if options.sigma and self.single_file:
            raise ArgumentError(f"{outputs[0].folder.given}: has no model card for sigma", "Give a folder as output.")
        if options.sigma:
            self.forecast().check()  # before the slow part
            self._measure()
        notes = self.notes()  # now, because input files can disappear during the merge
        shards, index = self.layout()
        small = [self.small_files(output, index) for output in outputs]
        plan = Plan(shards, self.sources, [m.files for m in self.models])
        buffers = plan_buffers(options.thread_count, options.buffer_bytes, len(outputs) + plan.computes)
        try:
            with ExitStack() as stack:
                works = self._begin(stack, shards, small)
                total, left = len(works) * sum(s.size for s in shards), sum(work.left for work in works)
                label = "merging" if len(works) == 1 else f"merging {len(works)} models"
                on_bytes = stack.enter_context(
                    progress_bar(options.progress, total, label, done=total - left, then="syncing to disk")
                )
                watch = Watch(plan)

                def on_shard(output: int, shard: int, sums: ShardSum) -> None:
                    works[output].finish(shard, sums, watch.shard(shard, output))

                folders, finished = [output.folder.staged for output in outputs], [work.finished for work in works]
                runner = stack.enter_context(self._runner(plan, buffers))
                request = Request(plan, folders, buffers, options.io, finished, runner)
                streamer(request, Sink(on_bytes=on_bytes, on_shard=on_shard, watch=watch))
                findings = [Findings.joined(work.findings[i] for i in range(len(shards))) for work in works]
                if options.strict:
                    for output, found in zip(outputs, findings):
                        found.refuse(output.folder.given, self._names())
                for model in self.models:
                    model.check_unchanged()
                for work, files in zip(works, small):
                    work.complete(files)
                with interrupts.held():  # all of them or none: a sweep appears whole or not at all
                    publish([output.folder for output in outputs])
        except OSError as error:
            raise self._failed(error) from error
        return [self._report(i, shards, works, notes, findings[i]) for i in range(len(outputs))]

    def _failed(self, error: OSError) -> OutputError:
        folders = [output.folder for output in self.outputs]
        path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        hit = next((folder for folder in folders if folder.holds(path)), folders[0])
        return writing_failed(error, hit.given, [folder.given for folder in folders if folder.published])

    def _begin(
        self, stack: ExitStack, shards: list[OutputShard], small: Sequence[dict[str, bytes]]
    ) -> list[ResumableWork]:
        """Locks the folder of each output, and prepares the work on it. An error here changes no file."""
        outputs, options = self.outputs, self.options
        for output in outputs:
            stack.push(output.folder)  # before __enter__, so that an interruption between the two still unlocks it
            output.folder.__enter__()
        works = []
        for i, output in enumerate(outputs):
            works.append(ResumableWork(output.folder, self._request(i, shards), shards, options.restart))
        recorded = sum(work.recorded for work in works)
        shown = without_functions(options.progress) if recorded else False
        with progress_bar(shown, recorded, "checking finished shards") as on_bytes:
            for work, files in zip(works, small):
                work.verify(files, options.thread_count, on_bytes)
        for work in works:
            work.folder.check_target()
        space.check(_spaces(works, small))
        for work in works:
            work.begin()
        return works

    def _request(self, i: int, shards: list[OutputShard]) -> MergeRequest:
        asked = {**self.outputs[i].record.asked(), **({"strict": True} if self.options.strict else {})}
        return merge_request(asked, self.models, shards, self.sources, i)

    def forecast(self) -> Forecast:
        """Returns what `run` will read and write, and the free space.

        Reads no tensor, writes nothing and takes no lock. Shards of a killed merge count as finished if their files
        have the right size.

        Raises:
            OutputError: a file system does not answer.
        """
        shards, index = self.layout()
        works, small = [], []
        try:
            for i, output in enumerate(self.outputs):
                works.append(self._glance(i, shards))
                small.append(self.small_files(output, index))
            found = _spaces(works, small)
        except OSError as error:
            raise self._failed(error) from error
        bytes_read = self._bytes_read(shards, works) + sum(s.size for work in works for s in work.finished.values())
        files = [path for model in self.models for path in model.files]
        if not self.options.sigma:
            return Forecast(bytes_read, found, files)
        twice = sum(model.nbytes for model in self.models)
        return Forecast(bytes_read + twice, found, files, besides="measuring sigma", twice=twice)

    def _glance(self, i: int, shards: list[OutputShard]) -> ResumableWork:
        folder = self.outputs[i].folder
        nothing: MergeRequest = {}
        if os.path.exists(folder.journal) and not self.options.restart:
            try:
                work = ResumableWork(folder, self._request(i, shards), shards)
                work.glance()
                return work
            except OutputError:  # `run` refuses it, unless another process is writing it and ends in the meantime
                pass
        return ResumableWork(folder, nothing, shards, restart=True)

    def _bytes_read(self, shards: Sequence[OutputShard], works: Sequence[ResumableWork]) -> int:
        # A shard is read if any output needs it.
        read = [s for k, s in enumerate(shards) if any(k not in work.finished for work in works)]
        sources = [self.sources[t.name] for s in read for t in s.tensors]
        return sum(s.inputs[k].nbytes for s in sources for k in s.used())

    def layout(self) -> tuple[list[OutputShard], dict[str, object] | None]:
        """Returns the shards, which are the same for all outputs, and the content of the index."""
        return self._layout

    @cached_property
    def _layout(self) -> tuple[list[OutputShard], dict[str, object] | None]:
        lead = self.models[self.alignment.lead]
        if self.single_file:
            return plan_file(self._tensors, lead, [output.record.metadata() for output in self.outputs]), None
        return plan_shards(self._tensors, lead, self.options.shard_bytes, self._mistral)

    def _dtypes(self) -> list[str]:
        """Returns the dtypes of the output, by torch's names, the most frequent one first."""
        return [TORCH_NAMES.get(dtype, dtype) for dtype, _ in Counter(t.dtype for t in self._tensors).most_common()]

    @cached_property
    def _tensors(self) -> list[OutputTensor]:
        return _output_tensors(self.alignment.rows, self.options.out_dtype)

    def _measure(self) -> None:
        """Measures the distance between the two models for the model card."""
        from ..compare.similarity import similarity_of

        found = similarity_of(self.models, threads=self.options.threads, progress=self.options.progress)
        for output in self.outputs:
            output.card["sigma"] = found.overall.sigma

    def _runner(self, plan: Plan, buffers: Buffers) -> AbstractContextManager[Runner | None]:
        """Returns what computes the tensors. None: the CPU kernels."""
        place = self.options.place
        if not place.devices:
            return nullcontext()
        from ..backends.gpu_runner import runner_for

        needed, least = piece_sizes(plan, buffers.chunk, len(self.outputs))
        return runner_for(place.devices, place.backend, buffers.workers, needed, least)

    def _report(
        self,
        i: int,
        shards: Sequence[OutputShard],
        works: Sequence[ResumableWork],
        notes: list[str],
        findings: Findings,
    ) -> Report:
        # A shard is written if this output needs it.
        written = [s for k, s in enumerate(shards) if k not in works[i].finished]
        finished, all_shards = sum(len(work.finished) for work in works), len(shards) * len(works)
        resumed = [f"resumed: {finished} of {all_shards} shards were finished"] if finished else []
        copied = sum(s.copied_to(i) for s in self.sources.values())
        return Report(
            out=self.outputs[i].folder.given,
            seconds=time.perf_counter() - self.started,
            bytes_read=self._bytes_read(shards, works),
            bytes_written=sum(s.size for s in written),
            tensors_interpolated=len(self.sources) - copied,
            tensors_copied=copied,
            shards=len(written),
            backend=self.options.place.backend,
            isa=cpu.isa(),
            threads=self.options.thread_count,
            notes=[*resumed, *notes, *findings.notes(self._names())],
            device=",".join(self.options.place.devices) or "cpu",
            values=findings.as_dict(self._names()),
        )

    def notes(self) -> list[str]:
        """Returns one sentence for each unusual thing in the recipe and in the inputs that the merge handles."""
        notes = [*self.recipe_notes, *(note for m in self.models for note in m.notes), *self.alignment.notes]
        notes += self._untied_notes([] if self.single_file else notes)
        if not self.single_file:
            notes += self._origin_notes()
        surveyed = {model.root for model, _ in self._copied}
        notes += [note for _, copied in self._copied for note in copied.notes]
        others = {m.root: m for m in self.models if m.root not in surveyed}
        notes += [note for m in others.values() for note in copied_files.unused_adapter(m)]
        return [*notes, *(d.text for d in self.differences_found), *self.options.place.notes]

    def _origin_notes(self) -> list[str]:
        """Returns notes on the models that the small files come from, if it is not only the one that was asked for."""
        origin, asked_for = self._origin(), _asked_for(self.models, self.has_base, self.options)
        notes = []
        if origin is not asked_for:
            those = "those" if origin.config else "the small files"
            notes.append(
                f"{asked_for.source} is one file without config.json and tokenizer, so the output has {those} of "
                f"{origin.source}"
            )
        if self._config_of_lead:
            notes.append(
                f"the output has config.json of {self.models[self.alignment.lead].source}, because it has its vision "
                "or audio towers"
            )
        elif not origin.config and not self._describes_itself():
            notes.append(f"{origin.source} has no config.json, so the output has no config.json")
        return notes

    def _untied_notes(self, notes: Sequence[str]) -> list[str]:
        """Returns a note on a head that the output does not tie, unless `notes` have said it."""
        tie = self.alignment.tie
        if tie is None or any(tie.head in note for note in notes) or not any(map(self._untied, self._numbers)):
            return []
        if self.single_file:
            return ["the output stores its own lm_head: set tie_word_embeddings to false in its config.json"]
        return [f"{tie.head} and {tie.embedding} differ in the output, so its config.json does not tie them"]

    @property
    def _numbers(self) -> range:
        return range(len(self.outputs))

    @property
    def _config_of_lead(self) -> bool:
        """True if config.json must be that of the lead, because the others do not have all parts of the output."""
        lead = self.models[self.alignment.lead]
        return self.alignment.towers and bool(lead.config) and self._origin() is not lead

    @cached_property
    def differences_found(self) -> list[Difference]:
        settled = ["tie_word_embeddings"] * any(map(self._untied, self._numbers))
        settled += ["vocab_size"] * (self.alignment.vocabulary is not None)
        lead = self.models[self.alignment.lead] if self._config_of_lead else None
        found = differences.between(self.models, self._origin(), settled, lead)
        if not self.single_file:
            return found
        # The output has no small files: only what the tensors mean can differ.
        return [Difference(d.text.partition("; the output has ")[0], True) for d in found if d.serious]

    def _untied(self, output: int) -> bool:
        return unties(self.alignment, self.sources, output)

    @cached_property
    def _copied(self) -> list[tuple[Checkpoint, copied_files.CopiedFiles]]:
        """The models whose small files the outputs get, with these files. A single file gets none."""
        if self.single_file:
            return []
        origin = self._origin()
        found = [(origin, copied_files.survey(origin))]
        if self._config_of_lead:
            lead = self.models[self.alignment.lead]
            found.append((lead, copied_files.survey(lead, {*found[0][1].names} - {_CONFIG})))
        return found

    @cached_property
    def _content(self) -> dict[str, bytes]:
        """The content of the copied files. All outputs share it, because weights can be among them."""
        content: dict[str, bytes] = {}
        for model, copied in self._copied:  # config.json is that of the last one
            content.update(sidefiles.collect(model, copied.names))
        return content

    @cached_property
    def _mistral(self) -> bool:
        """True if the outputs have Mistral's names. Without params.json, loaders find only those of config.json."""
        names = {name for _, copied in self._copied for name in copied.names}
        return self.models[self.alignment.lead].mistral and (_PARAMS in names or _CONFIG not in names)

    def _names(self) -> list[str]:
        return [model.source for model in self.models]

    def _origin(self) -> Checkpoint:
        """Returns the model whose config, tokenizer and other small files are copied."""
        return origin_of(self.models, self.has_base, self.options)

    def _describes_itself(self) -> bool:
        """Returns True if the output is in Mistral's format and gets its params.json."""
        return self._mistral and any(_PARAMS in copied.names for _, copied in self._copied)

    def small_files(self, output: Output, index: dict[str, object] | None) -> dict[str, bytes]:
        """Returns the content of all files except the shards and the checksums, by name."""
        if self.single_file:
            return {}
        files = dict(self._content)
        path = os.path.join(self._copied[-1][0].root, _CONFIG)
        if _CONFIG in files:
            i = next(i for i, other in enumerate(self.outputs) if other is output)
            written = Written(self._tensors, self._untied(i), self.alignment.vocabulary)
            files[_CONFIG] = adjusted(files[_CONFIG], path, written)
        files[sidefiles.RECORD] = output.record.encode()
        facts = output.record.facts(self.models, dtypes=self._dtypes(), **output.card)
        files[card.NAME] = card.model_card(self.models, facts, os.path.basename(output.folder.path), files)
        files.update(encode_index(index, self._mistral))
        return files


def origin_of(models: Sequence[Checkpoint], has_base: bool, options: Options) -> Checkpoint:
    """Returns the one of `models`, the base first if there is one, whose small files the output gets.

    A file without a folder of its own has none. Then they come from the first model that has a folder.
    """
    asked_for = _asked_for(models, has_base, options)
    return next((m for m in (asked_for, *models) if not m.alone), asked_for)


def _asked_for(models: Sequence[Checkpoint], has_base: bool, options: Options) -> Checkpoint:
    first = 1 if has_base else 0
    if options.copy_number is not None:
        return models[first + options.copy_number - 1]
    return {"thinking": models[-1], "instruct": models[first], "base": models[0]}[options.copy_from]


def first_forecast(
    models: Sequence[Checkpoint], alignment: Alignment, folder: OutputFolder, options: Options, reads: str
) -> Forecast:
    """Returns a forecast of a merge that reads the tensors twice: first to plan it, and then to merge them.

    It takes all tensors of all models for read, and does not count small files. What is in the work folder counts as
    free space, because it is kept or removed.

    Args:
        reads: what the tensors are read for, see `methods.method.Method`.
    """
    written = sum(t.nbytes for t in _output_tensors(alignment.rows, options.out_dtype))
    try:
        found = space.spaces([folder], [written], [max(0, written - folder.used_space())])
    except OSError as error:
        raise writing_failed(error, folder.given) from error
    files = [path for model in models for path in model.files]
    twice = sum(model.nbytes for model in models)
    return Forecast(2 * twice, found, files, besides=f"computing {reads}", twice=twice)


def _spaces(works: Sequence[ResumableWork], small: Sequence[dict[str, bytes]]) -> list[space.Space]:
    folders, needed = [work.folder for work in works], [w.needed(files) for w, files in zip(works, small)]
    return space.spaces(folders, [w.left + sum(map(len, files.values())) for w, files in zip(works, small)], needed)


def _output_tensors(rows: list[Row], dtype: str | None) -> list[OutputTensor]:
    tensors = []
    for row in rows:
        first = row.inputs[0]
        out = dtype if dtype is not None and row.floating else first.dtype
        nbytes = first.elements * item_size(out) if row.floating else first.nbytes
        tensors.append(OutputTensor(row.name, out, first.shape, nbytes, row.shard))
    return tensors
