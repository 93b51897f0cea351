"""Task Arithmetic and TIES file to file, compared with copying the same bytes and with mergekit.

    python -m bench.files.methods                  # ours and copy; three models like Qwen3-0.6B
    python -m bench.files.methods --with mergekit  # also mergekit 0.1.5, in its own environment

copy: copies and syncs the bytes of one output, and reads the two other inputs. All inputs are in the page cache. Both
tools run the same configuration files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import results
from ..models import Layout, home, parser, wanted_layout
from ..noise import show
from ..registry import Benchmark, Step
from . import contestants
from .contestants import Bench
from .turns import rows_of, turns

# The paper's settings: Task Arithmetic with alpha 0.7, TIES with density 0.2 and scale 0.5.
CONFIGS = {
    "task_arithmetic": "merge_method: task_arithmetic\nparameters: {weight: 1.0, lambda: 0.7}\n",
    "ties": "merge_method: ties\nparameters: {weight: 1.0, density: 0.2, lambda: 0.5}\n",
}


class Methods(Bench):
    """Three inputs, the third of which is the base, and a configuration file for each method."""

    def __init__(self, home: Path, layout: Layout) -> None:
        super().__init__(home, layout, others=[3])
        self.base = self.inputs[2]
        for name, text in CONFIGS.items():
            models = "".join(f"  - model: {path}\n" for path in self.inputs[:2])
            config = f"{text}base_model: {self.base}\nmodels:\n{models}dtype: bfloat16\n"
            (self.folder / f"{name}.yml").write_text(config)

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
        return [*self.program_of_ours(), "merge", config, "-o", str(self.out), "--quiet"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds, their ratio to copy by rounds, processor seconds, and peak anonymous memory."""
    header = ["", "seconds (min - max)", "of copy", "CPU s", "anonymous MB"]
    lines = [
        [
            row["name"],
            show(row["seconds"]),
            show(row["of_copy"]),
            f"{row['cpu']['median']:.2f}",
            f"{row['anonymous']['max'] / 1e6:,.0f}",
        ]
        for row in rows
    ]
    return results.table(header, lines)


BENCHMARK = Benchmark(
    name="methods",
    command="bench.files.methods",
    table=table,
    steps={
        "methods-mergekit": Step(["--rounds", "2", "--with", "mergekit"], ["--most", "0.05"]),
        "methods": Step(quick=["--most", "0.2", "--rounds", "2"]),
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser("bench.files.methods", __doc__, rounds=5)
    options.add_argument("--with", dest="others", choices=["mergekit"], help="also measure mergekit")
    arguments = options.parse_args(argv)
    tools = ["ours", *([arguments.others] if arguments.others else [])]
    names = ["copy", *(f"{method} {tool}" for method in CONFIGS for tool in tools)]
    wanted = wanted_layout(arguments)
    with Methods(home(arguments.folder), wanted) as bench:
        rows = rows_of("warm", turns(names, arguments.rounds, bench.time), "copy")
    print(f"{wanted.name}, warm, synced\n{table(rows)}")
    if arguments.json:
        command = results.command_line("bench.files.methods", sys.argv[1:] if argv is None else argv)
        settings = {
            "model": wanted.name,
            "bytes": wanted.nbytes,
            "mergekit": contestants.MERGEKIT if arguments.others else None,
        }
        results.save(arguments.json, results.record("methods", command, settings, rows))


if __name__ == "__main__":
    main()
