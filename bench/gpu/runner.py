"""Runs the steps of a stage one after the other, each in a process, and writes what they find as they find it.

Two files for each stage, since a lent machine may return only a few: `stage-N.json` and `stage-N.log`. The JSON file is
replaced after every step. The log gets every line of every step at once. While a step runs, its figures so far are in
`stage-N.running.json`, so a kill at any time loses nothing that was measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import checks, device_state
from .part import write_json
from .steps import Step

LOG_LIMIT = 3 << 20  # bytes of one step's output; the rest is counted and not kept
_START = 10  # seconds: a step with less time left is not started
Command = Callable[[Step, Path, Sequence[str]], list[str]]
Entry = dict[str, Any]


class Log:
    """The log of a stage. Every line is on the disk when `line` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", errors="replace")
        self._written = self._dropped = 0

    def line(self, text: str) -> None:
        """Prints a line and appends it, unless the step has written too much."""
        print(text, flush=True)
        if self._written > LOG_LIMIT:
            self._dropped += 1
            return
        self._written += len(text) + 1
        self._file.write(text + "\n")
        self._file.flush()

    def next_step(self) -> None:
        """Ends the account of the last step."""
        if self._dropped:
            self._written = 0
            self.line(f"... {self._dropped:,} further lines of this step are not kept")
        self._written = self._dropped = 0

    def close(self) -> None:
        self._file.close()


class Runner:
    """One run of the steps of a stage.

    Args:
        stage: its number.
        out: the folder of the results.
        about: what the JSON file says of the run: commit, whether it measures, ...
        command: makes the command of a step from the step, the file for its figures, and the backends.
        limit: seconds for all steps together.
        earlier: entries of steps that were run before and are kept.
    """

    def __init__(
        self,
        stage: int,
        out: Path,
        about: Mapping[str, Any],
        command: Command,
        limit: float,
        earlier: Mapping[str, Entry] | None = None,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.part = out / f"stage-{stage}.json", out / f"stage-{stage}.running.json"
        self._log = Log(out / f"stage-{stage}.log")
        self._command, self._end = command, time.monotonic() + limit
        self.report: dict[str, Any] = {"stage": stage, **about, "steps": dict(earlier or {})}

    def run(self, steps: Sequence[Step]) -> bool:
        """Runs the steps. Returns whether none failed."""
        try:
            for step in steps:
                self.report["steps"][step.name] = self._run(step)
                self._log.next_step()
                write_json(self.path, self.report)
                self.part.unlink(missing_ok=True)
        finally:
            self._log.close()
        return all(entry["status"] in ("passed", "skipped") for entry in self.report["steps"].values())

    @property
    def backends(self) -> list[str]:
        """Those that the machine has, without those whose check has failed."""
        steps = self.report["steps"]
        reasons = ((steps.get("machine") or {}).get("result") or {}).get("backends", {})
        failed = {step["backend"] for step in steps.values() if step["backend"] and _failed(step)}
        return [name for name, reason in reasons.items() if reason is None and name not in failed]

    def _run(self, step: Step) -> Entry:
        entry: Entry = {"status": "skipped", "reason": None, "backend": step.backend, "result": None}
        left = self._end - time.monotonic()
        if reason := self._obstacle(step, left):
            self._log.line(f"=== {step.name}: skipped, {reason}")
            return {**entry, "reason": reason}
        seconds = min(step.seconds, left)
        self._log.line(f"=== {step.name}: at most {seconds:.0f} s")
        self.part.unlink(missing_ok=True)
        monitor = device_state.Monitor()
        started = time.monotonic()
        status = self._watch(self._command(step, self.part, self.backends), seconds)
        entry["seconds"] = round(time.monotonic() - started, 3)
        entry["device"] = monitor.stop()
        found = _read(self.part)
        entry |= {key: found.get(key) for key in ("status", "reason", "result")}
        if status is None:
            entry |= {"status": "stopped", "reason": f"not done after its {seconds:.0f} seconds"}
        elif entry["status"] not in ("passed", "skipped", "failed"):
            entry |= {"status": "failed", "reason": f"the process ended with status {status}"}
        self._log.line(f"=== {step.name}: {_in_words(entry)}")
        return entry

    def _obstacle(self, step: Step, left: float) -> str | None:
        """Why a step is not run, or None."""
        if left < _START:
            return "no time is left in this stage"
        steps = self.report["steps"]
        if step.name != "machine" and "machine" in steps and _failed(steps["machine"]):
            return "the step machine failed"
        for name in step.needs:
            if name in steps and _failed(steps[name]):
                return f"{name} failed: wrong bits are not timed"
        if step.times and not self.backends:
            return "no backend is available that passed its tests"
        return None

    def _watch(self, command: Sequence[str], seconds: float) -> int | None:
        """Runs a command, and copies its output to the log. Returns its exit status, or None if it was stopped."""
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=checks.environment_of({"PYTHONUNBUFFERED": "1"}), start_new_session=True,
        )  # fmt: skip
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            _kill(child)

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                self._log.line(line.rstrip("\n"))
            status = child.wait()
        finally:
            timer.cancel()
            _kill(child)  # of an interrupted run; what a step left behind goes too
        return None if stopped.is_set() else status


def _kill(child: subprocess.Popen[str]) -> None:
    """Ends the process and its children, which share its group."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _failed(entry: Mapping[str, Any]) -> bool:
    return entry["status"] in ("failed", "stopped")


def _in_words(entry: Mapping[str, Any]) -> str:
    reason = f" ({entry['reason']})" if entry["reason"] else ""
    return f"{entry['status']} after {entry['seconds']:.1f} s{reason}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def step_command(stage: int, dry: bool, folder: Path | None) -> Command:
    """The command of each step of a stage, for `Runner`."""

    def command(step: Step, part: Path, backends: Sequence[str]) -> list[str]:
        words = [sys.executable, "-m", "bench.gpu.step", str(stage), step.name, "--part", str(part.resolve())]
        words += ["--backends", ",".join(backends)]
        words += ["--dry-run"] if dry else []
        return words + (["--folder", str(folder)] if folder is not None else [])

    return command
