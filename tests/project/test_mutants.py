"""The list of faults fits the code: `python tools/mutants.py` can put each of them in."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from ..support import ROOT
from .mutants import Fault, all_faults

FAULTS = [fault for faults in all_faults().values() for fault in faults]


def test_names_are_unique() -> None:
    counts = Counter(fault.name for fault in FAULTS)
    assert [name for name, count in counts.items() if count > 1] == []
    assert not set(counts) & set(all_faults()), "a fault's name must not be that of an area"


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_can_be_put_in(fault: Fault) -> None:
    content = (ROOT / fault.file).read_text()
    assert content.count(fault.old) == 1, "the code has changed: put the fault into what it is now"
    mutant = content.replace(fault.old, fault.new)
    assert mutant != content
    if fault.file.endswith(".py"):
        ast.parse(mutant)
    for test in fault.tests:
        file, *names = test.split("::")
        assert not names or f"def {names[-1].partition('[')[0]}(" in (ROOT / file).read_text(), test
    assert fault.tests or fault.harmless
