"""File to file: a whole merge as a process, against copying the same bytes and against the neighbours.

    python -m bench.merge                                   # ours and cp, Qwen3-0.6B's layout (2 x 1.19 GB)
    python -m bench.merge --model 1.7B --rounds 5
    python -m bench.merge --with paper,mergekit             # the neighbours too; mergekit in an environment of its own
    python -m bench.merge --json bench/results/merge.json

Contestants take turns, each round in the same order, with both inputs in the page cache. Every merge's output is
compared with the contract before its time counts. cp is: copy one checkpoint, `sync` the copy, `cat` the other one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import mi_kernels
from mi_kernels.synthetic import write_checkpoint

from . import machine
from .models import MODELS
from .process import Run, run

LAM = 0.8
MERGEKIT = "mergekit==0.1.5"


class Bench:
    """The working folder: two inputs, and what each contestant writes."""

    inputs: tuple[Path, ...]

    def __init__(self, folder: Path, model: str, shards: int) -> None:
        self.instruct, self.thinking, self.out = folder / "instruct", folder / "thinking", folder / "out"
        self.folder, self.inputs = folder, (self.instruct, self.thinking)
        for seed, path in ((1, self.instruct), (2, self.thinking)):
            write_checkpoint(path, MODELS[model](), seed=seed, shards=shards)
        os.sync()

    def command(self, name: str) -> Sequence[str]:
        """The command line of the contestant `name`."""
        a, b, out = map(str, (self.instruct, self.thinking, self.out))
        if name == "ours":
            return [self.program("mi-kernels"), "lerp", a, b, "-o", out, "--lam", str(LAM), "--quiet"]
        if name == "cp":
            copy = f"mkdir {out} && cp {a}/*.safetensors {out}/ && sync {out}/*.safetensors"
            return ["sh", "-c", f"{copy} && cat {b}/*.safetensors > /dev/null"]
        if name == "paper":
            return [sys.executable, "-m", "bench.paper_script", a, b, out, str(LAM)]
        return [self.program("mergekit-yaml"), str(self._mergekit_config()), out]

    def program(self, name: str) -> str:
        """The path of a contestant's program."""
        if name == "mergekit-yaml":
            return str(_mergekit(self.folder))
        return shutil.which(name, path=os.path.dirname(sys.executable)) or name

    def _mergekit_config(self) -> Path:
        path = self.folder / "mergekit.yml"
        path.write_text(
            f"merge_method: linear\ndtype: bfloat16\nmodels:\n"
            f"  - model: {self.instruct}\n    parameters: {{weight: {1 - LAM:g}}}\n"
            f"  - model: {self.thinking}\n    parameters: {{weight: {LAM:g}}}\n"
        )
        return path

    def time(self, name: str) -> Run:
        """One run with a warm cache, its output removed again."""
        for folder in self.inputs:
            for path in folder.glob("*.safetensors"):
                read_file(path)
        result = run(self.command(name), env={"HF_HUB_OFFLINE": "1"})
        shutil.rmtree(self.out)
        os.sync()
        return result

    def differing(self, name: str) -> float:
        """The share of elements in the contestant's output that differ from the contract."""
        run(self.command(name), env={"HF_HUB_OFFLINE": "1"})
        models = [mi_kernels.open_checkpoint(p) for p in (self.instruct, self.thinking, self.out)]
        maps = [[np.memmap(path, np.uint8, "r") for path in m.shards] for m in models]
        wrong = total = 0
        for tensor in models[0].tensors:
            found = [m.tensors[tensor] for m in models]
            a, b, merged = (maps[i][t.shard][t.begin : t.end].view(np.uint16) for i, t in enumerate(found))
            wrong += int(np.count_nonzero(mi_kernels.lerp(a, b, LAM) != merged))
            total += merged.size
        shutil.rmtree(self.out)
        return wrong / total


def read_file(path: Path) -> None:
    """Brings a file into the page cache."""
    block = bytearray(1 << 22)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(block):
            pass


def _mergekit(folder: Path) -> Path:
    """mergekit-yaml, from an environment of its own that is made on first use (or named by MERGEKIT_ENV)."""
    home = Path(os.environ.get("MERGEKIT_ENV", folder.parent / "mergekit-env"))
    program = home / "bin" / "mergekit-yaml"
    if not program.exists():
        print(f"making {home} with {MERGEKIT} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        import torch

        release = torch.__version__.split("+")[0]
        subprocess.run([home / "bin" / "pip", "install", "-q", f"torch=={release}", MERGEKIT], check=True)
    return program


def measure(bench: Bench, contestants: Sequence[str], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the contestants in turns; returns their runs and the share of elements each gets wrong."""
    results: dict[str, Any] = {}
    for name in contestants:
        share = None if name == "cp" else bench.differing(name)
        if name == "ours" and share:
            raise SystemExit(f"ours differs from the contract in {share:.2%} of the elements: not timed")
        results[name] = {"differing": share, "runs": []}
    for number in range(rounds):
        for name in contestants:
            result = bench.time(name)
            results[name]["runs"].append(result.as_dict())
            say(f"round {number + 1} {name}: {result.wall:.2f} s")
    return results


def table(results: dict[str, Any]) -> str:
    """Median, least and most seconds; the ratio to cp, round by round; memory; share of elements off the contract."""
    lines = [f"{'':<10}{'median s':>9}{'min':>7}{'max':>7}{'of cp':>7}{'anon MB':>9}{'differing':>11}"]
    base = [r["wall"] for r in results["cp"]["runs"]]
    for name, result in results.items():
        walls = [r["wall"] for r in result["runs"]]
        ratio = median(w / c for w, c in zip(walls, base))
        anonymous = max(r["anonymous"] for r in result["runs"]) / 1e6
        share = "" if result["differing"] is None else f"{result['differing']:.2%}"
        lines.append(
            f"{name:<10}{median(walls):>9.2f}{min(walls):>7.2f}{max(walls):>7.2f}"
            f"{ratio:>7.2f}{anonymous:>9.0f}{share:>11}"
        )
    return "\n".join(lines)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="0.6B", help="whose layout (default: 0.6B)")
    parser.add_argument("--shards", type=int, default=1, help="files of each input (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default: 5)")
    parser.add_argument("--with", dest="others", default="", help="also: paper, mergekit")
    parser.add_argument("--folder", help="where to work; needs three times the model's size")
    parser.add_argument("--json", help="also write the results there")
    arguments = parser.parse_args()
    contestants = ["ours", "cp", *filter(None, arguments.others.split(","))]
    if unknown := set(contestants) - {"ours", "cp", "paper", "mergekit"}:
        parser.error(f"unknown contestants: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="mi-kernels-bench-", dir=arguments.folder) as name:
        bench = Bench(Path(name), arguments.model, arguments.shards)
        results = measure(bench, contestants, arguments.rounds, lambda line: print(line, file=sys.stderr))
    about = machine.describe()
    print(f"Qwen3-{arguments.model} layout, lam {LAM}, warm, synced; {about['processor']}, {about['cores']} cores")
    print(table(results))
    if arguments.json:
        content = {"machine": about, "model": arguments.model, "shards": arguments.shards, "results": results}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
