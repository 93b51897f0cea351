"""mi-kernels-mergekit where mergekit is not; tests/mergekit has the rest."""

from __future__ import annotations

import sys

import pytest

from mi_kernels.integrations import mergekit_program


def test_without_mergekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "mergekit", None)
    monkeypatch.delitem(sys.modules, "mi_kernels.integrations.mergekit", raising=False)
    monkeypatch.setattr(sys, "argv", ["mi-kernels-mergekit", "config.yml", "out"])
    assert mergekit_program.main() == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("mi-kernels-mergekit: mergekit cannot be extended")
    assert "pip install mergekit==0.1.5" in second
