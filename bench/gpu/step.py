"""One step, as a process: `runner.py` starts it.

    python -m bench.gpu.step STAGE NAME --part FILE [--dry-run] [--backends cuda,triton] [--folder DIR]

FILE is replaced whenever there is something new: {"status": "running", "result": ...}, and at the end the final status.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from typing import Any

from .part import write_json
from .steps import Setting, StepFailedError, StepSkippedError, say, step_of


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.step", description=__doc__)
    parser.add_argument("stage", type=int)
    parser.add_argument("name")
    parser.add_argument("--part", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--backends", default="")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args(argv)

    def write(status: str, result: Any, reason: str | None = None) -> None:
        write_json(arguments.part, {"status": status, "reason": reason, "result": result})

    latest: Any = None

    def emit(result: Any) -> None:
        nonlocal latest
        latest = result
        write("running", result)

    backends = [name for name in arguments.backends.split(",") if name]
    setting = Setting(arguments.dry_run, backends, emit, arguments.folder)
    try:
        result = step_of(arguments.stage, arguments.name).run(setting)
    except StepSkippedError as error:
        say(f"skipped: {error}")
        write("skipped", None, str(error))
    except StepFailedError as error:
        say(f"FAILED: {error}")
        write("failed", latest if error.result is None else error.result, str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        write("failed", latest, f"{type(error).__name__}: {error}")
        return 1
    else:
        write("passed", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
