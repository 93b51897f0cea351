"""Faults in what a merge writes, resumes and publishes."""

from __future__ import annotations

from . import Fault

FAULTS = [
    Fault(
        "finished-not-cleared",
        "mi_kernels/work.py",
        old="            self._moved = False\n            self.finished.clear()\n",
        new="            self._moved = False\n",
        tests=("tests/test_resume.py",),
    ),
]
