"""Compiles inject.c and runs commands of the program with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...support import ROOT


class Unavailable(Exception):
    """inject.c cannot be compiled or preloaded on this system. The text is the reason."""


class Outcome(NamedTuple):
    """Outcome of one command. `status`: exit status or minus the signal. `hit`: number of calls that failed."""

    status: int
    stderr: str
    hit: int


def build(folder: Path) -> Path:
    """Compiles inject.c to a shared library in `folder`.

    Raises:
        Unavailable: the system is not Linux, or it has no compiler.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if not sys.platform.startswith("linux") or compiler is None:
        raise Unavailable("needs Linux and a C compiler")
    library = folder / "inject.so"
    source = Path(__file__).with_name("inject.c")
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Unavailable(f"inject.c does not compile here: {done.stderr.splitlines()[:1]}")
    return library


class Session:
    """Context manager: runs commands of the program, with or without faults."""

    def __init__(self, folder: Path) -> None:
        self._messages = folder / "stderr"
        environment = {
            **os.environ,
            "LD_PRELOAD": str(build(folder)),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OPENBLAS_NUM_THREADS": "1",  # a fork would lose threads
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run(self, argv: Sequence[str], faults: Mapping[str, object] | None = None) -> Outcome:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        variables = {f"FAULT_{name.upper()}": str(value) for name, value in (faults or {}).items()}
        request = {"argv": list(argv), "faults": variables, "stderr": str(self._messages)}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = json.loads(self._server.stdout.readline())
        return Outcome(answer["status"], self._messages.read_text(errors="replace"), answer["hit"])
