"""A report as one HTML page that contains its style, tables and pictures, and loads nothing."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from html import escape

from .document import Picture, Points, Section, Table

# With this policy a browser refuses to load anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem 1.2rem 4rem; color: #222; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .6rem; }
h2 { font-size: 1.35rem; margin: 2.2rem 0 .6rem; padding-top: .8rem; border-top: 2px solid #222;
  overflow-wrap: anywhere; }
h3 { font-size: 1.12rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
p.how { color: #555; font-size: .92rem; }
ul { padding-left: 1.2rem; } li { margin: .25rem 0; }
img { display: block; width: 100%; max-width: 38rem; height: auto; margin: 1rem 0; }
.table { overflow-x: auto; margin: 1rem 0; scrollbar-width: thin; scrollbar-color: #888 #eee;
  background:
    linear-gradient(to right, #fff 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(to left, #fff 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to right, #0005, transparent) left / .8rem 100% no-repeat scroll,
    linear-gradient(to left, #0005, transparent) right / .8rem 100% no-repeat scroll; }
.scrolls { display: none; color: #555; font-size: .88rem; margin: 1rem 0 -.8rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .65rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 1px solid #222; vertical-align: bottom; }
thead th.group { text-align: center; border-bottom: 1px solid #999; }
tbody tr { border-top: 1px solid #e4e4e4; }
tr.aside { border-top: none; color: #5a5a5a; font-style: italic; }
tr.aside td { padding-top: 0; } tr.aside td:first-child { padding-left: 1.6rem; }
@media print { body { max-width: none; } .table { overflow: visible; } .scrolls { display: none !important; } }
"""
# Up to these widths of the window in rem, a table says that it scrolls; the last one is wider than any page.
_WINDOWS = (24, 30, 36, 42, 48, 54, 60, 66, 9999)
_CHARACTER, _PADDING, _MARGINS = 0.5, 1.15, 2.4  # rem: of a digit at .88rem, of a cell, and of the page


def _signs() -> str:
    """The style that shows the sign of each table in windows that are too narrow for it."""
    return "".join(f"@media (max-width: {rem}rem) {{ .below-{rem} {{ display: block; }} }}\n" for rem in _WINDOWS)


def render(title: str, how: str, sections: Sequence[Section], images: Mapping[str, Mapping[str, bytes]]) -> str:
    body = [f"<h1>{escape(title)}</h1>", f'<p class="how">{escape(how)}</p>']
    for section in sections:
        body.append(f"<h{section.level}>{escape(section.title)}</h{section.level}>")
        body += [_block(block, images) for block in section.blocks]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}{_signs()}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _block(block: str | Points | Table | Picture, images: Mapping[str, Mapping[str, bytes]]) -> str:
    if isinstance(block, Points):
        return "<ul>" + "".join(f"<li>{_text(s)}</li>" for s in block.sentences) + "</ul>"
    if isinstance(block, Picture):
        data = base64.b64encode(images[block.stem]["svg"]).decode()
        return f'<img alt="{escape(block.text)}" src="data:image/svg+xml;base64,{data}">'
    if isinstance(block, Table):
        # Some browsers hide scroll bars until the reader scrolls. A focused region scrolls with the arrow keys.
        sign = f'<p class="scrolls below-{_window(block)}">More columns: scroll the table sideways \u2192</p>'
        table = f"<table>{_head(block)}<tbody>{_rows(block)}</tbody></table>"
        return f'{sign}<div class="table" role="region" aria-label="Table" tabindex="0">{table}</div>'
    return f"<p>{_text(block)}</p>"


def _window(table: Table) -> int:
    """The widest of _WINDOWS, in rem, that the table does not fit, by the longest text of each column."""
    columns = [
        max([len(label), *(len(row.cells[i]) for row in table.rows)]) for i, (_, label) in enumerate(table.columns)
    ]
    wide = sum(_CHARACTER * longest + _PADDING for longest in columns) + _MARGINS
    page = 60.0  # rem: the page is not wider, whatever the window
    return _WINDOWS[-1] if wide > page else next(rem for rem in _WINDOWS if wide <= rem)


def _text(sentence: str) -> str:
    """Escapes `sentence` and keeps numbers and their per cent signs on one line."""
    return escape(sentence).replace(" %", "&nbsp;%")


def _head(table: Table) -> str:
    labels = "".join(f"<th>{escape(label)}</th>" for _, label in table.columns)
    if not any(group for group, _ in table.columns):
        return f"<thead><tr>{labels}</tr></thead>"
    groups = ""
    for group, run in itertools.groupby(table.columns, key=lambda column: column[0]):
        span = len(list(run))
        groups += f'<th class="group" colspan="{span}">{escape(group)}</th>' if group else f'<th colspan="{span}"></th>'
    return f"<thead><tr>{groups}</tr><tr>{labels}</tr></thead>"


def _rows(table: Table) -> str:
    def row(cells: Sequence[str], aside: bool) -> str:
        kind = ' class="aside"' if aside else ""
        return f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"

    return "".join(row(r.cells, r.aside) for r in table.rows)
