"""The code in the documentation runs."""

from __future__ import annotations

import re

from ..support import ROOT

DOCS = ROOT / "docs"


def test_for_tool_authors() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "for-tool-authors.md").read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
