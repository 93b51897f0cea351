"""Is a model folder the merge that its mi_kernels.json says? It is done again, in memory, and every byte compared."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
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
from ..system.progress import progress_bar
from .second_writer import Comparison, Difference

_OWN_FILES = (RECORD, "README.md")  # they name versions and paths


@dataclass
class Recomputation:
    """What doing a merge again found.

    Attributes:
        tensors, bytes: how many were computed and compared; bytes of shards.
        seconds: from the first check to the last comparison.
        differences: by file; one for each tensor, header or file that is not the same.
        notes: where the models are not those that are recorded, and what else is worth a sentence.
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
    progress: bool | Callable[[int, int], None] = True,
) -> Recomputation:
    """Does the merge again that made `root`, and compares shards, index and copied files. Nothing is written.

    Memory is as flat as the merge's own: see `mi_kernels.merge.stream`.

    Args:
        models: folders or Hub ids, in the order of mi_kernels.json, the base first; empty for those named there.

    Raises:
        CheckpointError: `root` has no usable mi_kernels.json, a file cannot be read.
        MIKernelsError: the models cannot be merged so.
    """
    started = time.perf_counter()
    record = read_record(root)
    if record is None:
        raise CheckpointError(
            f"{os.path.join(root, RECORD)}: missing, so nobody knows which merge this is",
            "Only what mi_kernels has merged can be computed again.",
        )
    found = Recomputation()
    job = _job(root, record, [os.fspath(m) for m in models], threads, found.notes)
    shards, index = job.layout()
    plan = Plan(shards, job.sources, [m.files for m in job.models])
    found.tensors, found.bytes = len(job.sources), sum(s.size for s in shards)
    comparison = Comparison(root, shards)
    with progress_bar(progress, found.bytes) as on_bytes:
        buffers = plan_buffers(job.options.thread_count, None, 1 + plan.computes)
        stream(Request(plan, [root], buffers), Sink(open=comparison.open, on_bytes=on_bytes))
    for model in job.models:
        model.check_unchanged()
    small = job.small_files(job.outputs[0], index)
    found.differences = comparison.found({n: small[n] for n in small if n not in _OWN_FILES})
    wrong = {d.tensor for d in found.differences if d.tensor is not None}
    if len(wrong) > len(job.sources) // 2:
        found.notes.append(
            f"most tensors differ: are {', '.join(m.source for m in job.models)} the right models, in order?"
        )
    found.seconds = time.perf_counter() - started
    return found


def _job(root: str, record: MergeRecord, given: list[str], threads: int | None, notes: list[str]) -> Job:
    """The merge as it was planned when `root` was made. Notes where a model is not the recorded one."""
    path = os.path.join(root, RECORD)
    sources = given or [how_given(identity) for identity in record.inputs]
    if len(sources) != len(record.inputs):
        raise ArgumentError(
            f"{root}: was merged from {len(record.inputs)} models, and {len(sources)} are given",
            f"Give them in this order: {', '.join(map(how_given, record.inputs))}.",
        )
    try:
        differences = [difference(identity, open_checkpoint(s)) for identity, s in zip(record.inputs, sources)]
        notes += [text for text in differences if text is not None]
        return _planned(root, record, sources, threads)
    except MIKernelsError as error:
        if notes:  # this is why
            raise MismatchError(notes[0], error.problem) from error
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise incomplete(path, error) from error


def _planned(root: str, record: MergeRecord, sources: list[str], threads: int | None) -> Job:
    from ..merge.api import plan_lerp, plan_merge

    options: dict[str, Any] = {
        "device": "cpu",
        "backend": "cpu",
        "dtype": None if record.dtype is None else TORCH_NAMES[record.dtype],
        "threads": threads,
        "overwrite": True,  # the folder is there, and only read
        "copy_from": record.copy_from,
        "max_shard_size": record.max_shard_size,
    }
    if record.method == LERP:
        recipe = Recipe.from_dict({**record.parameters, "extrapolate": True})
        return plan_lerp(sources[0], sources[1], [(root, recipe)], Options(**options))
    from ..recipe.models import from_record

    return plan_merge(from_record(record.to_dict(), sources, os.path.join(root, RECORD)), root, **options)
