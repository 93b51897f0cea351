"""The plan of a merge on a cluster: from headers alone, at published sizes, and compared with the merge itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mi_kernels.errors import ClusterError
from mi_kernels.integrations.ray import cluster as cluster_room
from mi_kernels.integrations.ray.cluster import Cluster, Node
from mi_kernels.integrations.ray.plan import split
from mi_kernels.merge.api import plan_sweep

from ..support.checks import World, assert_refused, run_cli
from ..support.published_sizes import deepseek_671b, qwen3_235b


@pytest.mark.parametrize(
    ("make", "words"),
    [
        # The published index says 470,187,269,120 bytes of tensors.
        (qwen3_235b, ("118 shards by 8 workers of 16 threads: 940 GB read, 470 GB written",)),
        # FP8 read, bf16 written: twice the bytes.
        (deepseek_671b, ("163 shards by 8 workers of 16 threads: 1.35 TB read, 1.34 TB written", "FP8 tensors")),
    ],
)
def test_pairs_of_published_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], words: tuple[str, ...]
) -> None:
    first = make(tmp_path / "instruct")
    second = shutil.copytree(first, tmp_path / "thinking", copy_function=os.link)
    assert sum(path.stat().st_blocks * 512 for path in first.iterdir()) < 64 << 20, "the file system fills holes"
    plan = ["--nodes", "8", "--threads", "16", "--node-speed", "2GB", "--dry-run"]
    assert run_cli(["lerp", str(first), str(second), "-o", str(tmp_path / "out"), "--lam", "0.8", *plan]) == 0
    out = capsys.readouterr().out
    for word in words:
        assert word in out
    rows = [line.split() for line in out.splitlines() if line.startswith("node ")]
    assert len(rows) == 8
    assert sum(int(row[2]) for row in rows) == int(words[0].split()[0])
    assert not (tmp_path / "out").exists()


def test_the_plan_matches_the_merge(tmp_path: Path) -> None:
    world = World(tmp_path, shards=7)
    job = plan_sweep(world.instruct, world.thinking, str(tmp_path / "mi-{lam}"), [0.0, 0.5], progress=False)
    nodes = [Node("large", 8, 0), Node("small", 4, 0), Node("spare", 5, 0)]
    shares = split(job, nodes, threads=4, speed=1e6)
    reports = job.run()
    assert sum(share.shards for share in shares) == 7
    assert sum(share.read for share in shares) == reports[0].bytes_read
    assert sum(share.written for share in shares) == sum(report.bytes_written for report in reports)
    assert shares[0].memory == 2 * shares[1].memory == 2 * shares[2].memory  # two workers fit there
    longest = max(share.seconds for share in shares)
    alone = split(job, nodes[1:2], threads=4, speed=1e6)[0]
    assert alone.seconds == pytest.approx((alone.read + alone.written) / 1e6)
    assert alone.seconds / 3 <= longest < alone.seconds  # three nodes of one speed cannot do better than a third


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--nodes", "0", "--dry-run"], ("--nodes is 0",)),
        (["--nodes", "many", "--dry-run"], ("--nodes 'many' is not an integer",)),
        (["--node-speed", "1GB", "--dry-run"], ("--node-speed without a cluster", "--ray ADDRESS or --nodes N")),
        (["--node-speed", "fast", "--nodes", "2", "--dry-run"], ("--node-speed 'fast' is not a size",)),
        (["--nodes", "4"], ("--nodes and --node-speed only plan a merge", "--dry-run")),
        (["--ray", "ray://host:10001"], ("Ray client", "--ray auto")),
        (["--ray", "nowhere"], ("--ray 'nowhere' is not a valid address", "HOST:PORT")),
        (["--ray", "127.0.0.1:1"], ("cannot connect", "--ray local")),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], words: tuple[str, ...]) -> None:
    world = World(tmp_path)
    assert_refused(capsys, tmp_path, world.argv(*extra), *words)


def test_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    world = World(tmp_path)
    assert_refused(
        capsys, tmp_path, world.argv("--ray", "auto"), "--ray needs Ray", "python -m pip install 'ray>=2.40'"
    )


def test_workers_reject_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mi_kernels.backends.device import Place
    from mi_kernels.merge.options import Options

    world = World(tmp_path)
    monkeypatch.setattr(Options, "place", Place("cuda", ("cuda:0",)))
    monkeypatch.setattr("mi_kernels.cli.ray.Cluster.__enter__", lambda self: self)
    assert_refused(capsys, tmp_path, world.argv("--ray", "auto"), "workers compute on the CPU", "Leave out --device")


def test_the_command_says_at_once_which_cluster_it_waits_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    for dry in ([], ["--dry-run"]):
        assert run_cli(world.argv("--ray", "127.0.0.1:1", *dry)) == 2
        assert capsys.readouterr().err.startswith("mi-kernels: waiting for the Ray cluster at 127.0.0.1:1\n")
        assert run_cli(world.argv("--ray", "127.0.0.1:1", *dry, "--quiet")) == 2
        assert "waiting" not in capsys.readouterr().err


class FakeCluster(Cluster):
    """A cluster whose nodes and free resources a test sets."""

    def __init__(self) -> None:
        self.told: list[str] = []
        super().__init__("auto", self.told.append)
        self.alive: list[Node] = []
        self.free: dict[str, float] = {}

    def nodes(self) -> list[Node]:
        return self.alive

    def available_resources(self) -> dict[str, float]:
        return self.free


def test_a_node_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named once, and again if it disappears again. The error comes after the patience has ended."""
    now = [0.0]
    monkeypatch.setattr(cluster_room.time, "monotonic", lambda: now[0])
    cluster = FakeCluster()
    watch = cluster_room._Watch(cluster, cpus=4, gpus=1)
    cluster.alive = [Node("small", 2, 0)]
    expected = "waiting up to 60 s for a node with 4 CPUs and 1 GPU; live nodes: small: 2 CPUs, 0 GPUs"
    watch.check(False)
    now[0] = 59.0
    watch.check(False)
    assert cluster.told == [expected]
    cluster.alive = [Node("large", 8, 1)]
    watch.check(False)
    cluster.alive = []
    watch.check(False)
    assert cluster.told[1:] == ["waiting up to 60 s for a node with 4 CPUs and 1 GPU; live nodes: none"]
    now[0] = 200.0
    with pytest.raises(ClusterError, match="no node of the cluster has 4 CPUs and 1 GPU; live nodes: none"):
        watch.check(False)


