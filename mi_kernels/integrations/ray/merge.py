"""A merge on a Ray cluster: one task for each shard, on storage that all nodes share.

The driver, the process of the command, does everything else as it does alone: it checks the inputs, holds the lock and
the journal, writes the small files and publishes. A worker gets the plan of one shard, checks that it sees the files
that the driver saw, and streams the shard into a folder that is this attempt's own; the driver moves the file into the
model, and then notes it in the journal. So a worker that was given up and still writes meets no other's file.

A shard is not divided: a model in fewer files than there are workers wants --max-shard-size.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..._version import __version__
from ...checkpoint.header import check_same_content
from ...checkpoint.inputs import shards_of
from ...checkpoint.stamp import Content
from ...checksums.record import ShardSum
from ...errors import BackendError, ClusterError
from ...merge.findings import Findings, Watch
from ...merge.job import Job, Report
from ...merge.plan import Buffers, Plan
from ...merge.stream import Request, Sink, stream
from ...output.layout import OutputShard
from .cluster import Cluster, Node

_LOOK = 0.5  # seconds between two looks at whether the attempt is still wanted


class Part(NamedTuple):
    """One shard for a worker.

    Attributes:
        version: of the driver's mi_kernels.
        plan: of this shard alone, with absolute paths.
        files: what it reads, as the driver saw it.
        folders: of this attempt, one for each output; empty text where an output has the shard already.
    """

    version: str
    plan: Plan
    files: Sequence[Content]
    folders: Sequence[str]
    buffers: Buffers
    io: str


class Written(NamedTuple):
    """What a worker says of a shard: its checksums and its values by the output's number, and who it is."""

    sums: dict[int, ShardSum]
    values: dict[int, Findings]
    node: str


def run(job: Job, cluster: Cluster, threads: int | None = None) -> list[Report]:
    """`job.run()` by the workers of `cluster`; the bytes are the same.

    Args:
        threads: CPUs of each worker; None for all of the node that has the fewest.

    Raises:
        BackendError: the job asks for a GPU.
        ClusterError: the cluster cannot be used, or failed; what was finished is kept for the same command.
        MIKernelsError: as `job.run()`.
    """
    if job.options.place.devices:
        raise BackendError(
            f"device {job.options.device!r} requested with --ray, whose workers compute on the CPU",
            "Leave --device and --backend out: the bits are the same, and the storage sets the pace.",
        )
    threads = threads or smallest(cluster.nodes())
    job = replace(job, options=replace(job.options, threads=threads))
    workers: set[str] = set()

    def streamer(request: Request, sink: Sink) -> None:
        shards = _Shards(request, sink, [model.contents() for model in job.models], workers)
        cluster.run(write_shard, shards.wanted(), shards, cpus=threads)

    reports = job.run(streamer)
    for report in reports:
        report.notes.append(f"written by {len(workers)} node{'s' if len(workers) != 1 else ''} of a Ray cluster")
    return reports


def smallest(nodes: Sequence[Node]) -> int:
    """The CPUs of the node that lends the fewest.

    Raises:
        ClusterError: none lends any.
    """
    cpus = [node.cpus for node in nodes if node.cpus]
    if not cpus:
        raise ClusterError("no node of the Ray cluster lends a CPU", "Start nodes with --num-cpus, or wait for them.")
    return min(cpus)


