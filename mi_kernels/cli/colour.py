"""Colours of a terminal, where the user wants them.

The first rule that applies decides, as at https://no-color.org and https://bixense.com/clicolors:

    NO_COLOR is set, not empty                     no colours
    FORCE_COLOR or CLICOLOR_FORCE is set, not 0    colours, also into a pipe
    TERM=dumb                                      no colours
    otherwise                                      colours if the stream is a terminal
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

BOLD_RED = "1;31"
YELLOW = "33"


def wanted(environment: Mapping[str, str], terminal: bool) -> bool:
    """Returns whether to print colours. `terminal`: the stream is one."""
    if environment.get("NO_COLOR"):
        return False
    if any(environment.get(name, "") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return terminal and environment.get("TERM") != "dumb"


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Returns `text` in a colour if `stream` shows colours, otherwise as it is. `text` must be printable."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted(os.environ, stream.isatty()) else text


def coloured_notes(text: str, stream: TextIO) -> str:
    """Returns `text` with the word `note:` at the start of its lines in yellow if `stream` shows colours."""
    if not wanted(os.environ, stream.isatty()):
        return text
    mark = "note:"
    return "\n".join(
        coloured(mark, YELLOW, stream) + line[len(mark) :] if line.startswith(mark) else line
        for line in text.split("\n")
    )
