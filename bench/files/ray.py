"""A merge by one and by four workers of a local Ray cluster, compared with a merge without Ray.

    python -m bench.files.ray   # 2 x 1.2 GB in 12 shards
    python -m bench.files.ray --size 5GB --shards 25 --rounds 3
    python -m bench.files.ray --json bench/results/ray.json

Every worker computes with one thread. Seconds are those of the merge, including the start of the worker processes; the
time of the whole process also includes connecting to the cluster. The contestants alternate. Before anything is timed,
all outputs are compared with the one written without Ray. A machine has one disk: four workers are faster only if it
has spare bandwidth and cores.
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

from .. import results
from ..noise import ratios, show, spread
from ..registry import Benchmark
from .contestants import read_file

_PROGRAM = [sys.executable, "-c", "import sys; from mi_kernels.cli import main; sys.exit(main())"]


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """The address of a new cluster: a head without CPUs, and `workers` nodes with one CPU each."""
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
    """One merge with the inputs in the page cache. Returns seconds of the merge, and of the process."""
    for folder in inputs:
        for path in folder.glob("*.safetensors"):
            read_file(path)
    words = ["lerp", *map(str, inputs), "-o", str(out), "--lam", "0.8", "--threads", "1", "--json", *extra]
    begin = time.perf_counter()
    done = subprocess.run([*_PROGRAM, *words], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)["seconds"], time.perf_counter() - begin


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.files.ray", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1.2GB", help="size of each model (default: 1.2GB)")
    parser.add_argument("--shards", type=int, default=12, help="files of each model (default: 12)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default: 5)")
    parser.add_argument("--folder", help="the working folder; needs three times the size of a model")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
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
        command = results.command_line("bench.files.ray", sys.argv[1:] if argv is None else argv)
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
    """Seconds of the merge, of the whole process, and the ratio of the merge to plain by rounds."""
    lines = [[row["name"], show(row["seconds"]), show(row["wall"]), show(row["of_plain"])] for row in rows]
    return results.table(["", "seconds (min - max)", "whole process", "of plain"], lines)


def measure(
    inputs: tuple[Path, Path], root: Path, contestants: dict[str, list[str]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of merge and process for each contestant and round, after all have written the same shards.

    Raises:
        SystemExit: a contestant wrote other bytes.
    """
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


# No step of `bench.all`: it needs an environment with Ray.
BENCHMARK = Benchmark(name="ray", command="bench.files.ray", table=table)


if __name__ == "__main__":
    main()
