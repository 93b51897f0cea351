#!/usr/bin/env python
"""Puts faults into a copy of the code, one at a time, and asks whether the tests notice.

    python tools/mutants.py                       every fault of tests/project/mutants
    python tools/mutants.py publishing            those of one area
    python tools/mutants.py last-error-raised ... some, by name
    python tools/mutants.py --ci                  the slice that CI runs
    python tools/mutants.py --list                names, files and tests, and nothing is run

It needs an environment in which the tests themselves run (`pip install -e '.[test]'`, and `.[eval]` for the area
`evaluation`). A fault in csrc/ also needs the compiler, and takes about a minute. Exit status: 0 where every
fault is noticed or said to be harmless; 1 otherwise, also where the tests fail without any fault, or are all skipped.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.project.mutants import Fault, all_faults  # noqa: E402
from tests.support.clones import copy_repository  # noqa: E402

_SECONDS = 600  # a fault that lets the tests hang is noticed after so long


class Result(NamedTuple):
    """What became of one fault."""

    fault: Fault
    noticed: bool
    by: str  # the first test that failed, or why none did
    seconds: float

    @property
    def fine(self) -> bool:
        return self.noticed or bool(self.fault.harmless)


class Workspace:
    """A copy of the tracked files and of the built extension, in which one fault at a time is put."""

    def __init__(self, root: Path) -> None:
        self.root = root
        copy_repository(root)
        self._extensions = list((ROOT / "mi_kernels").glob("*.so"))

    def _restore_extensions(self) -> None:
        for built in (self.root / "mi_kernels").glob("*.so"):
            built.unlink()
        for extension in self._extensions:
            shutil.copy2(extension, self.root / "mi_kernels")

    def run(self, tests: Sequence[str], stop: bool = True) -> tuple[int | None, str]:
        """pytest's exit status, None where it took too long, and what it printed."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            *(["-x"] if stop else []),
        ]
        # The copy comes before an editable install of the same package; bytecode of another fault must not be taken.
        environment = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            [*command, *tests],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=_SECONDS if stop else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            output, _ = process.communicate()
            return None, output
        return process.returncode, output

    def try_fault(self, fault: Fault) -> Result:
        """Puts the fault in, runs its tests, and takes it out again."""
        began = time.perf_counter()
        path = self.root / fault.file
        sound = path.read_text()
        if sound.count(fault.old) != 1:
            return Result(fault, False, f"its text occurs {sound.count(fault.old)} times in {fault.file}", 0)
        path.write_text(sound.replace(fault.old, fault.new))
        native = fault.file.startswith("csrc/") and not fault.file.startswith("csrc/cuda/")
        try:
            if native and (error := self._build()):
                return Result(fault, False, f"does not compile: {error}", time.perf_counter() - began)
            status, output = self.run(fault.tests)
        finally:
            path.write_text(sound)
            if native:
                self._restore_extensions()
        return Result(fault, *_judged(status, output), time.perf_counter() - began)

    def _build(self) -> str:
        for built in (self.root / "mi_kernels").glob("*.so"):
            built.unlink()
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        return done.stderr.strip()[-300:] if done.returncode else ""


def _judged(status: int | None, output: str) -> tuple[bool, str]:
    """Whether a run of the tests noticed the fault, and by which test."""
    if status is None:
        return True, f"hangs for {_SECONDS} s"
    if status < 0:
        return True, f"ends by signal {-status}"
    if status == 0:
        return False, "nothing fails" if re.search(r"\d passed", output) else "every test is skipped here"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", output, re.MULTILINE)
    return True, failed.group(1) if failed else f"pytest ends with {status}"


def _chosen(words: Sequence[str], ci: bool) -> list[Fault]:
    areas = all_faults()
    everything = [fault for faults in areas.values() for fault in faults]
    known = {*areas, *(fault.name for fault in everything)}
    unknown = [word for word in words if word not in known]
    if unknown:
        sys.exit(f"mutants: {', '.join(unknown)}: no such area or fault\n  See: python tools/mutants.py --list")
    chosen = [
        fault for area, faults in areas.items() for fault in faults if not words or area in words or fault.name in words
    ]
    return [fault for fault in chosen if fault.ci] if ci else chosen


def _run_all(faults: Sequence[Fault], jobs: int) -> list[Result]:
    """In the order of `faults`."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(faults)):
        waiting.put(number)
    results: dict[int, Result] = {}

    def work(workspace: Workspace) -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            result = results[number] = workspace.try_fault(faults[number])
            mark = "noticed" if result.noticed else "harmless" if result.fine else "NOT NOTICED"
            print(f"{len(results):3}/{len(faults)} {mark:11} {result.fault.name}: {result.by}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        spaces = []
        for job in range(min(jobs, len(faults))):
            root = Path(temporary, str(job))
            root.mkdir()
            spaces.append(Workspace(root))
        tests = sorted({test for fault in faults for test in fault.tests})
        print(f"{len(faults)} faults; without any of them, their tests ...", flush=True)
        status, output = spaces[0].run(tests, stop=False)
        if status:
            sys.exit(f"{output[-4000:]}\nmutants: the tests fail without any fault\n  Fix them first.")
        print(output.strip().splitlines()[-1], flush=True)
        threads = [threading.Thread(target=work, args=(space,)) for space in spaces]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [results[number] for number in range(len(faults))]


def _table(results: Sequence[Result]) -> str:
    lines = ["| fault | in | noticed by | seconds |", "| --- | --- | --- | ---: |"]
    for fault, noticed, by, seconds in results:
        shown = f"`{by}`" if noticed and "::" in by else by if noticed else f"**not**: {fault.harmless or by}"
        lines.append(f"| {fault.name} | `{fault.file}` | {shown} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="areas or faults (default: all)")
    parser.add_argument("--ci", action="store_true", help="only the slice that CI runs")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="copies that are tested at a time (default: 1)"
    )
    parser.add_argument("--table", metavar="FILE", help="also write the results to FILE, as a Markdown table")
    parser.add_argument("--list", action="store_true", help="show the faults and run nothing")
    arguments = parser.parse_args()
    faults = _chosen(arguments.names, arguments.ci)
    if arguments.list:
        for fault in faults:
            print(fault.name, fault.file, *fault.tests)
        return 0
    if not faults:
        sys.exit("mutants: none of these is in the slice of CI\n  Leave out --ci.")
    results = _run_all(faults, arguments.jobs)
    matters = [result for result in results if not result.fault.harmless]
    noticed = sum(result.noticed for result in matters)
    summary = f"{noticed} of {len(matters)} faults noticed, {len(results) - len(matters)} harmless"
    print(f"\n{_table(results)}\n\n{summary}")
    if arguments.table:
        Path(arguments.table).write_text(f"{_table(results)}\n\n{summary}\n")
    return 0 if all(result.fine for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
