"""Runs the examples in the public docstrings of errors, checkpoint and output."""

from __future__ import annotations

import doctest
import importlib

import pytest

import mi_kernels

EXAMPLES = [
    "errors.MIKernelsError",
    "checkpoint.header.read_header",
    "checkpoint.open.open_checkpoint",
    "checkpoint.record.Checkpoint",
    "checkpoint.tensor.TensorInfo",
    "output.folder.OutputFolder",
    "output.upload.push",
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    module, attribute = f"mi_kernels.{name}".rsplit(".", 1)
    documented = getattr(importlib.import_module(module), attribute)
    tests = doctest.DocTestFinder(recurse=False).find(documented, name, globs={"mi_kernels": mi_kernels})
    assert sum(len(test.examples) for test in tests) > 0
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)
    assert runner.summarize().failed == 0
