"""Check that a model folder is the merge that its mi_kernels.json records: merge again in memory, and compare."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..checkpoint.open import open_checkpoint
from ..checksums.damage import Damage
from ..dtypes import TORCH_NAMES
from ..errors import ArgumentError, CheckpointError, MIKernelsError, MismatchError
from ..merge.job import Job
from ..merge.options import Options
from ..merge.plan import Plan, plan_buffers
from ..merge.record import LERP, MergeRecord, difference, incomplete, read_record
from ..merge.record import given as how_given
from ..merge.stream import Request, Sink, stream
from ..output.sidefiles import RECORD
from ..recipe.interpolation import Recipe
from ..system.progress import Progress, progress_bar, without_functions
from .second_writer import Comparison, Difference

_OWN_FILES = (RECORD, "README.md")  # not compared, because they contain versions and paths


@dataclass
class Recomputation:
    """The result of merging again and comparing.

    Attributes:
        tensors: the number of tensors computed and compared.
        bytes: the size of the shards computed and compared.
        seconds: the time from the first check to the last comparison.
        differences: one entry for each tensor, header or file that differs, in the order of the files.
        notes: sentences for the user, for example that a model is not the recorded one.
    """

    tensors: int = 0
    bytes: int = 0
    seconds: float = 0.0
    differences: list[Damage | Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.differences

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "right": self.right}


def recompute_merge(
    root: str,
    models: Sequence[str | os.PathLike[str]] = (),
    threads: int | None = None,
    progress: Progress = True,
) -> Recomputation:
    """Repeats the merge that made `root` in memory, and compares shards, index and copied files. Writes nothing.

    Memory use is the same as for a merge: see `mi_kernels.merge.stream`.

    Args:
        root: the folder of a merge, with mi_kernels.json.
        models: folders or Hub ids of the merged models, in the order of mi_kernels.json (base first). If empty, the
            models that mi_kernels.json names.
        threads, progress: as in `verify_checkpoint`.

    Raises:
        CheckpointError: `root` has no valid mi_kernels.json, or a file cannot be read.
        MIKernelsError: the models cannot be merged as mi_kernels.json says.
    """
    started = time.perf_counter()
    record = read_record(root)
    if record is None:
        raise CheckpointError(
            f"{os.path.join(root, RECORD)}: missing, so the merge to compute again is unknown",
            "Pass a folder that mi_kernels merged, or leave out `recompute` to compare checksums only.",
        )
    found = Recomputation()
    settings = {"threads": threads, "progress": without_functions(progress)}
    job = _job(root, record, [os.fspath(m) for m in models], settings, found.notes)
    shards, index = job.layout()
    plan = Plan(shards, job.sources, [m.files for m in job.models])
    found.tensors, found.bytes = len(job.sources), sum(s.size for s in shards)
    comparison = Comparison(root, shards)
    with progress_bar(progress, found.bytes, "merging again to compare") as on_bytes:
        buffers = plan_buffers(job.options.thread_count, None, 1 + plan.computes)
        stream(Request(plan, [root], buffers), Sink(open=comparison.open, on_bytes=on_bytes))
    for model in job.models:
        model.check_unchanged()
    small = job.small_files(job.outputs[0], index)
    found.differences = comparison.found({n: small[n] for n in small if n not in _OWN_FILES})
    wrong = {d.tensor for d in found.differences if d.tensor is not None}
    if len(wrong) > len(job.sources) // 2:
        found.notes.append(
            f"most tensors differ: check that {', '.join(m.source for m in job.models)} are the merged models, in order"
        )
    found.seconds = time.perf_counter() - started
    return found


def _job(root: str, record: MergeRecord, given: list[str], settings: Mapping[str, Any], notes: list[str]) -> Job:
    """Plans the merge again as mi_kernels.json records it. Adds a note for each model that is not the recorded one."""
    path = os.path.join(root, RECORD)
    sources = given or [how_given(identity) for identity in record.inputs]
    if len(sources) != len(record.inputs):
        raise ArgumentError(
            f"{root}: merged from {len(record.inputs)} models, but `recompute` names {len(sources)}",
            f"Pass them in this order: {' '.join(map(how_given, record.inputs))}",
        )
    try:
        differences = [difference(identity, open_checkpoint(s)) for identity, s in zip(record.inputs, sources)]
        notes += [text for text in differences if text is not None]
        return _planned(root, record, sources, settings)
    except MIKernelsError as error:
        if notes:  # the wrong model is the cause
            raise MismatchError(notes[0], error.problem) from error
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise incomplete(path, error) from error


def _planned(root: str, record: MergeRecord, sources: list[str], settings: Mapping[str, Any]) -> Job:
    from ..merge.api import plan_lerp, plan_merge

    options: dict[str, Any] = {
        "device": "cpu",
        "backend": "cpu",
        "dtype": None if record.dtype is None else TORCH_NAMES[record.dtype],
        "overwrite": True,  # the folder exists, and is only read
        "copy_from": record.copy_from,
        "max_shard_size": record.max_shard_size,
        **settings,
    }
    if record.method == LERP:
        with _recorded(root, record):
            recipe = Recipe.from_dict({**record.parameters, "extrapolate": True})
        return plan_lerp(sources[0], sources[1], [(root, recipe)], Options(**options))
    from ..recipe.models import from_record

    with _recorded(root, record):
        merge = from_record(record.to_dict(), sources, os.path.join(root, RECORD))
    return plan_merge(merge, root, **options)


@contextlib.contextmanager
def _recorded(root: str, record: MergeRecord) -> Iterator[None]:
    """Explains a recorded parameter that is refused today, such as a density of 20: nobody can change it now."""
    try:
        yield
    except ArgumentError as error:
        problem = error.problem.removeprefix(f"{os.path.join(root, RECORD)}: ")
        raise CheckpointError(
            f"{os.path.join(root, RECORD)}: {problem}, so this merge cannot be computed again",
            f"mi_kernels {record.version} merged it before such values were refused, or the file was changed. Leave "
            "out `recompute` to compare the checksums, or merge again with another value.",
        ) from error
