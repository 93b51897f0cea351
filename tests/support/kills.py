"""Runs the program in forks of one warm process and stops each at a chosen event: hundreds of runs in seconds.

An event is a call that changes the file system, counted over all threads. So a run can be stopped between any two
changes, also between changes that future code adds. The program itself does not take part in this.

    python -m tests.support.kills      reads a `Run` as JSON a line, answers with an `Outcome` as JSON a line
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

_CALLS = ("mkdir", "pwrite", "ftruncate", "rename", "replace", "unlink", "rmdir")


class Run(NamedTuple):
    """A command and where to stop it.

    Attributes:
        argv: the arguments.
        event: the signal arrives before the event with this number, counted from 0; None: no event.
        signal: the number of the signal.
        torn: the signal arrives when half of the write is done.
        seconds: the signal arrives after this time instead of at an event.
        exchange: True if the system can swap two folders atomically.
    """

    argv: Sequence[str]
    event: int | None = None
    signal: int = signal.SIGKILL
    torn: bool = False
    seconds: float | None = None
    exchange: bool = True


class Outcome(NamedTuple):
    """How a run ended: exit status (or minus the signal), stderr, and the names of its events."""

    status: int
    err: str
    events: list[str]


class Runner:
    """Starts and controls the warm process."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "tests.support.kills"]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, run: Run) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(run._asdict()) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def runner() -> Iterator[Runner]:
    made = Runner()
    try:
        yield made
    finally:
        made.close()


def _events(run: Run, log: int) -> None:
    """Patches every call that changes the file system. Writes the names of the calls to descriptor `log`."""
    from mi_kernels.output import writer
    from mi_kernels.system import calls as system

    count, lock = itertools.count(), threading.Lock()

    def patch(
        module: Any,
        name: str,
        counts: Callable[..., bool] = lambda *args: True,
        instead: Callable[..., Any] | None = None,
    ) -> None:
        real = instead or getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            if counts(*args):
                with lock:
                    number = next(count)
                    os.write(log, f"{name}\n".encode())
                if number == run.event:
                    if run.torn and name == "pwrite":
                        fd, data, offset = args
                        real(fd, data[: len(data) // 2], offset)
                    os.kill(os.getpid(), run.signal)
            return real(*args, **options)

        setattr(module, name, call)

    for name in _CALLS:
        patch(os, name)
    # The page cache survives a kill, so waiting for the disk would only make the test slower.
    patch(os, "fsync", instead=lambda fd: None)
    patch(os, "open", lambda path, flags, *_: bool(flags & os.O_CREAT))
    patch(writer, "preallocate")
    if run.exchange:
        patch(system, "exchange")
    else:
        system.exchange = lambda one, other: False


def _child(run: Run, log: int, err: int) -> None:
    os.dup2(err, 2)
    os.dup2(err, 1)
    _events(run, log)
    from mi_kernels.cli import main

    status = 1
    try:
        status = main(list(run.argv))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _run(run: Run) -> Outcome:
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _child(run, log.fileno(), err.fileno())
        if run.seconds is not None:
            time.sleep(run.seconds)
            os.kill(child, run.signal)  # a zombie until it is waited for
        _, status = os.waitpid(child, 0)
        log.seek(0)
        err.seek(0)
        return Outcome(os.waitstatus_to_exitcode(status), err.read().decode(), log.read().decode().split())


def _serve() -> None:
    for name in ("safetensors", "mi_kernels._cpu", "mi_kernels.cli.merging", "mi_kernels.methods.statistics"):
        import_module(name)  # imported here, so that the forks need not import it
    assert threading.active_count() == 1, "a fork keeps no other threads"
    for line in sys.stdin:
        print(json.dumps(_run(Run(**json.loads(line)))._asdict()), flush=True)


if __name__ == "__main__":
    _serve()
