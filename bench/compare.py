"""Reports whether HEAD is slower than BASE, measured on this machine; exit status 1 if it is, beyond noise.

    python -m bench.compare main HEAD
    python -m bench.compare HEAD~1 HEAD --quick
    python -m bench.compare v0.1.0 HEAD --rows 'lerp bf16, 1 MiB;mi-kernels --version'

Both commits are unpacked and built next to the inputs of the benchmarks, and kept for the next run. Each round starts a
new process for each commit, because speed depends on where memory is allocated. The processes time every row
alternately, in the order A B B A, which gives one ratio for each row and round. A row is slower if its median ratio is
above 1.03 and Wilcoxon's signed-rank test over the rounds is significant at 5 %, corrected for the number of rows
(Bonferroni). The rows are defined in programs/compare.py.
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
WORKER = REPOSITORY / "bench" / "programs" / "compare.py"
LEAST = 1.03  # a smaller median ratio raises no alarm
LEVEL = 0.05  # probability of a false alarm, over all rows
ROUNDS, QUICK_ROUNDS = 12, 8
QUICK_ROWS = ("lerp bf16, 1 MiB", "lerp bf16, 64 MiB", "multi_lerp, 4,000 small tensors")
_SECONDS = 0.005  # of one timing, which repeats shorter calls; short enough to fall between disturbances
_TURNS = 8  # at most; each is A B B A or B A A B; fewer for a longer call


def built(revision: str, place: Path) -> Path:
    """The folder with the compiled package of that commit. It is kept below `place`, named by its hash."""
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.run([*git, "rev-parse", f"{revision}^{{commit}}"], capture_output=True, text=True)
    if commit.returncode != 0:
        raise SystemExit(f"bench.compare: {revision!r} is not a commit of this repository")
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
    """A running process of programs/compare.py in the folder of one commit."""

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
            raise SystemExit(f"bench.compare: the process in {self.folder} ended without an answer to {line!r}")
        return answer.rstrip("\n")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def one_round(ask: Sequence[Callable[[str], str]], rows: Sequence[str]) -> dict[str, float]:
    """Seconds of HEAD / seconds of BASE for each row, from the minimum of a few alternating timings.

    The minimum, because disturbances only add time.

    Args:
        ask: send a line to the process of BASE, and of HEAD, and return its answer.
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
    """Whether HEAD is `slower`, `faster` or the `same`.

    Args:
        rows: the number of rows that are decided, for the correction.
    """
    for word, values in (("slower", ratios), ("faster", [1 / ratio for ratio in ratios])):
        if median(values) > LEAST and signed_rank(values) < LEVEL / rows:
            return word
    return "same"


def compare(folders: Sequence[Path], inputs: Path, rows: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """The ratios of each row, one for each round."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        first = number % 2  # the order of the starts affects where memory is allocated
        with Side(folders[first], inputs) as one, Side(folders[1 - first], inputs) as other:
            sides = [one.ask, other.ask][:: -1 if first else 1]
            available = one.ask("rows").split("\t")
            if unknown := set(rows) - set(available):
                raise SystemExit(f"bench.compare: unknown rows {sorted(unknown)}; known: {available}")
            for row, ratio in one_round(sides, rows or available).items():
                found.setdefault(row, []).append(ratio)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, list[float]]) -> str:
    lines = [
        [row, show(spread(ratios), digits=3), f"{signed_rank(ratios):.4f}", verdict(ratios, len(found))]
        for row, ratios in found.items()
    ]
    return results.table(["", "HEAD / BASE (min - max)", "p (slower)", "HEAD is"], lines)


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument("head", metavar="HEAD", help="the commit that may be slower")
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK_ROWS)} rows, {QUICK_ROUNDS} rounds")
    parser.add_argument("--rows", help="only these rows, separated by semicolons")
    parser.add_argument("--folder", help="the working folder, which keeps builds and inputs")
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
