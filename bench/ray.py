"""A merge by one and by four workers of a local Ray cluster, against the plain path: whole processes, in turns.

    python -m bench.ray                          # 2 x 1.2 GB in 12 shards
    python -m bench.ray --size 5GB --shards 25 --rounds 3

Every contestant computes with one thread a worker. `merge` is the time of the merge itself, with the start of the
workers' processes; `wall` is the whole process, which connects to the cluster besides. All outputs are compared with
the plain one before anything is timed. One machine has one disk: four workers gain what disk and cores have to spare.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from mi_kernels.cli.values import parse_size
from mi_kernels.synthetic import qwen3_like, write_checkpoint

from .contestants import read_file

_PROGRAM = [sys.executable, "-c", "import sys; from mi_kernels.cli import main; sys.exit(main())"]


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """The address of a new cluster of so many nodes of one CPU; its head lends nothing."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    try:
        for _ in range(workers):
            made.add_node(num_cpus=1, **memory)
        yield made.address
    finally:
        made.shutdown()


def merge(inputs: tuple[Path, Path], out: Path, extra: list[str]) -> tuple[float, float]:
    """One merge with the inputs in the page cache: (seconds of the merge, of the process)."""
    for folder in inputs:
        for path in folder.glob("*.safetensors"):
            read_file(path)
    words = ["lerp", *map(str, inputs), "-o", str(out), "--lam", "0.8", "--threads", "1", "--json", *extra]
    begin = time.perf_counter()
    done = subprocess.run([*_PROGRAM, *words], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)["seconds"], time.perf_counter() - begin


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1.2GB", help="of each model (default: 1.2GB)")
    parser.add_argument("--shards", type=int, default=12, help="files of each (default: 12)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default: 5)")
    parser.add_argument("--folder", help="where to work; needs three times the model's size")
    arguments = parser.parse_args()
    size = parse_size(arguments.size, "--size")
    assert size is not None
    with tempfile.TemporaryDirectory(prefix="mi-kernels-ray-", dir=arguments.folder) as name:
        root = Path(name)
        inputs = (root / "instruct", root / "thinking")
        for seed, folder in enumerate(inputs):
            write_checkpoint(folder, qwen3_like(size), seed=seed, shards=arguments.shards)
        os.sync()
        with cluster(1) as one, cluster(4) as four:
            contestants = {"plain": [], "ray, 1 worker": ["--ray", one], "ray, 4 workers": ["--ray", four]}
            times = measure(inputs, root, contestants, arguments.rounds)
    print(f"{arguments.size} in {arguments.shards} shards, {os.cpu_count()} cores, one thread a worker, median seconds")
    print(f"{'':<16}{'merge':>8}{'wall':>8}{'of plain':>10}")
    base = [seconds for seconds, _ in times["plain"]]
    for name, found in times.items():
        ratio = median(seconds / plain for (seconds, _), plain in zip(found, base))
        print(f"{name:<16}{median(s for s, _ in found):>8.2f}{median(w for _, w in found):>8.2f}{ratio:>10.2f}")


def measure(
    inputs: tuple[Path, Path], root: Path, contestants: dict[str, list[str]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(merge, wall) of each contestant, round by round, once all have been found to write the same shards."""
    for name, extra in contestants.items():
        merge(inputs, root / name / "out", extra)
    shards = [path.name for path in (root / "plain" / "out").glob("*.safetensors")]
    for name in contestants:
        different = filecmp.cmpfiles(root / "plain" / "out", root / name / "out", shards, shallow=False)[1:]
        if any(different):
            raise SystemExit(f"{name} writes other bytes than the plain path: not timed")
        if name != "plain":
            shutil.rmtree(root / name)
    shutil.rmtree(root / "plain")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, extra in contestants.items():
            times[name].append(merge(inputs, root / "out", extra))
            print(f"round {number + 1} {name}: {times[name][-1][0]:.2f} s", file=sys.stderr)
            shutil.rmtree(root / "out")
            os.sync()
    return times


if __name__ == "__main__":
    main()
