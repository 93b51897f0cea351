"""The table and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """The outcomes of one program for one kind of case.

    Attributes:
        cases: number of cases. Each is counted in exactly one of the next five.
        survived: finished with the correct result; after a kill or disk error also: OUT is unchanged.
        refused: rejected with a message of two lines (other programs: any message), and no output.
        traceback: failed with a traceback, and no output.
        accepted: merged or ignored a hostile or broken input that mi_kernels rejects.
        wrong: all other outcomes, such as a partial OUT, a crash or a hang; see `examples`.
        inputs_changed: number of cases that changed an input.
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
        """Counts one case. `verdict` is the name of an attribute."""
        self.cases += 1
        setattr(self, verdict, getattr(self, verdict) + 1)
        if verdict in ("accepted", "wrong") and len(self.examples) < 20:
            self.examples.append(example)


def table(rows: Sequence[Row]) -> str:
    """Returns the table as Markdown."""
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