class _Shards:
    """The shards of a merge as a cluster's tasks: see `ray.Tasks`."""

    def __init__(self, request: Request, sink: Sink, files: Sequence[Sequence[Content]], workers: set[str]) -> None:
        self._request, self._sink = request, sink
        self._files, self._workers = files, workers
        # A task's key is the shard's name: messages show it.
        self._numbers = {shard.name: i for i, shard in enumerate(request.plan.shards)}
        self._attempts: dict[str, list[str]] = {}

    def wanted(self) -> list[str]:
        """The names of the shards that an output lacks."""
        finished = self._request.finished
        return [name for name, i in self._numbers.items() if any(i not in there for there in finished)]

    def arguments(self, key: str) -> tuple[Part]:
        request, number = self._request, self._numbers[key]
        shard = request.plan.shards[number]
        sources = {t.name: request.plan.sources[t.name] for t in shard.tensors}
        read = {(k, n) for source in sources.values() for k in source.used() for n in shards_of(source.inputs[k])}
        files = [self._files[k][n] for k, n in sorted(read)]
        self._attempts[key] = [
            "" if number in there else _attempt(folder) for folder, there in zip(request.folders, request.finished)
        ]
        plan = Plan([shard], sources, [[file.path for file in model] for model in self._files])
        return (Part(__version__, plan, files, self._attempts[key], request.buffers, request.io),)

    def done(self, key: str, result: Written) -> None:
        number, sink = self._numbers[key], self._sink
        assert sink.watch is not None
        assert sink.on_shard is not None
        shard = self._request.plan.shards[number]
        for output, attempt in enumerate(self._attempts[key]):
            if not attempt:
                continue
            self._take(shard, attempt, self._request.folders[output], result.node)
            sink.watch.take(number, output, result.values[output])
            sink.on_shard(output, number, result.sums[output])
            sink.on_bytes(shard.size)
        self._workers.add(result.node)

    def _take(self, shard: OutputShard, attempt: str, folder: str, node: str) -> None:
        path = os.path.join(attempt, shard.name)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            size = -1
        if size != shard.size:
            raise ClusterError(
                f"{path}: was written by {node} and is {f'of {size} bytes' if size >= 0 else 'not to be seen'} here",
                "All nodes must share the storage of OUT and of the inputs, under the same paths.",
            )
        os.rename(path, os.path.join(folder, shard.name))
        os.rmdir(attempt)

    def lost(self, key: str) -> None:
        for attempt in filter(None, self._attempts[key]):
            shutil.rmtree(attempt, ignore_errors=True)


def _attempt(folder: str) -> str:
    """A new folder beside `folder`, in the work folder. Its name is nobody's guess: who sees it shares the storage."""
    path = os.path.join(os.path.dirname(folder), f"attempt-{uuid.uuid4().hex}")
    os.mkdir(path)
    return path


def write_shard(part: Part) -> Written:
    """On a worker: streams one shard into the folders of this attempt, synced.

    Raises:
        ClusterError: this node has another version, or other files.
        CheckpointError, OSError: as `stream`.
    """
    node = os.uname().nodename
    if part.version != __version__:
        raise ClusterError(
            f"{node} has mi_kernels {__version__}, the command runs {part.version}",
            "Install the same version on every node.",
        )
    wanted = [folder for folder in part.folders if folder]
    for folder in wanted:
        if not os.path.isdir(folder):
            raise ClusterError(
                f"{node} does not see {folder}",
                "All nodes must share the storage of OUT and of the inputs, under the same paths.",
            )
    for file in part.files:
        check_same_content(file, node)
    watch = Watch(part.plan)
    written = Written({}, {}, node)

    def on_shard(output: int, shard: int, found: ShardSum) -> None:
        written.sums[output], written.values[output] = found, watch.shard(shard, output)

    finished = [() if folder else (0,) for folder in part.folders]  # the plan has one shard
    request = Request(part.plan, part.folders, part.buffers, part.io, finished)
    stream(request, Sink(on_bytes=_Wanted(wanted), on_shard=on_shard, watch=watch))
    return written


class _Wanted:
    """Ends a stream whose folder the driver has removed: it gave this attempt up, or has ended itself.

    Ray cannot interrupt a task that waits for its threads.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders, self._next = folders, time.monotonic() + _LOOK

    def __call__(self, count: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK
        if not all(map(os.path.isdir, self._folders)):
            raise ClusterError(f"{self._folders[0]}: is gone: this attempt is no longer wanted")
