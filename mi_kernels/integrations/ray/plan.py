"""How a merge would be split over the nodes of a cluster, from the headers alone. Needs neither Ray nor a cluster."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from ...merge.job import Job
from ...merge.plan import Plan, plan_buffers
from .cluster import Node


class Share(NamedTuple):
    """What one node would do: shards, bytes read and written, bytes of buffers at a time, seconds."""

    node: str
    shards: int
    read: int
    written: int
    memory: int
    seconds: float


def split(job: Job, nodes: Sequence[Node], threads: int, speed: float) -> list[Share]:
    """The share of each of `nodes`.

    Every shard goes to the worker that is free first, which is what Ray does; a node has as many workers as `threads`
    fit into its CPUs, and they share its speed.

    Args:
        speed: bytes per second that a node reads and writes, together.
    """
    shards, _ = job.layout()
    slots = len(job.outputs) + Plan(shards, job.sources, []).computes
    buffers = plan_buffers(threads, job.options.max_memory, slots)
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
        shares[i] = Share(
            old.node, old.shards + 1, old.read + read, old.written + written, old.memory, max(old.seconds, end)
        )
        heapq.heappush(free, (end, i))
    return shares
