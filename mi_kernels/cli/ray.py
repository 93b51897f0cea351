"""Run or plan a merge on the nodes of a Ray cluster (--ray, --nodes, --node-speed)."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import ArgumentError, printable
from ..integrations.ray.cluster import Cluster, Node
from ..integrations.ray.merge import run as run_on_cluster
from ..integrations.ray.merge import smallest
from ..integrations.ray.plan import Share, split
from ..merge.job import Job, Report
from ..system.duration import show_clock
from ..system.progress import say
from .text import parse_count, parse_size, show_bytes

_SPEED = "1GB"


def run(job: Job, arguments: argparse.Namespace, connected: Callable[[], None]) -> list[Report]:
    """Merges on the cluster of --ray. Calls `connected` when the cluster answers."""
    if arguments.ray is None:
        raise ArgumentError(
            "--nodes and --node-speed only plan a merge on a cluster",
            "Add --dry-run to plan, or replace them by --ray ADDRESS to merge.",
        )
    begin = time.perf_counter()
    with Cluster(arguments.ray, _teller(arguments)) as cluster:
        connecting = time.perf_counter() - begin  # does not count as time of the merge
        connected()
        return run_on_cluster(replace(job, started=job.started + connecting), cluster, job.options.threads)


def describe_split(job: Job, arguments: argparse.Namespace) -> str:
    """Returns the planned work of each node of the cluster, or of --nodes N hypothetical nodes."""
    speed = parse_size(arguments.node_speed or _SPEED, "--node-speed")
    assert speed is not None
    nodes, threads = _nodes(job, arguments)
    return _table(split(job, nodes, threads, speed), nodes, threads, speed)


def _nodes(job: Job, arguments: argparse.Namespace) -> tuple[list[Node], int]:
    count = parse_count(arguments.nodes, "--nodes")
    if count is None:
        if arguments.ray is None:
            raise ArgumentError("--node-speed without a cluster", "Add --ray ADDRESS or --nodes N.")
        with Cluster(arguments.ray, _teller(arguments)) as cluster:
            nodes = cluster.nodes()
        threads = job.options.threads or smallest(nodes)
        nodes = [node for node in nodes if node.cpus >= threads]
        if not nodes:
            raise ArgumentError(f"no node of the cluster has {threads} CPUs", "Use a smaller --threads.")
        return nodes, threads
    if not 1 <= count <= 10_000:
        raise ArgumentError(f"--nodes is {count}", "Use an integer from 1 to 10000.")
    threads = job.options.thread_count
    return [Node(f"node {i}", threads, 0) for i in range(1, count + 1)], threads


def _table(shares: Sequence[Share], nodes: Sequence[Node], threads: int, speed: float) -> str:
    width = max(len(printable(share.node)) for share in shares)
    lines = [f"{'':<{width}}{'shards':>8}{'read':>10}{'written':>10}{'buffers':>10}{'time':>10}"]
    for s in shares:
        lines.append(
            f"{printable(s.node):<{width}}{s.shards:>8}{show_bytes(s.read):>10}{show_bytes(s.written):>10}"
            f"{show_bytes(s.memory):>10}{show_clock(s.seconds):>10}"
        )
    read, written = sum(s.read for s in shares), sum(s.written for s in shares)
    workers = sum(node.cpus // threads for node in nodes)
    lines += [
        f"{sum(s.shards for s in shares)} shards by {workers} worker{'s' if workers != 1 else ''} of {threads} "
        f"thread{'s' if threads != 1 else ''}: {show_bytes(read)} read, {show_bytes(written)} written, "
        f"{show_clock(max(s.seconds for s in shares))}",
        f"assuming that each node reads and writes {show_bytes(speed)}/s at the same time (--node-speed; the last line "
        "of a merge reports the speed of one machine)",
    ]
    return "\n".join(lines)


def _teller(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Returns a function that prints what the cluster waits for, and which workers died. With --quiet, nothing."""
    return (lambda text: None) if arguments.quiet else (lambda text: say(f"mi-kernels: {printable(text)}"))
