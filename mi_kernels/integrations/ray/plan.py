"""Plan how to divide a merge among the nodes of a cluster, from the headers alone. Needs neither Ray nor a cluster."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from ...merge.job import Job
from ...merge.plan import Plan, plan_buffers
from .cluster import Node


class Share(NamedTuple):
    """The planned work of one node.

    Attributes:
        node: its name.
        shards: the number of shards that it writes.
        read, written: bytes.
        memory: bytes of buffers at any time.
        seconds: the time until its last shard is written.
    """

    node: str
    shards: int
    read: int
    written: int
    memory: int
    seconds: float


def split(job: Job, nodes: Sequence[Node], threads: int, speed: float) -> list[Share]:
    """Returns the share of each node.

    Every shard goes to the first free worker, as Ray does it. A node has `cpus // threads` workers, which share its
    speed.

    Args:
        nodes: the nodes of the cluster.
        threads: the CPUs of each worker.
        speed: the bytes per second that a node can read and write together.
    """
    shards, _ = job.layout()
    slots = len(job.outputs) + Plan(shards, job.sources, []).computes
    buffers = plan_buffers(threads, job.options.buffer_bytes, slots)
    memory = buffers.chunk * buffers.workers * slots
    workers = [node.cpus // threads for node in nodes]
    shares = [Share(node.name, 0, 0, 0, memory * count, 0.0) for node, count in zip(nodes, workers)]
    free = [(0.0, i) for i, count in enumerate(workers) for _ in range(count)]
    heapq.heapify(free)
    for shard in shards:
        sources = [job.sources[t.name] for t in shard.tensors]
        read = sum(s.inputs[k].nbytes for s in sources for k in s.used())
        written = shard.size * len(job.outputs)
        begin, i = heapq.heappop(free)
        end = begin + (read + written) * workers[i] / speed
        old = shares[i]
        shares[i] = old._replace(
            shards=old.shards + 1,
            read=old.read + read,
            written=old.written + written,
            seconds=max(old.seconds, end),
        )
        heapq.heappush(free, (end, i))
    return shares
