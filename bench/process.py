"""One command as a whole process: its time, its processor time, its memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SAMPLE_SECONDS = 0.01


@dataclass
class Run:
    """Wall and processor seconds, and peak memory in bytes: anonymous (sampled every 10 ms) and total resident."""

    wall: float
    cpu: float
    anonymous: int
    resident: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class CommandFailedError(RuntimeError):
    pass


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Runs `command` to its end.

    Raises:
        CommandFailedError: it ended with another status than 0; holds the end of its output.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, text=True
    )
    sampler = _Sampler(process.pid)
    sampler.start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    sampler.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise CommandFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, sampler.peak, usage.ru_maxrss * 1024)


class _Sampler(threading.Thread):
    """Watches a process's anonymous memory; the kernel keeps a peak of the total only."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._path = Path(f"/proc/{pid}/status")
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            try:
                text = self._path.read_text()
            except OSError:
                return
            for line in text.splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) * 1024)

    def stop(self) -> None:
        self._done.set()
        self.join()
