"""Task Arithmetic and TIES from file to file, against copying the same bytes and against mergekit.

    python -m bench.methods                          # ours and copying, Qwen3-0.6B's layout, three models
    python -m bench.methods --with mergekit          # mergekit 0.1.5 too, in an environment of its own

copy: one output's bytes copied and synced, the two other inputs read. All inputs are in the page cache. mergekit runs
the same configuration files, which `mi-kernels merge` reads as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import contestants, results
from .contestants import Bench
from .models import Layout, home, parser, wanted_layout
from .noise import show
from .turns import rows_of, turns

# The paper's settings: Task Arithmetic with alpha 0.7, TIES with density 0.2 and scale 0.5.
CONFIGS = {
    "task_arithmetic": "merge_method: task_arithmetic\nparameters: {weight: 1.0, lambda: 0.7}\n",
    "ties": "merge_method: ties\nparameters: {weight: 1.0, density: 0.2, lambda: 0.5}\n",
}


class Methods(Bench):
    """A base beside the two models, and a configuration for each method."""

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
    """Seconds, the ratio to copying round by round, processor seconds, and the peak of anonymous memory."""
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


def main(argv: Sequence[str] | None = None) -> None:
    options = parser("bench.methods", __doc__, rounds=5)
    options.add_argument("--with", dest="others", choices=["mergekit"], help="also run mergekit")
    arguments = options.parse_args(argv)
    tools = ["ours", *([arguments.others] if arguments.others else [])]
    names = ["copy", *(f"{method} {tool}" for method in CONFIGS for tool in tools)]
    wanted = wanted_layout(arguments)
    with Methods(home(arguments.folder), wanted) as bench:
        rows = rows_of("warm", turns(names, arguments.rounds, bench.time), "copy")
    print(f"{wanted.name}, warm, synced\n{table(rows)}")
    if arguments.json:
        command = results.command_line("bench.methods", sys.argv[1:] if argv is None else argv)
        settings = {
            "model": wanted.name,
            "bytes": wanted.nbytes,
            "mergekit": contestants.MERGEKIT if arguments.others else None,
        }
        results.save(arguments.json, results.record("methods", command, settings, rows))


if __name__ == "__main__":
    main()
