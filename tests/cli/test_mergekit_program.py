"""mi-kernels-mergekit without mergekit; tests/integrations/mergekit has the other tests."""

from __future__ import annotations

import sys

import pytest

from mi_kernels.cli import mergekit as mergekit_program


def test_without_mergekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "mergekit", None)
    for name in [name for name in sys.modules if name.startswith("mi_kernels.integrations.mergekit")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["mi-kernels-mergekit", "config.yml", "out"])
    assert mergekit_program.main() == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("mi-kernels-mergekit: mergekit cannot be extended")
    assert "pip install mergekit==0.1.5" in second
