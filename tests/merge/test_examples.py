"""Runs the examples in the public docstrings of the merge functions, with two models in the current folder."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

import mi_kernels
from mi_kernels.merge.options import Options

from ..support.checks import World
from ..support.nonfinite import finite


@pytest.mark.parametrize(
    "documented",
    [
        mi_kernels.lerp_checkpoint,
        mi_kernels.sweep_checkpoint,
        mi_kernels.merge_checkpoint,
        mi_kernels.Report,
        Options,
    ],
    ids=lambda documented: documented.__name__,
)
def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documented: Any) -> None:
    World(tmp_path, finite(1), finite(2))
    monkeypatch.chdir(tmp_path)
    tests = doctest.DocTestFinder(recurse=False).find(documented, documented.__name__, globs={})
    assert sum(len(test.examples) for test in tests) > 0
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)
    assert runner.summarize().failed == 0
