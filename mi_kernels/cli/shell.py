"""Shared by all programs with a command line: printing of errors, signals, exit statuses, the parser."""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ClassVar, NoReturn

from ..errors import OTHER_NAMES, MIKernelsError, did_you_mean, printable, spelled
from ..system.faults import problem, remedy
from .colour import BOLD_RED, coloured

# Python collects garbage after this many new objects; the default is 700. A plan for 20,000 tensors creates a million
# objects that stay in use, and collections took a quarter of the time of a merge.
_OBJECTS = 200_000

# Commands of other tools, and what they are called here.
_OTHER_COMMANDS = {
    **dict.fromkeys(("interpolate", "blend", "mix"), "lerp"),
    **dict.fromkeys(("diff", "distance", "similarity", "sigma"), "compare"),
    **dict.fromkeys(("info", "show", "ls", "preview"), "inspect"),
    **dict.fromkeys(("check", "checksum", "validate"), "verify"),
    **dict.fromkeys(("scan", "grid"), "sweep"),
    **dict.fromkeys(("dare", "recipe", "mergekit"), "merge"),
    **dict.fromkeys(("doctor", "version", "environment"), "env"),
    **dict.fromkeys(("vllm", "server"), "serve"),
    **dict.fromkeys(("evaluate", "eval"), "run"),
}


def _meant_command(word: str) -> str:
    """Returns what an unknown command may be called here; the word itself if nothing is known of it."""
    from ..methods.registry import METHODS  # imports NumPy, so only after a mistake

    return "merge" if word in METHODS else _OTHER_COMMANDS.get(word, word)


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
    Parser.last = None
    try:
        status = run()
        sys.stdout.flush()  # flush inside try, which handles a closed stdout
        return status
    except MIKernelsError as error:
        return _say(program, *spelled(error, _option))
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
        fault = MIKernelsError(f"{where}{problem(error)}", remedy(error))
        return _say(program, *spelled(fault, _option))
    finally:
        gc.set_threshold(*thresholds)
        signal.signal(signal.SIGTERM, previous)


def _say(program: str, text: str, remedy: str = "", status: int = 2) -> int:
    name = coloured(f"{program}:", BOLD_RED, sys.stderr)
    print(f"{name} {text}", *([f"  {remedy}"] if remedy else []), sep="\n", file=sys.stderr)
    return status


def _option(name: str, value: str | None) -> str | None:
    """Spells an argument as an option of the command that runs: `dry_run=True` as --dry-run. See errors.spelled."""
    flag = Parser.last.options.get(name) if Parser.last is not None else None
    if flag is None or value == "False":
        return None
    return flag if value in (None, "True") else f"{flag} {value.strip(chr(39))}"


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


class Parser(argparse.ArgumentParser):
    """An argparse parser that prints errors in two lines, and accepts values that start like -4, such as `-4:`.

    It does not guess: abbreviated options are refused, and the error names the option that is meant.

    Attributes:
        last: the parser that has parsed last, which is that of the command that runs.
        elsewhere: remedies for options that the command does not have, by their names without dashes.
        unknown_option: a remedy for any other unknown option. Empty: see the help.
        unknown_word: a remedy for a positional argument too many. Empty: see the help.
    """

    last: ClassVar[Parser | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._negative_number_matcher = re.compile(r"-\d")
        self.elsewhere: dict[str, str] = {}
        self.unknown_option = self.unknown_word = ""

    @property
    def options(self) -> dict[str, str]:
        """The spelling of every option, by the name of its value: {"out": "-o", "dry_run": "--dry-run", ...}."""
        return {action.dest: action.option_strings[0] for action in self._actions if action.option_strings}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # argparse calls it for each command
        words = list(sys.argv[1:] if args is None else args)
        Parser.last = self
        self._refuse_unknown(words)
        return super().parse_known_args(words, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, others = self.parse_known_args(args, namespace)
        if others:
            parser = Parser.last or self
            text = f"unexpected argument{'s' if len(others) > 1 else ''}: {' '.join(map(repr, others))}"
            parser.refuse(text, parser.unknown_word)
        return found

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuses unknown options before anything else: the error that a required one is missing would hide them."""
        for word in words:
            name = word.partition("=")[0]
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return  # the rest is for the command
            if not word.startswith("-") or " " in name or name == "-" or self._negative_number_matcher.match(word):
                continue
            known = self._option_string_actions
            if name in known or (not word.startswith("--") and word[:2] in known and f"-{name}" not in known):
                continue
            self.refuse(f"unknown option {name}", self._meant(name))

    def _meant(self, name: str) -> str:
        bare = name.lstrip("-").replace("_", "-")
        if bare in self.elsewhere:
            return self.elsewhere[bare]
        options = {text.lstrip("-"): text for text in self._option_string_actions if text.startswith("--")}
        same = OTHER_NAMES.get(bare.lower().replace("-", "_"), bare).replace("_", "-")
        started = [text for plain, text in options.items() if len(bare) > 1 and plain.startswith(bare)]
        close = did_you_mean(f"--{bare}", options.values()) if len(bare) > 2 else ""
        meant = f"Did you mean {(options.get(same) or started[0])}?" if same in options or len(started) == 1 else close
        return " ".join(filter(None, (meant, self.unknown_option)))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            self.refuse(f"unknown command {value!r}", did_you_mean(_meant_command(value), names))
        name = "/".join(action.option_strings) or action.metavar or action.dest
        self.refuse(f"{name}: {value!r} is not one of {', '.join(names)}", did_you_mean(str(value), names))

    def refuse(self, message: str, remedy: str = "") -> NoReturn:
        """Prints two lines and exits with status 2. `remedy`: what to do; empty: see the help of this command."""
        command = " " in self.prog and self._subparsers is None  # "PROGRAM COMMAND"; PROGRAM itself has commands
        program = self.prog.rsplit(" ", 1)[0] if command else self.prog
        name = coloured(f"{program}:", BOLD_RED, sys.stderr)
        more = f"See `{self.prog} --help`."
        self.exit(2, f"{name} {printable(message)}\n  {printable(remedy)}{' ' * bool(remedy)}{more}\n")

    def error(self, message: str) -> NoReturn:
        self.refuse(message)


def add_command(commands: argparse._SubParsersAction[Parser], name: str, help: str, example: str) -> Parser:
    """Adds the parser of one command. `help` is its line in the help of the program, and starts its own help."""
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
