"""A report without a format: sections of paragraphs, lists, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """Cells as text. `aside`: a row with the paper's figures, shown in another style."""

    cells: Sequence[str]
    aside: bool = False


@dataclass(frozen=True)
class Table:
    """The first column names the row.

    Attributes:
        columns: (group, label). Adjacent columns of one group share a heading; "" means no group.
    """

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Picture:
    """`stem`.svg and `stem`.png in the report's folder. `text`: the alternative text."""

    stem: str
    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Section:
    """`level`: 2 for a family, 3 for a section of it."""

    title: str
    level: int
    blocks: Sequence[str | Points | Table | Picture] = field(default_factory=list)
