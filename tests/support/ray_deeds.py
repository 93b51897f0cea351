"""Functions that workers of a cluster run instead of `ray_merge.write_shard` and `eval.sweep.cluster.evaluate`.

The workers import this module. The file `deed-i` beside the output, if any, says what the worker of shard i does.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval import engines
from eval.engines import Completion, Request
from eval.run import driver, grading
from eval.run.settings import Choices
from eval.sweep import cluster
from eval.sweep.cluster import Point
from mi_kernels.integrations.ray import merge as ray_merge
from mi_kernels.integrations.ray.merge import Part, Written
from mi_kernels.merge.stream import stream
from mi_kernels.output.writer import ShardFile

from ..eval.support.fakes import FakeEngine, grade_here

_WRITE, _EVALUATE = ray_merge.write_shard, cluster.evaluate


class SlowFile(ShardFile):
    """Needs one second for each chunk."""

    def write(self, data: memoryview, offset: int) -> None:
        time.sleep(1)
        super().write(data, offset)


def write_shard(part: Part) -> Written:
    folder = next(Path(f) for f in part.folders if f)
    name = part.plan.shards[0].name
    deed = folder.parents[1] / f"deed-{int(name[6:11])}"
    what = deed.read_text() if deed.exists() else ""
    if what == "die once":
        deed.unlink()
    if what.startswith("die"):
        (folder / name).write_bytes(b"half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":  # until this node is killed
        deed.write_text(_node_id())
        time.sleep(600)
    if what == "slowly":
        deed.write_text("begun")
        ray_merge.stream = lambda request, sink: stream(request, sink._replace(open=SlowFile))
        try:
            return _WRITE(part)
        finally:
            ray_merge.stream = stream
            deed.write_text("ended")
    return _WRITE(_CHANGED.get(what, lambda p: p)(part))


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _elsewhere(part: Part) -> Part:
    other = Path(part.folders[0]).parents[1] / "elsewhere"
    other.mkdir(exist_ok=True)
    return part._replace(folders=[str(other)])


_CHANGED = {
    "no storage": lambda part: part._replace(folders=[f + "-not-mounted" for f in part.folders]),
    "other storage": _elsewhere,
    "other input": lambda part: part._replace(files=[f._replace(mtime_ns=1) for f in part.files]),
    "other version": lambda part: part._replace(version="0.0.1"),
}


class _DyingEngine(FakeEngine):
    """Kills its process after three responses."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for number, completion in enumerate(super().generate(requests)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield completion


def evaluate(points: Sequence[Point], choices: Choices, options: engines.Options) -> str:
    """Evaluates with an engine that responds immediately. Appends the assigned GPUs to `deed-0`."""
    files = [os.path.join(point.out, f"{driver.named(point.benchmark).name}.jsonl") for point in points]
    first = not any(map(os.path.exists, files))
    dies = first and any(file.endswith("lam-0.5/more.jsonl") for file in files)
    with open(Path(points[0].out).parents[1] / "deed-0", "a") as log:
        log.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\n")
    engines.create = lambda options: _DyingEngine() if dies else FakeEngine()
    grading.grade = grade_here
    return _EVALUATE(points, choices, options)
