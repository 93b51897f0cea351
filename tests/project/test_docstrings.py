"""The examples in the docstrings of methods, recipes and ops run, those of modules too."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from ..support import ROOT

FOLDERS = ("methods", "ops", "recipe")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in FOLDERS
    for path in (ROOT / "mi_kernels" / folder).glob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str) -> None:
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed
