"""The folders of mi_kernels have an order, and imports follow it; test modules stand alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from ..support import ROOT

PACKAGE = ROOT / "mi_kernels"

# From the bottom up: a folder imports from those before it, and from itself.
ORDER = [
    *("_version", "errors", "_cpu", "_cuda", "dtypes", "system", "backends"),
    *("checkpoint", "checksums", "methods", "recipe", "ops"),
    *("output", "compare", "merge", "verify", "live", "integrations", "cli", "__main__"),
]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports(module: str) -> Iterator[str]:
    """The modules of mi_kernels that `module` imports, at its top or in a function."""
    tree = ast.parse(MODULES[module].read_text())
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            start = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                full = ".".join([*start, alias.name])
                yield next((m for m in (full, f"{full}.__init__") if m in MODULES), ".".join(start))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "mi_kernels" and len(parts) > 1 and parts[1] != "__init__" else None


def test_every_room_has_its_place() -> None:
    found = {room(module) for module in MODULES} - {None}
    assert found <= set(ORDER)
    assert set(ORDER) - found <= {"_cuda"}  # compiled


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m)))
def test_imports_follow_the_order(module: str) -> None:
    here = ORDER.index(str(room(module)))
    upwards = [name for name in imports(module) if (other := room(name)) and ORDER.index(other) > here]
    assert not upwards, f"{module} is below what it imports"


def test_no_circle() -> None:
    graph = {
        module: {name for name in imports(module) if name in MODULES and name != module}
        for module in MODULES
        if room(module)
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_test_imports_another() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not [n for n in names if n.startswith("test_") and (node.level or "tests" in names)], path
