"""Runs commands of the program in forks of one process that has imported everything, which takes milliseconds each.

Reads one JSON object per line: {"argv": [...], "faults": {variable: value}, "stderr": path}. Answers with
{"status": exit status or minus the signal, "hit": number of calls that were made to fail}. Faults require that inject.c
is preloaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import sys
from typing import Any

from mi_kernels import _cpu
from mi_kernels.cli import program as cli

WARM = ("cli.merging", "cli.compare", "compare.similarity", "merge.sources", "recipe.load", "system.progress")


def run(request: dict[str, Any], report: int) -> None:
    """Runs one command with its faults, in the child."""
    with open(request["stderr"], "wb") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(2, 1)
    os.environ.update(request["faults"])
    layer = ctypes.CDLL(None)
    if request["faults"]:
        layer.faults_arm()
    try:
        status = cli.main(request["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os.write(report, json.dumps({"hit": layer.faults_hit() if request["faults"] else 0}).encode())
    os._exit(status)


def serve() -> None:
    for name in WARM:
        importlib.import_module(f"mi_kernels.{name}")
    importlib.import_module("safetensors.numpy")
    _cpu.isas()
    for line in sys.stdin:
        back, report = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(back)
            run(json.loads(line), report)
        os.close(report)
        with open(back, "rb") as file:
            said = json.loads(file.read() or b'{"hit": 0}')
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({**said, "status": status}), flush=True)


if __name__ == "__main__":
    serve()
