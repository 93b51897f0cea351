"""The figures of README.md and of bench/results/README.md, written from the result files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from .. import results
from ..files.contestants import MEASURES
from ..noise import show

README = Path(__file__).resolve().parents[2] / "README.md"
SUMMARY = results.RESULTS / "README.md"
BEGIN = "<!-- figures: python -m bench.report --readme -->"
END = "<!-- end of figures -->"
WAYS = {
    "ours": "`mi-kernels lerp`",
    "disk": "the disk alone: writes as many bytes, reads nothing",
    "cp": "`cp` one, `sync`, `cat` the other",
    "torch": "`torch.lerp` over safetensors",
    "paper": "the paper's procedure (load, bf16 arithmetic, save)",
    "mergekit": "mergekit `linear`",
}


def figures(folder: Path = results.RESULTS) -> str:
    """The table of README.md: the programs that merge, without the share of the disk alone."""
    found = _load(folder, "merge-0.6B")
    if found is None:
        return ""
    header, lines = _contestants(found)
    shown = [line for line in lines if line[0] not in (WAYS["disk"], WAYS["cp"])]
    columns = [i for i, name in enumerate(header) if name != "of the disk alone"]
    return results.table([header[i] for i in columns], [[line[i] for i in columns] for line in shown])


def summary(folder: Path = results.RESULTS) -> str:
    """The figures of bench/results/README.md: what was measured, on which machine, and by which command.

    A paragraph is left out if its result file is missing.
    """
    parts = [_merge(folder), _growth(folder), _others(folder), _memory(folder)]
    return "\n\n".join(part for part in parts if part)


def pages(folder: Path = results.RESULTS) -> list[tuple[Path, str]]:
    """The pages with figures, and the text between the markers of each."""
    return [(README, figures(folder)), (SUMMARY, summary(folder))]


def with_figures(text: str, content: str) -> str:
    """The text of a page with `content` between the markers.

    Raises:
        ValueError: a marker is missing, repeated, or out of order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README needs {BEGIN} and, after it, {END}, once each")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _load(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / f"{name}.json"
    return results.load(path) if path.exists() else None


def _row(found: dict[str, Any], group: str, name: str) -> dict[str, Any] | None:
    rows = [row for row in found["rows"] if row["group"].endswith(group) and row["name"] == name]
    return rows[0] if rows else None


def _merge(folder: Path) -> str:
    found = _load(folder, "merge-0.6B")
    if found is None:
        return ""
    settings = found["settings"]
    rounds = next(row for row in found["rows"] if row["group"].endswith("warm"))["seconds"]["rounds"]
    about = (
        f"A merge of two checkpoints of {settings['bytes'] / 1e9:.2f} GB with the shapes of {settings['model']}: "
        "inputs in the page cache, output synced to disk, whole processes, "
        f"median of {rounds} alternating runs (`{found['command']}`; {results.where(found)}):"
    )
    return f"{_wrapped(about)}\n\n{results.table(*_contestants(found))}"


def _contestants(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of a merge with cached inputs."""
    rows = [row for row in found["rows"] if row["group"].endswith("warm")]
    mergekit = (found["settings"]["mergekit"] or "").replace("==", " ") or "mergekit"
    wrong = "elements that differ from `torch.lerp` in float32"
    header = ["", "seconds (min - max)", "of `cp`", "of the disk alone", "peak anonymous memory", wrong]
    lines = []
    for row in rows:
        name = WAYS[row["name"]].replace("mergekit", mergekit)
        share = "" if row["differing"] is None else "none" if row["differing"] == 0 else f"{row['differing']:.2%}"
        memory = "" if row["name"] in MEASURES else f"{row['anonymous']['max'] / 1e6:,.0f} MB"
        ratios = [f"{row[key]['median']:.2f}" if key in row else "" for key in ("of_cp", "of_disk")]
        lines.append([name, show(row["seconds"]), *ratios, memory, share])
    return header, lines


def _growth(folder: Path) -> str:
    found = _load(folder, "grow-size")
    if found is None:
        return ""
    ours = [row for row in found["rows"] if row["name"] == "ours"]
    sizes = "; ".join(
        f"{row['at']:.1f} GB in {row['seconds']['median']:.2f} s, {row['of_cp']['median']:.2f} of `cp`" for row in ours
    )
    most = max(row["anonymous"]["max"] for row in ours) / 1e6
    return _wrapped(f"Larger models (`{found['command']}`): {sizes}. Anonymous memory: at most {most:.0f} MB.")


def _others(folder: Path) -> str:
    sentences = []
    if found := _load(folder, "sweep"):
        states = [_row(found, state, "sweep") for state in ("warm", "cold")]
        shares = [f"{row['of_merges']['median']:.2f}" for row in states if row]
        points = found["settings"]["points"]
        sentences.append(
            f"A sweep of {points} lam takes {shares[0]} of the time of {points} merges with cached inputs, "
            f"{shares[1]} with cold ones (`{found['command']}`)."
        )
    if found := _load(folder, "methods"):
        named = {"task_arithmetic ours": "Task Arithmetic", "ties ours": "TIES"}
        rows = [(label, _row(found, "warm", name)) for name, label in named.items()]
        parts = [f"{label} {row['of_copy']['median']:.2f}" for label, row in rows if row]
        sentences.append(
            f"{' and '.join(parts)} of the time of copying one output and reading the other inputs "
            f"(`{found['command']}`)."
        )
    return _wrapped(" ".join(sentences))


def _memory(folder: Path) -> str:
    found = _load(folder, "memory")
    if found is None:
        return ""
    one, many = "one tensor, 256 MiB bf16", "list, Qwen3-0.6B: 310 tensors"
    alone, listed = _row(found, one, "ours, out="), _row(found, many, "ours, multi_lerp, outs=")
    if not alone or not listed:
        return ""
    named = {"torch.lerp, out=": "`torch.lerp(out=)`", "naive torch": "`a + lam * (b - a)`"}
    single = " and ".join(f"{_times(alone, _row(found, one, name))} {label}" for name, label in named.items())
    return _wrapped(
        f"In memory, 256 MiB of bf16 on {alone['threads']} threads: {alone['bytes_per_second'] / 1e9:.0f} GB/s, "
        f"{alone['of_roofline']['median']:.2f} of the same loop without arithmetic, {single}. `multi_lerp` of the "
        f"tensors of Qwen3-0.6B: {listed['of_roofline']['median']:.2f}, "
        f"{_times(listed, _row(found, many, 'torch._foreach_lerp'))} `torch._foreach_lerp` (`{found['command']}`)."
    )


def _times(row: dict[str, Any], other: dict[str, Any] | None) -> str:
    """The ratio of their shares of the roofline, which alternated with each of them."""
    if other is None:
        raise ValueError(f"{row['group']}: not all contestants were measured")
    return f"{row['of_roofline']['median'] / other['of_roofline']['median']:.1f} times as fast as"
