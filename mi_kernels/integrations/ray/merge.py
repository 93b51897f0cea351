"""Merge on a Ray cluster, with one task for each shard, on storage that all nodes share.

The driver, which is the process of the command, does everything else as without a cluster: it checks the inputs, holds
the lock and the journal, writes the small files and publishes the folder. A worker gets the plan of one shard, checks
that it sees the same files as the driver, and streams the shard into a folder of its own attempt. The driver moves the
file into the model, and then records it in the journal. So an abandoned worker that still writes cannot damage the file
of another worker.

A shard is not divided. If a model has fewer shards than there are workers, use --max-shard-size.
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

_POLL = 0.5  # seconds between checks whether the attempt was abandoned


class Part(NamedTuple):
    """The work of one task: one shard.

    Attributes:
        version: the version of mi_kernels of the driver.
        plan: the plan of this shard only, with absolute paths.
        files: the files that the shard is computed from, as the driver saw them.
        folders: the folder of this attempt for each output; an empty text if the output has the shard already.
        buffers, io: as for `stream`.
    """

    version: str
    plan: Plan
    files: Sequence[Content]
    folders: Sequence[str]
    buffers: Buffers
    io: str


class Written(NamedTuple):
    """The result of a task: checksums and values of the shard by the number of the output, and the name of the node."""

    sums: dict[int, ShardSum]
    values: dict[int, Findings]
    node: str


def run(job: Job, cluster: Cluster, threads: int | None = None) -> list[Report]:
    """Runs `job` on the workers of `cluster`. The output has the same bytes as that of `job.run()`.

    Args:
        threads: the CPUs of each worker; None for all CPUs of the smallest node.

    Raises:
        BackendError: the job requests a GPU.
        ClusterError: the cluster cannot be used, or failed. Finished shards are kept; the same command resumes.
        MIKernelsError: see `job.run()`.
    """
    if job.options.place.devices:
        raise BackendError(
            f"device {job.options.device!r} requested with --ray, whose workers compute on the CPU",
            "Leave out `device` and `backend`. The bits are the same, and the speed of the storage is the limit.",
            argument="device",
        )
    threads = threads or smallest(cluster.nodes())
    job = replace(job, options=replace(job.options, threads=threads))
    workers: set[str] = set()

    def streamer(request: Request, sink: Sink) -> None:
        shards = _Shards(request, sink, [model.contents() for model in job.models], workers)
        cluster.run(write_shard, shards.missing(), shards, cpus=threads)

    reports = job.run(streamer)
    for report in reports:
        report.notes.append(f"written by {len(workers)} node{'s' if len(workers) != 1 else ''} of a Ray cluster")
    return reports


def smallest(nodes: Sequence[Node]) -> int:
    """Returns the number of CPUs of the node with the fewest CPUs.

    Raises:
        ClusterError: no node offers a CPU.
    """
    cpus = [node.cpus for node in nodes if node.cpus]
    if not cpus:
        raise ClusterError("no node of the Ray cluster offers a CPU", "Start nodes with `ray start --num-cpus N`.")
    return min(cpus)


class _Shards:
    """The shards of a merge as tasks for a cluster; see `cluster.Tasks`."""

    def __init__(self, request: Request, sink: Sink, files: Sequence[Sequence[Content]], workers: set[str]) -> None:
        self._request, self._sink = request, sink
        self._files, self._workers = files, workers
        # The key of a task is the name of the shard, because messages show it.
        self._numbers = {shard.name: i for i, shard in enumerate(request.plan.shards)}
        self._attempts: dict[str, list[str]] = {}

    def missing(self) -> list[str]:
        """Returns the names of the shards that at least one output does not have."""
        finished = self._request.finished
        return [name for name, i in self._numbers.items() if any(i not in numbers for numbers in finished)]

    def arguments(self, key: str) -> tuple[Part]:
        request, number = self._request, self._numbers[key]
        shard = request.plan.shards[number]
        sources = {t.name: request.plan.sources[t.name] for t in shard.tensors}
        read = {(k, n) for source in sources.values() for k in source.used() for n in shards_of(source.inputs[k])}
        files = [self._files[k][n] for k, n in sorted(read)]
        self._attempts[key] = [
            "" if number in done else _new_attempt(folder) for folder, done in zip(request.folders, request.finished)
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
            self._move(shard, attempt, self._request.folders[output], result.node)
            sink.watch.take(number, output, result.values[output])
            sink.on_shard(output, number, result.sums[output])
            sink.on_bytes(shard.size)
        self._workers.add(result.node)

    def _move(self, shard: OutputShard, attempt: str, folder: str, node: str) -> None:
        """Moves the file of an attempt into `folder`."""
        path = os.path.join(attempt, shard.name)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            size = -1
        if size != shard.size:
            seen = f"{size:,} bytes" if size >= 0 else "no file"
            raise ClusterError(
                f"{path}: {node} wrote {shard.size:,} bytes, but this node sees {seen}",
                "Put OUT and the inputs on storage that all nodes share, under the same paths.",
            )
        os.rename(path, os.path.join(folder, shard.name))
        os.rmdir(attempt)

    def lost(self, key: str) -> None:
        for attempt in filter(None, self._attempts[key]):
            shutil.rmtree(attempt, ignore_errors=True)


def _new_attempt(folder: str) -> str:
    """Creates a folder for an attempt beside `folder`. Its name is random: a node that sees it shares the storage."""
    path = os.path.join(os.path.dirname(folder), f"attempt-{uuid.uuid4().hex}")
    os.mkdir(path)
    return path


def write_shard(part: Part) -> Written:
    """Streams one shard into the folders of this attempt, and syncs it. Runs on a worker.

    Raises:
        ClusterError: this node has another version of mi_kernels, or does not see the same files.
        CheckpointError, OSError: see `stream`.
    """
    node = os.uname().nodename
    if part.version != __version__:
        raise ClusterError(
            f"{node} has mi_kernels {__version__}, but the command uses {part.version}",
            "Install the same version on every node.",
        )
    wanted = [folder for folder in part.folders if folder]
    for folder in wanted:
        if not os.path.isdir(folder):
            raise ClusterError(
                f"{node} does not see {folder}",
                "Put OUT and the inputs on storage that all nodes share, under the same paths.",
            )
    for file in part.files:
        check_same_content(file, node)
    watch = Watch(part.plan)
    written = Written({}, {}, node)

    def on_shard(output: int, shard: int, found: ShardSum) -> None:
        written.sums[output], written.values[output] = found, watch.shard(shard, output)

    finished = [() if folder else (0,) for folder in part.folders]  # the plan has one shard
    request = Request(part.plan, part.folders, part.buffers, part.io, finished)
    stream(request, Sink(on_bytes=_StopIfAbandoned(wanted), on_shard=on_shard, watch=watch))
    return written


class _StopIfAbandoned:
    """Ends a stream after the driver has removed its folder, because it abandoned this attempt or has ended.

    Ray cannot interrupt a task that waits for its threads.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders, self._next = folders, time.monotonic() + _POLL

    def __call__(self, count: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _POLL
        if not all(map(os.path.isdir, self._folders)):
            raise ClusterError(f"{self._folders[0]}: the command removed it, because it abandoned this attempt")
