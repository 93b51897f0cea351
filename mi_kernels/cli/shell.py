"""Shared by all programs with a command line: printing of errors, signals, exit statuses, the parser."""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..errors import MIKernelsError, printable
from ..system.faults import problem, remedy

# Python collects garbage after this many new objects; the default is 700. A plan for 20,000 tensors creates a million
# objects that stay in use, and collections took a quarter of the time of a merge.
_OBJECTS = 200_000


class Terminated(BaseException):
    """SIGTERM as an exception, so that it cleans up in the same way as Ctrl-C."""


def guarded(program: str, run: Callable[[], int], stopped: str) -> int:
    """Runs a command and prints its errors.

    Args:
        program: the name of the program. Every message starts with it.
        run: parses the arguments and runs the command.
        stopped: text after "interrupted" or "terminated", which tells a user who stopped the program about its state.

    Returns:
        The exit status: that of `run`, 2 for an error, 130 after Ctrl-C, 143 after SIGTERM, or 141 if the reader of
        stdout has closed it.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS)
    try:
        status = run()
        sys.stdout.flush()  # flush inside try, which handles a closed stdout
        return status
    except MIKernelsError as error:
        return _say(program, error.problem, error.remedy)
    except KeyboardInterrupt:
        return _say(program, f"interrupted{stopped}", status=130)
    except Terminated:
        return _say(program, f"terminated{stopped}", status=143)
    except BrokenPipeError:
        # The reader has closed stdout. Print nothing, and prevent an error when the interpreter flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return _say(program, printable(f"{where}{problem(error)}"), remedy(error))
    finally:
        gc.set_threshold(*thresholds)
        signal.signal(signal.SIGTERM, previous)


def _say(program: str, text: str, remedy: str = "", status: int = 2) -> int:
    print(f"{program}: {text}", *([f"  {remedy}"] if remedy else []), sep="\n", file=sys.stderr)
    return status


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


class Parser(argparse.ArgumentParser):
    """An argparse parser that prints errors in two lines, and accepts values that start like -4, such as `-4:`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-\d")

    def error(self, message: str) -> None:  # type: ignore[override]
        command = " " in self.prog and self._subparsers is None  # "PROGRAM COMMAND"; PROGRAM itself has commands
        program = self.prog.rsplit(" ", 1)[0] if command else self.prog
        self.exit(2, f"{program}: {printable(message)}\n  See `{self.prog} --help`.\n")


def add_command(commands: argparse._SubParsersAction[Parser], name: str, help: str, example: str) -> Parser:
    """Adds the parser of one command. `help` is its line in the help of the program, and starts its own help."""
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
