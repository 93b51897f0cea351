"""Is HEAD slower than BASE? Both run in turns on this machine; exit status 1 where one is slower beyond noise.

    python -m bench.compare main HEAD
    python -m bench.compare HEAD~1 HEAD --quick
    python -m bench.compare v0.1.0 HEAD --rows 'lerp bf16, 1 MiB;mi-kernels --version'

Both commits are unpacked and built beside the benchmark's inputs (kept for the next time). A round starts a process for
each side, so that where its memory lies is drawn anew, and asks them in turns, A B B A, for every row; it gives one
ratio for each. A row is slower when the median ratio is above 1.03 and Wilcoxon's signed-rank test over the rounds
says so at 5 % for all rows together (Bonferroni). What is measured are the rows of compare_worker.py.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mi_kernels.output.synthetic import qwen3_like, write_checkpoint

from . import results
from .models import home
from .noise import show, signed_rank, spread

REPOSITORY = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("compare_worker.py")
LEAST = 1.03  # a smaller slowdown is no alarm
LEVEL = 0.05  # of a false alarm, over all rows
ROUNDS, QUICK_ROUNDS = 12, 8
QUICK_ROWS = ("lerp bf16, 1 MiB", "lerp bf16, 64 MiB", "multi_lerp, 4,000 small tensors")
_SECONDS = 0.005  # of one timing, by more calls where a call is shorter; short enough to fall between disturbances
_TURNS = 8  # at most, each A B B A or B A A B; fewer where a call is longer


def built(revision: str, place: Path) -> Path:
    """A folder with that commit's package, compiled; kept under `place` by the commit's hash."""
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.run([*git, "rev-parse", f"{revision}^{{commit}}"], capture_output=True, text=True)
    if commit.returncode != 0:
        raise SystemExit(f"bench.compare: no commit {revision!r} in this repository")
    name = commit.stdout.strip()
    folder = place / "builds" / name
    if not (folder / "built").exists():
        print(f"building {name[:12]} ...", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run([*git, "archive", name], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=folder, env=_environment(folder), check=True, stdout=sys.stderr)
        (folder / "built").touch()
    return folder


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}


class Side:
    """A running worker of one commit."""

    def __init__(self, folder: Path, inputs: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER.read_text(), str(inputs)],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"bench.compare: the worker in {self.folder} ended at {line!r}")
        return answer.rstrip("\n")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def one_round(ask: Sequence[Callable[[str], str]], rows: Sequence[str]) -> dict[str, float]:
    """For each row HEAD's seconds over BASE's: the least of a few timings in turns; disturbance only adds.

    Args:
        ask: what BASE's and HEAD's workers answer.
    """
    found = {}
    for row in rows:
        once = max(max(float(side(f"1 {row}")) for side in ask), 1e-7)
        calls = max(1, math.ceil(_SECONDS / once))
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(max(1, min(_TURNS, round(0.1 / (calls * once))))):
            for which in ((0, 1, 1, 0), (1, 0, 0, 1))[turn % 2]:
                taken[which].append(float(ask[which](f"{calls} {row}")))
        found[row] = min(taken[1]) / min(taken[0])
    return found


def verdict(ratios: Sequence[float], rows: int) -> str:
    """`slower`, `faster` or `same`, of HEAD, where `rows` such decisions are taken."""
    for word, values in (("slower", ratios), ("faster", [1 / ratio for ratio in ratios])):
        if median(values) > LEAST and signed_rank(values) < LEVEL / rows:
            return word
    return "same"


def compare(folders: Sequence[Path], inputs: Path, rows: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """The ratios of every row, one a round."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        first = number % 2  # who starts first gets other memory
        with Side(folders[first], inputs) as one, Side(folders[1 - first], inputs) as other:
            sides = [one.ask, other.ask][:: -1 if first else 1]
            available = one.ask("rows").split("\t")
            if unknown := set(rows) - set(available):
                raise SystemExit(f"bench.compare: no rows {sorted(unknown)}; there are {available}")
            for row, ratio in one_round(sides, rows or available).items():
                found.setdefault(row, []).append(ratio)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, list[float]]) -> str:
    lines = [
        [row, show(spread(ratios), digits=3), f"{signed_rank(ratios):.4f}", verdict(ratios, len(found))]
        for row, ratios in found.items()
    ]
    return results.table(["", "HEAD / BASE (min - max)", "p of slower", "HEAD is"], lines)


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a commit")
    parser.add_argument("head", metavar="HEAD", help="another")
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK_ROWS)} rows, {QUICK_ROUNDS} rounds")
    parser.add_argument("--rows", help="only these, separated by semicolons")
    parser.add_argument("--folder", help="where to build and to keep inputs")
    arguments: Any = parser.parse_args(argv)
    place = home(arguments.folder)
    folders = [built(revision, place) for revision in (arguments.base, arguments.head)]
    inputs = place / "compare"
    for seed, name in enumerate("ab"):
        if not (inputs / name).exists():
            write_checkpoint(inputs / name, qwen3_like(100_000_000), seed=seed)
    rows = arguments.rows.split(";") if arguments.rows else QUICK_ROWS if arguments.quick else []
    found = compare(folders, inputs, rows, QUICK_ROUNDS if arguments.quick else ROUNDS)
    print(table(found))
    return 1 if any(verdict(ratios, len(found)) == "slower" for ratios in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
