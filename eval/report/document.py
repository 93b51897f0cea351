"""A report before it has a format: sections of paragraphs, lists, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """Cells as text. `aside`: figures of the paper, set apart from ours."""

    cells: Sequence[str]
    aside: bool = False


@dataclass(frozen=True)
class Table:
    """The first column names the row.

    Attributes:
        columns: (group, label): neighbours of one group stand under one heading; "" for none.
    """

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Picture:
    """`stem`.svg and `stem`.png in the report's folder. `text`: what it shows, for those who do not see it."""

    stem: str
    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Section:
    """`level`: 2 for a family, 3 for what is in it."""

    title: str
    level: int
    blocks: Sequence[str | Points | Table | Picture] = field(default_factory=list)
