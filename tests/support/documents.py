"""The repository's pages as a test reads them: their blocks of code, their commands, their links and their headings."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]  # of the product
WITH_COMMANDS = [  # every page that tells a reader what to type
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "RELEASE.md", "SECURITY.md")),
    *(ROOT / folder / "README.md" for folder in ("bench", "csrc", "eval", "eval/tiny_pair", "examples")),
]
PROGRAM = "mi-kernels"
# The first word of a line of shell that a reader types. Other lines in blocks of code are output, formulas or folders.
_TYPED = re.compile(
    r"(?:\w+=\S+ +)*"
    r"(?:mi-kernels(?:-mergekit)?|python3?|pip|pytest|ruff|mypy|mkdocs|curl|hf|gh|git|pre-commit|cd|export|ulimit|for|\.ci/run"
    r"|(?:tests|tools)/\S+\.sh)(?:\s|$)"
)
_MARKER = re.compile(r"<!-- (not run|file): (.+?) -->")
_SHELL = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        line: of its first line of code, counted from 1.
        language: what follows the backticks; empty for an indented block.
        not_run: why it does not run, from `<!-- not run: REASON -->` before it; None where it runs.
        file: the file that it is the content of, from `<!-- file: NAME -->` before it; None where it is none.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None
    file: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types into a shell, with continued lines joined."""
        if self.language not in _SHELL:
            return []
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [line for line in lines if _TYPED.match(line) or arguments_of(line)]

    @property
    def is_program(self) -> bool:
        """Whether it is a Python program on its own, for a file: vLLM's processes import its main module again."""
        return self.language == "python" and '__name__ == "__main__"' in self.text


def blocks(page: Path) -> list[Block]:
    """The blocks of `page`, in order.

    Raises:
        ValueError: a marker that no block follows.
    """
    found: list[Block] = []
    marks: dict[str, str] = {}
    lines = page.read_text().splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if mark := _MARKER.fullmatch(line.strip()):
            marks[mark[1]] = mark[2]
            at += 1
            continue
        fenced = line.startswith("```")
        indented = line.startswith("    ") and (
            at == 0 or not lines[at - 1].strip() or _MARKER.match(lines[at - 1].strip())
        )
        if fenced or indented:
            begin = at + fenced
            end = begin
            while end < len(lines) and (
                lines[end] != "```" if fenced else not lines[end].strip() or lines[end].startswith("    ")
            ):
                end += 1
            text = "\n".join(lines[begin:end]).rstrip() + "\n"
            text = text if fenced else textwrap.dedent(text)  # in a list, a block is indented twice
            language = line[3:].strip() if fenced else ""
            found.append(Block(page, begin + 1, language, text, marks.get("not run"), marks.get("file")))
            marks = {}
            at = end + fenced
            continue
        if line.strip() and marks:
            raise ValueError(f"{page}:{at + 1}: a marker is not followed by a block of code")
        at += 1
    if marks:
        raise ValueError(f"{page}: a marker at the end of the page")
    return found


def arguments_of(line: str) -> list[list[str]]:
    """The arguments of each call of the program in a line of shell: [["env", "-h"]] of `a && mi-kernels env -h`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[list[str]] = []
    inside = False
    start = True  # where a command's name may stand
    try:
        for token in lexer:
            if token and set(token) <= set("();<>|&"):
                inside, start = False, True
            elif start and token == PROGRAM:
                calls.append([])
                inside, start = True, False
            else:
                if inside:
                    calls[-1].append(token)
                start = False
    except ValueError:  # prose or a table, not shell
        return []
    return calls


def links(text: str) -> list[str]:
    """The targets of all links and images."""
    plain = _without_code(text)
    found = re.findall(r"\]\(([^()\s]+)\)|^\[[^]]+\]: (\S+)", plain, re.MULTILINE)
    return [*(inline or defined for inline, defined in found), *re.findall(r'(?:src|href)="([^"]+)"', text)]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def paths(text: str) -> Iterator[str]:
    """The files and folders of the repository that the text names, such as tests/merge or csrc/combine.h."""
    for path in re.findall(r"(?<![\w./-])(?:tests|csrc|mi_kernels|tools|eval|examples)/[\w./-]*\w", text):
        yield path.rstrip("./-")


def _without_code(text: str) -> str:
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)
