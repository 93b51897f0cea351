"""A merge by one and by four workers of a local Ray cluster, against the plain path: whole processes, in turns.

    python -m bench.ray                          # 2 x 1.2 GB in 12 shards
    python -m bench.ray --size 5GB --shards 25 --rounds 3
    python -m bench.ray --json bench/results/ray.json

Every contestant computes with one thread a worker. Seconds are the merge's own, with the start of the
workers' processes; the whole process connects to the cluster besides. All outputs are compared with
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mi_kernels.cli.text import parse_size
from mi_kernels.output.synthetic import qwen3_like, write_checkpoint

from . import results
from .contestants import read_file
from .noise import ratios, show, spread

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
    parser.add_argument("--json", type=Path, help="also write the results there")
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
    rows = _rows(times)
    print(f"{arguments.size} in {arguments.shards} shards, one thread a worker\n{table(rows)}")
    if arguments.json:
        command = results.command_line("bench.ray", sys.argv[1:])
        settings = {"bytes": size, "shards": arguments.shards, "threads": 1}
        results.save(arguments.json, results.record("ray", command, settings, rows))


def _rows(times: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    columns = {name: list(zip(*found)) for name, found in times.items()}
    plain, _ = columns["plain"]
    return [
        {
            "group": "warm",
            "name": name,
            "seconds": spread(run),
            "wall": spread(wall),
            "of_plain": ratios(run, plain),
        }
        for name, (run, wall) in columns.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds of the merge, of the whole process (starting what Ray needs included), and the merge's by rounds."""
    lines = [[row["name"], show(row["seconds"]), show(row["wall"]), show(row["of_plain"])] for row in rows]
    return results.table(["", "seconds (min - max)", "whole process", "of plain"], lines)


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
