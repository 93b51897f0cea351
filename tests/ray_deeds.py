"""What a worker of a cluster does in place of `ray_merge.write_shard`, as a file beside the output says.

Imported by the workers; the deed of shard i, if any, is the content of `deed-i`.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

from mi_kernels.checkpoint.writer import ShardFile
from mi_kernels.integrations import ray_merge
from mi_kernels.integrations.ray_merge import Part, Written
from mi_kernels.stream import stream

_WRITE = ray_merge.write_shard


class SlowFile(ShardFile):
    """Takes a second for each chunk."""

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
        ray_merge.stream = partial(stream, sink=SlowFile)
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
