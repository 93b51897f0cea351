"""What grading needs is missed before the engine starts, for every benchmark, and with all names at once."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from eval import benchmarks
from eval.benchmarks import datasets
from eval.cli import program as cli
from eval.errors import DataError
from eval.run import driver
from eval.run.settings import Choices
from eval.sweep import sweep

from ..support.fakes import FakeEngine, mergeable, model

NEEDED = [(name, module) for name in benchmarks.names() for module, _ in (*benchmarks.get(name).needs, ("pebble", ""))]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hides modules as if they were not installed."""
    monkeypatch.setattr(datasets, "POOL", ("pebble", "pebble"))  # fakes.py may have changed it
    hidden: set[str] = set()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else real(name, *a))
    return hidden.update


@pytest.mark.parametrize(("name", "module"), NEEDED)
def test_a_run_misses_it_before_the_engine_starts(without: Any, tmp_path: Path, name: str, module: str) -> None:
    without([module])
    engine = FakeEngine()
    with pytest.raises(DataError, match=rf"{name} needs .*\b{module}, ") as caught:
        driver.run(model(tmp_path / "m-thinking"), [name], str(tmp_path / "out"), engine, Choices(samples=1))
    assert "pip install" in caught.value.remedy
    assert not engine.opened
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", benchmarks.names())
def test_a_sweep_misses_it_before_a_model_is_merged(without: Any, tmp_path: Path, name: str) -> None:
    without(["pebble"])
    pair = sweep.Pair(mergeable(tmp_path / "a"), mergeable(tmp_path / "b"))
    engine = FakeEngine()
    with pytest.raises(DataError, match="pebble"):
        sweep.run(pair, sweep.Schedule((0.5,), "all"), [name], str(tmp_path / "out"), engine, progress=False)
    assert not engine.opened
    assert not (tmp_path / "out").exists()


def test_all_that_is_missing_is_named_at_once(without: Any) -> None:
    without(["pebble", "nltk", "langdetect"])
    with pytest.raises(DataError, match=r"ifeval needs .*langdetect, nltk, .*pebble, which") as caught:
        datasets.require(benchmarks.get("ifeval"))
    assert "`python -m pip install 'lm-eval[ifeval]' 'pebble'`" in caught.value.remedy


@pytest.mark.parametrize("command", ["demo --engine transformers", "sweep a b --lam 0.5 --benchmark chains"])
def test_what_the_report_needs_is_missed_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main([*command.split(), "--out", "out"]) == 2
    assert "a report needs matplotlib" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("name", benchmarks.names())
def test_benchmarks_declare_what_they_import(name: str) -> None:
    """Every import of another package, wherever it is in the module, is among its needs."""
    spec = importlib.util.find_spec(f"eval.benchmarks.{name}")
    assert spec is not None
    assert spec.origin is not None
    found = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    declared = {module for module, _ in benchmarks.get(name).needs}
    assert found - set(sys.stdlib_module_names) - {"mi_kernels"} <= declared
