"""What tools/release.py refuses: a tag, a changelog or a set of files that do not fit the version."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from ..support import ROOT

CHANGELOG = """# Changelog

## Unreleased

## 1.2.3 - 2026-01-31

- One.

### Fixed

- Two.

## 1.2.2

- Old.
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mi_kernels").mkdir()
    (tmp_path / "mi_kernels" / "_version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def files(number: str = "1.2.3") -> set[str]:
    wheels = {
        f"mi_kernels-{number}{variant and '+' + variant}-cp{python}-cp{python}-manylinux_2_28_{machine}.whl"
        for variant in release.VARIANTS
        for python in ("310", "314")
        for machine in release.MACHINES
    }
    return {f"mi_kernels-{number}.tar.gz", *wheels}


def test_a_tag_that_fits(root: Path) -> None:
    assert release.check("v1.2.3", root) == "mi_kernels 1.2.3"
    assert "rehearsal" in release.check(None, root)


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2.4", "v1.2.3rc1"])
def test_another_tag(root: Path, tag: str) -> None:
    with pytest.raises(release.ReleaseError, match=f"the tag is {tag}, and .* says 1.2.3"):
        release.check(tag, root)


def test_a_version_that_is_none(root: Path) -> None:
    (root / "mi_kernels" / "_version.py").write_text('__version__ = "1.2.3+cu128"\n')
    with pytest.raises(release.ReleaseError, match="does not hold a version"):
        release.check(None, root)


def test_the_section_of_the_changelog() -> None:
    assert release.section(CHANGELOG, "1.2.3") == "- One.\n\n### Fixed\n\n- Two.\n"
    assert release.section(CHANGELOG, "1.2.2") == "- Old.\n"
    for missing in ("Unreleased", "1.2.4", "1.2"):
        with pytest.raises(release.ReleaseError, match="missing or empty"):
            release.section(CHANGELOG, missing)


def test_files() -> None:
    assert release.check_files(files(), "1.2.3", ["310", "314"]) == "mi_kernels 1.2.3: the source archive and 16 wheels"
    # auditwheel may give a wheel two tags
    renamed = {name.replace("-manylinux_2_28", "-manylinux2014_x86_64.manylinux_2_28") for name in files()}
    release.check_files(renamed, "1.2.3", ["310", "314"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: f - {"mi_kernels-1.2.3.tar.gz"}, "missing: the source archive"),
        (
            lambda f: f - {"mi_kernels-1.2.3+cu128-cp310-cp310-manylinux_2_28_aarch64.whl"},
            "missing: cu128 for cp310 on aarch64",
        ),
        (lambda f: f | {"notes.md"}, "notes.md: does not belong"),
        (lambda f: f | {"mi_kernels-1.2.3-cp310-cp310-linux_x86_64.whl"}, "does not belong"),
        (lambda f: f | {"mi_kernels-1.2.2-cp310-cp310-manylinux_2_28_x86_64.whl"}, "has version 1.2.2"),
        (
            lambda f: f | {"mi_kernels-1.2.3+cu118-cp310-cp310-manylinux_2_28_x86_64.whl"},
            "does not name this",
        ),
        (lambda f: f | {"mi_kernels-1.2.3-cp315-cp315-manylinux_2_28_x86_64.whl"}, "does not name this Python or CUDA"),
    ],
)
def test_files_that_do_not_fit(change, expected: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(release.ReleaseError, match=expected):
        release.check_files(change(files()), "1.2.3", ["310", "314"])


def test_this_version_has_a_section_and_the_workflow_builds_what_is_claimed() -> None:
    path = ROOT / ".github" / "workflows" / "wheels.yml"
    if not path.exists():
        pytest.skip("the source archive has no workflows")
    workflow = path.read_text()
    built = re.search(r"CIBW_BUILD: (.*)", workflow)
    assert built
    assert re.findall(r"cp(\d+)-", built[1]) == release.pythons()
    variants = re.search(r"variant: \[(.*)\]", workflow)
    assert variants
    assert tuple("" if v == "cpu" else v for v in variants[1].split(", ")) == release.VARIANTS
    assert release.section((ROOT / "CHANGELOG.md").read_text(), release.version())
