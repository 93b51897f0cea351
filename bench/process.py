"""One command as a whole process: its time, its processor time, its memory, what it read and wrote."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.01


@dataclass
class Run:
    """What one process took, its children included.

    Attributes:
        wall, cpu: seconds.
        anonymous, resident: peak memory in bytes, sampled every 10 ms, of the process alone. resident includes what it
            maps of the page cache.
        read, written: bytes through system calls; what is read through a memory map is not among them.
        disk_read, disk_written: bytes that really went between memory and disk; what is still in the page cache when
            the process ends counts as written.
    """

    wall: float
    cpu: float
    anonymous: int
    resident: int
    read: int
    written: int
    disk_read: int
    disk_written: int


class CommandFailedError(RuntimeError):
    pass


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Runs `command` to its end.

    Raises:
        CommandFailedError: it ended with another status than 0; holds the end of its output.
    """
    # An installed program has its modules compiled; one that runs from the checkout must be allowed to keep them.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**inherited, **(env or {})}, text=True
    )
    sampler = _Sampler(process.pid)
    sampler.start()
    assert process.stdout is not None
    output = process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but its accounts can still be read
    wall = time.perf_counter() - started
    moved = _moved(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    sampler.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise CommandFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, sampler.anonymous, sampler.resident, *moved)


def _moved(pid: int) -> tuple[int, int, int, int]:
    """read, written, disk_read, disk_written of `Run`, from /proc/PID/io (proc(5))."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    found = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    disk_written = found["write_bytes"] - found["cancelled_write_bytes"]
    return found["rchar"], found["wchar"], found["read_bytes"], disk_written


class _Sampler(threading.Thread):
    """Watches a process's memory.

    The kernel keeps a peak of all resident memory (VmHWM), and none of the anonymous part. The peak in its resource
    usage is of no use here: a child starts with its parent's.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.resident = 0
        self._path = Path(f"/proc/{pid}/status")
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            try:
                lines = self._path.read_text().splitlines()
            except OSError:
                return
            found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
            self.anonymous = max(self.anonymous, found.get("RssAnon", 0))
            self.resident = max(self.resident, found.get("VmHWM", 0))

    def stop(self) -> None:
        self._done.set()
        self.join()