@pytest.mark.parametrize(
    ("free", "told"),
    [
        ({"CPU": 8.0}, []),
        ({"CPU": 4.0}, []),
        ({"CPU": 3.0}, ["waiting until other programs free 4 CPUs on one of 2 nodes"]),
        ({}, ["waiting until other programs free 4 CPUs on one of 2 nodes"]),
    ],
)
def test_a_cluster_that_others_use_is_named(free: dict[str, float], told: list[str]) -> None:
    cluster = FakeCluster()
    cluster.settling = 0.0
    cluster.alive, cluster.free = [Node("a", 4, 0), Node("b", 4, 0), Node("small", 1, 0)], free
    cluster.tell_what_is_missing(cluster, 3, 4, 0)
    assert cluster.told == told
    cluster.settling = 60.0
    late = iter([{}, {"CPU": 1.0}, {"CPU": 4.0}])  # Ray reports late what a task has freed: nothing is said
    cluster.tell_what_is_missing(SimpleNamespace(available_resources=lambda: next(late)), 3, 4, 0)
    cluster.settling = 0.0
    cluster.tell_what_is_missing(cluster, 0, 4, 0)  # nothing to do
    cluster.tell_what_is_missing(cluster, 3, 64, 0)  # no node fits: `_Watch` says so
    assert cluster.told == told
