"""Results made readable: bench/results/REPORT.md with its plots, and README's figures.

    python -m bench.report            # all of bench/results to REPORT.md and plots/
    python -m bench.report --readme   # README's figures only, between their markers; needs no matplotlib

Everything printed comes from the JSON files; a test fails where README and they disagree.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from . import methods, ray, readme, results, safety, serving, sweep, turns
from .memory_table import table as memory_table

PLOTS = {
    "memory-sizes": "bf16 tensors in memory, all threads: the share of the roofline, by size of each tensor",
    "memory-lists": "All tensors of a checkpoint in memory, all threads",
    "memory-threads": "256 MiB of bf16 in memory, by threads",
    "merge-0.6B": "File to file",
    "grow-size": "Seconds as the model grows",
    "grow-size-memory": "Peak anonymous memory as the model grows",
    "grow-threads": "Seconds by threads, file to file",
    "grow-lam": "Seconds by the number of lam in one pass, against as many copies",
}


def load_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result file but the GPUs', by name."""
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("gpu-"))
    return {path.stem: results.load(path) for path in paths}


def draw(found: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """The plots for which there are results; returns their names."""
    from . import plots

    pictures: dict[str, tuple[str, Any, tuple[float, float]]] = {
        "memory-sizes": ("memory", plots.memory_sizes, (8, 3.4)),
        "memory-lists": ("memory", plots.memory_lists, (8, 3.4)),
        "memory-threads": ("memory", plots.threads, (4.5, 3.2)),
        "merge-0.6B": ("merge-0.6B", plots.contestants, (8, 2.6)),
        "grow-size": ("grow-size", lambda r: plots.growth(r, "GB of each input"), (4.5, 3.2)),
        "grow-size-memory": ("grow-size", lambda r: plots.growth(r, "GB of each input", "anonymous"), (4.5, 3.2)),
        "grow-threads": ("grow-threads", lambda r: plots.growth(r, "threads"), (4.5, 3.2)),
        "grow-lam": ("grow-lam", lambda r: plots.growth(r, "lam in one pass"), (4.5, 3.2)),
    }
    drawn = []
    for name, (source, make, size) in pictures.items():
        picture = make(found[source]) if source in found else None
        if picture is not None:
            plots.save(found[source], picture, folder / name, size)
            drawn.append(name)
    return drawn


def section(name: str, found: dict[str, Any]) -> str:
    """One result file as Markdown: what gives it, where it was measured, its tables."""
    about = f"`{found['command']}`, {readme.where(found)}; {_versions(found)}"
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items() if value is not None)
    return f"## {name}\n\n{about}\n{settings}\n\n{_tables(found)}\n"


def _versions(found: dict[str, Any]) -> str:
    machine = found["machine"]
    packages = {"Python": machine["python"], **machine["versions"]}
    return ", ".join(f"{name} {version}" for name, version in packages.items() if version)


def _tables(found: dict[str, Any]) -> str:
    if found["bench"] == "memory":
        ordered = {row["group"]: [] for row in found["rows"]}
        for row in found["rows"]:
            ordered[row["group"]].append(row)
        return "\n\n".join(f"{group}\n\n{memory_table(rows)}" for group, rows in ordered.items())
    if found["bench"] == "instructions":
        parts = []
        for group, rows in groupby(found["rows"], lambda row: row["group"]):
            lines = [[row["name"], f"{row['instructions_per_element']:.3f}"] for row in rows]
            parts.append(results.table([group, "instructions an element"], lines))
        return "\n\n".join(parts)
    tables = {
        "grow": turns.table,
        "merge": turns.table,
        "methods": methods.table,
        "ray": ray.table,
        "safety": safety.table,
        "serving": serving.table,
        "sweep": sweep.table,
    }
    return tables[found["bench"]](found["rows"])


def gpu_sections(folder: Path) -> list[str]:
    """The files of bench.gpu, each in its own form: in memory by model, file to file, what was promised."""
    parts = []
    for path in sorted(folder.glob("gpu-*.json")):
        report = json.loads(path.read_text())
        text = [f"## {path.stem}\n\n`python -m bench.gpu`, {report['device']}; commit {report['machine']['commit']}"]
        for model, found in report.get("memory", {}).items():
            lines = [
                [name, f"{r['kernel'] * 1e3:.3f}", f"{r['host'] * 1e3:.3f}", f"{r['of_copy_bandwidth']:.3f}"]
                for name, r in found["results"].items()
            ]
            shrink = "" if found["shrink"] == 1 else f", elements divided by {found['shrink']:g}"
            title = f"Qwen3-{model}, {found['tensors']:,} tensors{shrink}"
            text.append(results.table([title, "kernel ms", "host ms", "of copy bandwidth"], lines))
        if "files" in report:
            lines = [[name, f"{seconds:.3f}"] for name, seconds in report["files"]["seconds"].items()]
            text.append(results.table(["file to file", "seconds"], lines))
        parts.append("\n\n".join(text) + "\n")
    return parts


def write(folder: Path) -> Path:
    """REPORT.md and the plots beside the results."""
    found = load_all(folder)
    pictures = [f"{PLOTS[name]}:\n\n![{PLOTS[name]}](plots/{name}.png)\n" for name in draw(found, folder / "plots")]
    head = (
        "# Results\n\nWritten by `python -m bench.report` from the JSON files beside it. Figures are medians with the "
        "least and the most in\nparentheses; `bench/README.md` says what the contestants and columns are.\n"
    )
    sections = [section(name, record) for name, record in found.items()]
    path = folder / "REPORT.md"
    path.write_text("\n".join([head, *pictures, *sections, *gpu_sections(folder)]))
    return path


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--readme", action="store_true", help="write README's figures instead")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="a folder of result files")
    arguments = parser.parse_args(argv)
    if arguments.readme:
        text = readme.with_figures(readme.README.read_text(), readme.figures(arguments.results))
        readme.README.write_text(text)
        print(f"written to {readme.README}")
    else:
        print(f"written to {write(arguments.results)}")


if __name__ == "__main__":
    main()
