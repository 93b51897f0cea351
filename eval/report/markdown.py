"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .document import Picture, Points, Section, Table


def render(title: str, how: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}", escaped(how)]
    for section in sections:
        parts.append(f"{'#' * section.level} {escaped(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: str | Points | Table | Picture) -> str:
    if isinstance(block, Points):
        return "\n".join(f"- {escaped(s)}" for s in block.sentences)
    if isinstance(block, Picture):
        return f"![{escaped(block.text)}]({block.stem}.svg)"
    if isinstance(block, Table):
        return _table(block)
    return escaped(block)


def _table(table: Table) -> str:
    head = [f"{group} {label}".strip() for group, label in table.columns]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    text = [f"| {' | '.join(escaped(cell) for cell in line)} |" for line in lines]
    for row in table.rows:
        cells = [escaped(cell) for cell in row.cells]
        text.append(f"| {' | '.join(f'*{cell}*' if row.aside and cell else cell for cell in cells)} |")
    return "\n".join(text)


def escaped(text: str) -> str:
    """`text` with markup escaped and on one line, because users choose the names."""
    for sign in "\\`*_[]<|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
