"""Run `mi-kernels completion`: print a script for a shell, which then completes commands, options and values.

The script is static: the Tab key does not start Python. shtab writes it from the parser of the program.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from ..errors import BackendError
from ..system.packages import install
from .shell import Parser

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FILES = ("RECIPE", "FILE")
_FOLDERS = ("INSTRUCT", "THINKING", "MODEL", "OTHER", "OUT", "PATTERN", "DIR")
_VALUES = {  # by metavar; the commands check the values themselves, with better messages
    "DEVICE": ("auto", "cpu", "cuda"),
    "MODE": ("auto", "direct", "buffered"),
    "SIDE": ("thinking", "instruct"),
    "NAME": ("cpu", "cuda", "triton"),
    "ADDRESS": ("auto", "local"),
}


def add(p: Parser) -> None:
    p.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh, fish or tcsh")
    p.epilog = (
        "for every new shell:\n"
        "  mi-kernels completion bash > ~/.local/share/bash-completion/completions/mi-kernels\n"
        "  mi-kernels completion zsh > DIR/_mi-kernels     (DIR: a folder of $fpath)\n"
        "  mi-kernels completion fish > ~/.config/fish/completions/mi-kernels.fish\n\n"
        f"{p.epilog}"
    )


def run(arguments: argparse.Namespace) -> int:
    print(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """Returns the script for a shell.

    Raises:
        BackendError: shtab is not installed, or does not know the shell.
    """
    try:
        import shtab
    except ImportError as error:
        raise BackendError(
            f"completion needs shtab, which cannot be imported: {error}", f"Run {install('shtab')}."
        ) from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise BackendError(
            f"shtab {shtab.__version__} does not support {shell}",
            "Run `python -m pip install --upgrade shtab`, or use one of: " + ", ".join(shtab.SUPPORTED_SHELLS),
        )
    from ..checkpoint.names import MODULES
    from ..dtypes import CODE_TORCH
    from .program import build_parser

    values = {**_VALUES, "DTYPE": CODE_TORCH, "NAMES": MODULES}
    parser = build_parser()
    for action in _actions(parser):
        metavar = action.metavar
        if metavar in _FILES or metavar in _FOLDERS:
            setattr(action, "complete", shtab.FILE if metavar in _FILES else shtab.DIRECTORY)  # noqa: B010
        elif action.choices is None and isinstance(metavar, str):
            action.choices = values.get(metavar)
    return _completed(str(shtab.complete(parser, shell)), shell)


def _completed(text: str, shell: str) -> str:
    """Adds what shtab leaves out: `--dtype=VALUE` in zsh, and in tcsh every model after the first one."""
    if shell == "zsh":  # an option with a value, such as "--dtype[help]:DTYPE:(...)" or {-o,--out}"[help]:OUT:..."
        return re.sub(r'(--[\w-]+)(\}")?(\[(?:[^\]\\]|\\.)*\]:)', _with_equals, text)
    if shell == "tcsh":
        return text.replace("'p/*/()/'", "'p/*/d/'")
    return text


def _with_equals(match: re.Match[str]) -> str:
    return f"{match[1]}={match[2] or ''}{match[3]}"


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
