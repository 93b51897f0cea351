"""Runs a command as a process, and measures its time, its processor time, its memory, and its input and output."""

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
    """What one process used.

    Attributes:
        wall, cpu: seconds. cpu includes the children.
        anonymous, resident: peak memory of the process in bytes, sampled every 10 ms, without its children. resident
            includes the pages of the page cache that it maps.
        read, written: bytes through system calls. Reads through a memory map are not counted.
        disk_read, disk_written: bytes that moved between memory and disk. Bytes that are still in the page cache when
            the process ends count as written.
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
    """Runs `command` until it ends.

    Raises:
        CommandFailedError: its status is not 0; the message has the end of its output.
    """
    # The modules of an installed program are compiled. One that runs from the checkout must be able to cache them, too.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**inherited, **(env or {})}, text=True
    )
    sampler = _Sampler(process.pid)
    sampler.start()
    assert process.stdout is not None
    output = process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but /proc still has its figures
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
    """Samples the memory of a process.

    The kernel records the peak of resident memory (VmHWM), but not of its anonymous part. ru_maxrss does not help: a
    child inherits the value of its parent.
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
