"""An extension of griffe: shows our docstrings, in Google's style with a few habits of ours, as they are meant.

- `Example:` is a section of code, as `Examples:` is. Code without `>>>`, which no test runs, is code all the same.
- `>>>` without a title is an example, too.
- A sentence in `Raises:` without an error's name speaks of `MIKernelsError`, the base of them all.
- `a, b: text` describes several parameters. Griffe takes it as one name, which is fine to read; mkdocs.yml turns its
  warnings off.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(?P<title>Example|Raises):\n(?P<body>(?:(?: {4}.*)?\n)+)", re.MULTILINE)
_UNTITLED = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_NAMED = re.compile(r"[A-Za-z][\w.]*(?:, [A-Za-z][\w.]*)*: ")


def for_griffe(docstring: str) -> str:
    """`docstring`, without its common indentation, in the dialect that griffe reads."""
    titled = _UNTITLED.sub(lambda found: "Example:\n" + re.sub("^", "    ", found[0], flags=re.MULTILINE), docstring)
    return _SECTION.sub(_section, f"{titled}\n").rstrip("\n")


def _section(found: re.Match[str]) -> str:
    lines = found["body"].rstrip("\n").split("\n")
    blank = "\n" * (len(found["body"]) - len(found["body"].rstrip("\n")))
    if found["title"] == "Raises":
        body = [
            f"    MIKernelsError: {line.strip()}"
            if re.match(r" {4}\S", line) and not _NAMED.match(line.strip())
            else line
            for line in lines
        ]
        return "\n".join(["Raises:", *body]) + blank
    if any(line.lstrip().startswith(">>>") for line in lines):
        return "\n".join(["Examples:", *lines]) + blank
    return "\n".join(["Examples:", "    ```python", *lines, "    ```"]) + blank


class Dialect(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = for_griffe(obj.docstring.value)
