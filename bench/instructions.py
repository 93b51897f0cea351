"""Counts the instructions for each element in the hot kernels: a figure of speed without noise.

    python -m bench.instructions            # compares with bench/results/instructions.json; status 1 if a count is off
    python -m bench.instructions --update   # stores the counts for this compiler

A native driver (programs/instructions.cpp) is compiled with the flags of setup.py and run under valgrind, which counts
exactly: only another compiler or a change of the code changes a count. So counts are stored by compiler version, and
must agree within 2 %. valgrind does not know AVX-512; that kernel is the same loop with wider registers. Fewer
instructions do not always take less time: `bench.compare` measures time.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import results
from .registry import Benchmark

BAND = 0.02
STORE = results.RESULTS / "instructions.json"
HERE = Path(__file__).resolve().parent
SOURCES = ("isa", "scalar", "avx2", "avx512", "neon")
# The flags of setup.py.
_FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-fast-math"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_ISA_FLAGS = {"avx2": _AVX2, "avx512": [*_AVX2, "-mavx512f", "-mavx512bw", "-w"]}


class CannotCountError(RuntimeError):
    """A tool is missing, or no counts are stored for this compiler."""


def compiler() -> tuple[str, str]:
    """The C++ compiler's command and its version with the machine: "g++ 12.2.0, x86_64"."""
    command = os.environ.get("CXX", "g++")
    if shutil.which(command) is None:
        raise CannotCountError(f"the compiler {command} is missing")
    first = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    version = re.search(r"\d+\.\d+\.\d+", first)
    kind = "clang" if "clang" in first else "g++"
    return command, f"{kind} {version[0] if version else first}, {platform.machine()}"


def build(folder: Path) -> Path:
    """The driver, compiled like the extension."""
    command, _ = compiler()
    flags = _ISA_FLAGS if platform.machine().lower() in ("x86_64", "amd64") else {}
    objects = []
    for source in [
        *(HERE.parent / "csrc" / "cpu" / f"{name}.cpp" for name in SOURCES),
        HERE / "programs" / "instructions.cpp",
    ]:
        objects.append(str(folder / f"{source.stem}.o"))
        own = flags.get(source.stem, [])
        subprocess.run([command, *_FLAGS, *own, "-c", str(source), "-o", objects[-1]], check=True)
    program = folder / "instructions"
    subprocess.run([command, *objects, "-o", str(program)], check=True)
    return program


def count(program: Path, isa: str, kernel: str) -> float:
    """Instructions for each element."""
    output = program.parent / "callgrind.out"
    options = ["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=counted", f"--callgrind-out-file={output}"]
    done = subprocess.run(["valgrind", *options, str(program), isa, kernel], capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise CannotCountError(f"valgrind failed on {isa} {kernel}:\n{done.stderr[-1000:]}")
    return int(found[1]) / int(done.stdout)


def measure(only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """A row for each kernel and each ISA that valgrind can run.

    Args:
        only: the kernels to count (default: all).
    """
    if shutil.which("valgrind") is None:
        raise CannotCountError("valgrind is missing")
    group = compiler()[1]
    rows = []
    with tempfile.TemporaryDirectory(prefix="mi-kernels-instructions-") as name:
        program = build(Path(name))
        listed = subprocess.run(
            ["valgrind", "-q", "--tool=none", str(program)], capture_output=True, text=True, check=True
        )
        for isa, kernel in (line.split(" ", 1) for line in listed.stdout.splitlines()):
            if isa != "avx512" and (only is None or kernel in only):
                found = round(count(program, isa, kernel), 4)
                rows.append({"group": group, "name": f"{kernel}, {isa}", "instructions_per_element": found})
    return rows


def stored(group: str) -> dict[str, float]:
    """The stored counts of this compiler, by row name.

    Raises:
        CannotCountError: none are stored.
    """
    rows = results.load(STORE)["rows"] if STORE.exists() else []
    found = {row["name"]: row["instructions_per_element"] for row in rows if row["group"] == group}
    if not found:
        raise CannotCountError(f"no counts are stored for {group}: `python -m bench.instructions --update` adds them")
    return found


def off(rows: Sequence[dict[str, Any]], wanted: dict[str, float]) -> list[str]:
    """A line for each count that differs from its stored value by more than BAND, or has none."""
    found = []
    for row in rows:
        now, before = row["instructions_per_element"], wanted.get(row["name"])
        if before is None or abs(now / before - 1) > BAND:
            found.append(f"{row['name']}: {now:.3f} instructions an element, stored {before}")
    return found


def update(rows: Sequence[dict[str, Any]]) -> None:
    """Replaces the stored rows of the same compiler."""
    others = results.load(STORE)["rows"] if STORE.exists() else []
    kept = [row for row in others if row["group"] != rows[0]["group"]]
    command = "python -m bench.instructions --update"
    results.save(STORE, results.record("instructions", command, {"band": BAND}, [*kept, *rows]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Instructions for each element: a table for each compiler."""
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append([row["name"], f"{row['instructions_per_element']:.3f}"])
    return "\n\n".join(results.table([group, "instructions an element"], lines) for group, lines in groups.items())


# No step of `bench.all`: new counts are stored only on purpose, by `--update`.
BENCHMARK = Benchmark(name="instructions", command="bench.instructions", table=table, takes_folder=False)


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="store the counts for this compiler")
    arguments = parser.parse_args(argv)
    try:
        rows = measure()
        print(table(rows))
        if arguments.update:
            update(rows)
            return 0
        wrong = off(rows, stored(rows[0]["group"]))
    except CannotCountError as error:
        print(f"bench.instructions: {error}", file=sys.stderr)
        return 2
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
