"""A row of the table, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """What one program made of one kind of case.

    Attributes:
        cases: how many were run. Each one is counted in one of the next five.
        survived: done, and right; for a kill or an error of the disk also: OUT as it was before.
        refused: a message in two lines, for the neighbours in any words, and nothing made.
        traceback: an error that only a programmer can read, and nothing made.
        accepted: a hostile or broken input that mi_kernels refuses was merged, or ignored.
        wrong: anything else, such as a half-made OUT, a crash, a hang: see `examples`.
        inputs_changed: cases after which an input was not what it was.
    """

    tool: str
    kind: str
    cases: int = 0
    survived: int = 0
    refused: int = 0
    traceback: int = 0
    accepted: int = 0
    wrong: int = 0
    inputs_changed: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, verdict: str, example: str = "") -> None:
        """One case more, with the name of an attribute for `verdict`."""
        self.cases += 1
        setattr(self, verdict, getattr(self, verdict) + 1)
        if verdict in ("accepted", "wrong") and len(self.examples) < 20:
            self.examples.append(example)


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = [
        "| done to | what | cases | right, or as before | refused | traceback | bad input merged "
        "| half-made, crash, hang |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        counts = (r.cases, r.survived, r.refused, r.traceback, r.accepted, r.wrong)
        lines.append(f"| {r.tool} | {r.kind} | {' | '.join(f'{n:,}' for n in counts)} |")
    changed, wrong = sum(r.inputs_changed for r in rows), sum(r.wrong for r in rows if r.tool == rows[0].tool)
    return "\n".join([*lines, "", f"Inputs changed: {changed}. Bytes lost by {rows[0].tool}: {wrong}."])
