"""Remedies that install a package: the versions of pyproject.toml, and no extra of ours, which needs an index."""

from __future__ import annotations

import re

import pytest

from mi_kernels.system.packages import REQUIREMENTS, install

from ..support import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("package", sorted(REQUIREMENTS))
def test_versions_are_those_of_the_extras(package: str) -> None:
    wanted = {line for line in re.findall(r'"([^"]+)"', PYPROJECT) if re.match(rf"{package}[=<>\[]", line)}
    if not wanted:
        pytest.skip(f"no extra has {package}")
    lower = {line.partition(",")[0] for line in wanted}
    assert REQUIREMENTS[package] in lower
    assert REQUIREMENTS[package] in install(package)


def test_no_remedy_names_an_extra_of_ours() -> None:
    """`pip install mi_kernels[ray]` finds nothing before a release is on an index."""
    for path in (ROOT / "mi_kernels").rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not re.search(r"pip install[^`]*mi[-_]kernels", line), f"{path}: {line}"


def test_every_remedy_takes_the_command_from_one_place() -> None:
    """Whoever follows two messages about one package must not get two versions."""
    names = "|".join(REQUIREMENTS)
    for path in (ROOT / "mi_kernels").rglob("*.py"):
        if path.name != "packages.py":
            found = re.search(rf"pip install (?:--\S+ )*'?(?:{names})\b(?!.*SHELL)", path.read_text())
            assert found is None or "--upgrade" in found[0], f"{path}: {found and found[0]}"
