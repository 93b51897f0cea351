"""Instructions an element of the hot kernels: the figure of speed that does not depend on the machine's mood.

    python -m bench.instructions            # counts, and compares with bench/results/instructions.json; status 1 if off
    python -m bench.instructions --update   # counts, and stores them for this compiler

A native driver (instructions.cpp) is compiled with setup.py's flags and run under valgrind, which counts exactly: only
another compiler, or a change of the code, changes a count. So counts are kept by compiler version, and held within 2 %.
valgrind does not know AVX-512; that kernel is the same loop over wider registers. Fewer instructions are not always
less time: `bench.compare` measures that.
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

BAND = 0.02
STORE = results.RESULTS / "instructions.json"
HERE = Path(__file__).resolve().parent
SOURCES = ("isa", "scalar", "avx2", "avx512", "neon")
# Those of setup.py.
_FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-fast-math"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_ISA_FLAGS = {"avx2": _AVX2, "avx512": [*_AVX2, "-mavx512f", "-mavx512bw", "-w"]}


class CannotCountError(RuntimeError):
    """A tool that is needed is missing, or a result for this compiler is."""


def compiler() -> tuple[str, str]:
    """The C++ compiler's command and its version with the machine: "g++ 12.2.0, x86_64"."""
    command = os.environ.get("CXX", "g++")
    if shutil.which(command) is None:
        raise CannotCountError(f"no {command}")
    first = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    version = re.search(r"\d+\.\d+\.\d+", first)
    kind = "clang" if "clang" in first else "g++"
    return command, f"{kind} {version[0] if version else first}, {platform.machine()}"


def build(folder: Path) -> Path:
    """The driver, compiled like the extension."""
    command, _ = compiler()
    flags = _ISA_FLAGS if platform.machine().lower() in ("x86_64", "amd64") else {}
    objects = []
    for source in [*(HERE.parent / "csrc" / "cpu" / f"{name}.cpp" for name in SOURCES), HERE / "instructions.cpp"]:
        objects.append(str(folder / f"{source.stem}.o"))
        own = flags.get(source.stem, [])
        subprocess.run([command, *_FLAGS, *own, "-c", str(source), "-o", objects[-1]], check=True)
    program = folder / "instructions"
    subprocess.run([command, *objects, "-o", str(program)], check=True)
    return program


def count(program: Path, isa: str, kernel: str) -> float:
    """Instructions an element."""
    output = program.parent / "callgrind.out"
    options = ["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=counted", f"--callgrind-out-file={output}"]
    done = subprocess.run(["valgrind", *options, str(program), isa, kernel], capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise CannotCountError(f"valgrind failed on {isa} {kernel}:\n{done.stderr[-1000:]}")
    return int(found[1]) / int(done.stdout)


def _listed(program: Path) -> list[str]:
    """What the driver can run under valgrind, which shows it a processor without AVX-512."""
    command = ["valgrind", "-q", "--tool=none", str(program)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def measure(only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """A row for each kernel on each ISA that valgrind can run; `only` some kernels."""
    if shutil.which("valgrind") is None:
        raise CannotCountError("no valgrind")
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
    """The counts kept for this compiler, by row name.

    Raises:
        CannotCountError: there are none.
    """
    rows = results.load(STORE)["rows"] if STORE.exists() else []
    found = {row["name"]: row["instructions_per_element"] for row in rows if row["group"] == group}
    if not found:
        raise CannotCountError(f"no counts are stored for {group}: `python -m bench.instructions --update` adds them")
    return found


def off(rows: Sequence[dict[str, Any]], wanted: dict[str, float]) -> list[str]:
    """What lies outside the band, or is not stored; in words."""
    found = []
    for row in rows:
        now, before = row["instructions_per_element"], wanted.get(row["name"])
        if before is None or abs(now / before - 1) > BAND:
            found.append(f"{row['name']}: {now:.3f} instructions an element, stored {before}")
    return found


def update(rows: Sequence[dict[str, Any]]) -> None:
    """Stores the rows in place of those of their compiler."""
    others = results.load(STORE)["rows"] if STORE.exists() else []
    kept = [row for row in others if row["group"] != rows[0]["group"]]
    command = "python -m bench.instructions --update"
    results.save(STORE, results.record("instructions", command, {"band": BAND}, [*kept, *rows]))


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="store the counts for this compiler")
    arguments = parser.parse_args(argv)
    try:
        rows = measure()
        lines = [[row["name"], f"{row['instructions_per_element']:.3f}"] for row in rows]
        print(results.table([rows[0]["group"], "instructions an element"], lines))
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
