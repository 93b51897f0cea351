"""Task Arithmetic and TIES from file to file, against copying the same bytes and against mergekit.

    python -m bench.methods                          # ours and copying, Qwen3-0.6B's layout, three models
    python -m bench.methods --with mergekit          # mergekit 0.1.5 too, in an environment of its own

copy: one output's bytes copied and synced, the two other inputs read. All inputs are in the page cache. mergekit runs
the same configuration files, which `mi-kernels merge` reads as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mi_kernels.synthetic import write_checkpoint

from . import machine
from .merge import Bench
from .models import MODELS

# The paper's settings: Task Arithmetic with alpha 0.7, TIES with density 0.2 and scale 0.5.
CONFIGS = {
    "task_arithmetic": "merge_method: task_arithmetic\nparameters: {weight: 1.0, lambda: 0.7}\n",
    "ties": "merge_method: ties\nparameters: {weight: 1.0, density: 0.2, lambda: 0.5}\n",
}


class Methods(Bench):
    """A base beside the two models, and a configuration for each method."""

    def __init__(self, folder: Path, model: str) -> None:
        super().__init__(folder, model, 1)
        self.base = folder / "base"
        write_checkpoint(self.base, MODELS[model](), seed=3)
        self.inputs = (self.base, self.instruct, self.thinking)
        for name, text in CONFIGS.items():
            models = "".join(f"  - model: {path}\n" for path in self.inputs[1:])
            config = f"{text}base_model: {self.base}\nmodels:\n{models}dtype: bfloat16\n"
            (folder / f"{name}.yml").write_text(config)

    def command(self, name: str) -> Sequence[str]:
        """The command line of "METHOD ours", "METHOD mergekit" or "copy"."""
        if name == "copy":
            copy = f"mkdir {self.out} && cp {self.base}/*.safetensors {self.out}/ && sync {self.out}/*.safetensors"
            reads = f"cat {self.instruct}/*.safetensors {self.thinking}/*.safetensors > /dev/null"
            return ["sh", "-c", f"{copy} && {reads}"]
        method, tool = name.split()
        config = str(self.folder / f"{method}.yml")
        if tool == "mergekit":
            return [self.program("mergekit-yaml"), config, str(self.out)]
        return [self.program("mi-kernels"), "merge", config, "-o", str(self.out), "--quiet"]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Median seconds, the ratio to copying round by round, and the peak of anonymous memory."""
    lines = [f"{'':<26}{'median s':>9}{'min':>7}{'max':>7}{'of copy':>9}{'anon MB':>9}"]
    base = [r["wall"] for r in results["copy"]]
    for name, runs in results.items():
        walls = [r["wall"] for r in runs]
        ratio = median(w / c for w, c in zip(walls, base))
        anonymous = max(r["anonymous"] for r in runs) / 1e6
        lines.append(
            f"{name:<26}{median(walls):>9.2f}{min(walls):>7.2f}{max(walls):>7.2f}{ratio:>9.2f}{anonymous:>9.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="0.6B", help="whose layout (default: 0.6B)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--with", dest="others", choices=["mergekit"], help="also run mergekit")
    parser.add_argument("--folder", help="where to work; needs four times the model's size")
    parser.add_argument("--json", help="also write the results there")
    arguments = parser.parse_args()
    tools = ["ours", *([arguments.others] if arguments.others else [])]
    contestants = ["copy", *(f"{method} {tool}" for method in CONFIGS for tool in tools)]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory(prefix="mi-kernels-bench-", dir=arguments.folder) as name:
        bench = Methods(Path(name), arguments.model)
        for number in range(arguments.rounds):
            for contestant in contestants:
                results[contestant].append(bench.time(contestant).as_dict())
                print(f"round {number + 1} {contestant}: {results[contestant][-1]['wall']:.2f} s", file=sys.stderr)
    about = machine.describe()
    print(f"Qwen3-{arguments.model} layout, warm, synced; {about['processor']}, {about['cores']} cores")
    print(table(results))
    if arguments.json:
        content = {"machine": about, "model": arguments.model, "results": results}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
