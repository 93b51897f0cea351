"""What a program's command line shares: how refusals are printed, how signals end it, which status it returns."""

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

# Python looks for garbage after so many new objects, 700 by default. A plan for 20,000 tensors makes a million that
# stay: looking through them again and again took a quarter of the time.
_OBJECTS = 200_000


class Terminated(BaseException):
    """SIGTERM, as an exception, so that it cleans up on the way out as Ctrl-C does."""


def guarded(program: str, run: Callable[[], int], stopped: str) -> int:
    """Runs a command; returns its exit status: 0, 2 for a refusal, 130 or 143 after Ctrl-C or SIGTERM.

    Args:
        program: its name, which starts every message.
        run: parses and does what is asked.
        stopped: what a user who stopped it should know; follows "interrupted" and "terminated".
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS)
    try:
        status = run()
        sys.stdout.flush()  # here, where a reader that has gone is handled
        return status
    except MIKernelsError as error:
        return _say(program, error.problem, error.remedy)
    except KeyboardInterrupt:
        return _say(program, f"interrupted{stopped}", status=130)
    except Terminated:
        return _say(program, f"terminated{stopped}", status=143)
    except BrokenPipeError:
        # The reader of our output has gone: say nothing, also not when the interpreter flushes at its end.
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
    """argparse's, with its error in our two lines, and with -4: taken for a value as -4 is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-\d")

    def error(self, message: str) -> None:  # type: ignore[override]
        command = " " in self.prog and self._subparsers is None  # "PROGRAM COMMAND"; PROGRAM itself has commands
        program = self.prog.rsplit(" ", 1)[0] if command else self.prog
        self.exit(2, f"{program}: {printable(message)}\n  See `{self.prog} --help`.\n")


def add_command(commands: argparse._SubParsersAction[Parser], name: str, help: str, example: str) -> Parser:
    """The parser of one command: `help` is its line in the program's help, and what its own help starts with."""
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
