"""A row of the table, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """What one program made of one kind of case.

    Attributes:
        cases: how many were run. Each one is counted in one of the next four.
        survived: done, and right; for a kill or an error of the disk also: OUT as it was before.
        refused: a message in two lines, for the neighbours in any words, and nothing made.
        traceback: an error that only a programmer can read, and nothing made.
        wrong: anything else: see `examples`.
        inputs_changed: cases after which an input was not what it was.
    """

    tool: str
    kind: str
    cases: int = 0
    survived: int = 0
    refused: int = 0
    traceback: int = 0
    wrong: int = 0
    inputs_changed: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, verdict: str, example: str = "") -> None:
        """One case more, with the name of an attribute for `verdict`."""
        self.cases += 1
        setattr(self, verdict, getattr(self, verdict) + 1)
        if verdict == "wrong" and len(self.examples) < 20:
            self.examples.append(example)


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = [
        "| done to | what | cases | right, or as before | refused | traceback | wrong | inputs changed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        counts = (r.cases, r.survived, r.refused, r.traceback, r.wrong, r.inputs_changed)
        lines.append(f"| {r.tool} | {r.kind} | {' | '.join(f'{n:,}' for n in counts)} |")
    return "\n".join(lines)
