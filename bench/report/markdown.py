"""The report: bench/results/REPORT.md with its plots, made from the result files and from what benchmarks declare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import results
from ..noise import show
from ..registry import Plot, benchmarks
from . import plots


def all_plots() -> dict[str, Plot]:
    """The plots of every benchmark, by the name of their file."""
    return {name: plot for benchmark in benchmarks().values() for name, plot in benchmark.plots.items()}


def load_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result by the name of its file, except those of bench.gpu, whose form differs."""
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("gpu-"))
    return {path.stem: results.load(path) for path in paths}


def draw(found: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """Draws the plots whose results exist, and returns their names."""
    drawn = []
    for name, plot in all_plots().items():
        picture = plot.make(found[plot.result]) if plot.result in found else None
        if picture is not None:
            plots.save(found[plot.result], picture, folder / name, plot.size)
            drawn.append(name)
    return drawn


def section(name: str, found: dict[str, Any]) -> str:
    """One result as Markdown: its command, its machine, its settings, its tables."""
    about = f"`{found['command']}`, {results.where(found)}; {_versions(found)}"
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items() if value is not None)
    return f"## {name}\n\n{about}\n{settings}\n\n{_table(found)}\n"


def _versions(found: dict[str, Any]) -> str:
    machine = found["machine"]
    packages = {"Python": machine["python"], **machine["versions"]}
    return ", ".join(f"{name} {version}" for name, version in packages.items() if version)


def _table(found: dict[str, Any]) -> str:
    if found["bench"] not in benchmarks():
        known = ", ".join(sorted(benchmarks()))
        raise ValueError(f"no benchmark is registered as {found['bench']!r}; registered: {known}")
    return benchmarks()[found["bench"]].table(found["rows"])


def gpu_sections(folder: Path) -> list[str]:
    """The results of bench.gpu as Markdown: the goals, then the lists in memory, then file to file."""
    parts = []
    for path in sorted(folder.glob("gpu-*.json")):
        report = json.loads(path.read_text())
        text = [f"## {path.stem}\n\n`python -m bench.gpu`, {report['device']}; commit {report['machine']['commit']}"]
        text.append(results.table(["goal", "wanted", "measured"], [_goal(row) for row in report["goals"]]))
        steps = {name: step["result"] for stage in report["stages"] for name, step in stage["steps"].items()}
        for name, found in steps.items():
            if name.startswith("memory-") and found:
                text.append(_gpu_list(found))
            elif name.startswith("files-") and found:
                lines = [[label, show(seconds, 1, 3)] for label, seconds in found["seconds"].items()]
                text.append(results.table([f"{name.replace('-', ' on ')}", "seconds"], lines))
        parts.append("\n\n".join(text) + "\n")
    return parts


def _goal(row: dict[str, Any]) -> list[str]:
    bound = f"at most {row['at_most']:g}" if "at_most" in row else f"at least {row['at_least']:g}"
    return [row["what"], bound, "not measured" if row["found"] is None else f"{row['found']:.3f}"]


def _gpu_list(found: dict[str, Any]) -> str:
    lines = [
        [name, show(r["kernel"], 1e3, 3), f"{r['host']['median'] * 1e3:.3f}", f"{r['of_xor']['median']:.3f}"]
        for name, r in found["results"].items()
    ]
    shrink = "" if found["shrink"] == 1 else f", elements divided by {found['shrink']:g}"
    title = f"{found['list']}, {found['tensors']:,} tensors{shrink}"
    return results.table([title, "kernel ms", "host ms", "of two reads and a write"], lines)


def write(folder: Path) -> Path:
    """Writes REPORT.md and the plots beside the results, and returns the path of REPORT.md."""
    found = load_all(folder)
    captions = {name: plot.caption for name, plot in all_plots().items()}
    drawn = draw(found, folder / "plots")
    pictures = [f"{captions[name]}:\n\n![{captions[name]}](plots/{name}.png)\n" for name in drawn]
    head = (
        "# Results\n\n"
        "Written by `python -m bench.report` from the JSON files next to this page. Figures are medians, with minimum\n"
        "and maximum in parentheses, or as error bars; an arrow is a maximum beyond the axis.\n"
        "[bench/README.md](../README.md) explains the contestants and the columns.\n"
    )
    sections = [section(name, record) for name, record in found.items()]
    path = folder / "REPORT.md"
    path.write_text("\n".join([head, *pictures, *sections, *gpu_sections(folder)]))
    return path
