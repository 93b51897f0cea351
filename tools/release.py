"""Checks a release before it is published; .github/workflows/release.yml and RELEASE.md say when.

python tools/release.py check [vX.Y.Z]   # the version, the tag and CHANGELOG.md agree
python tools/release.py files dist       # dist holds the source archive and every wheel of this version
python tools/release.py notes            # prints this version's section of CHANGELOG.md
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
VARIANTS = ("", "cu126", "cu128", "cu130")  # as in .github/workflows/wheels.yml; "" is the CPU wheel that PyPI gets

# The versions that we release, a subset of PEP 440: 1.2.3, 1.2.3a1, 1.2.3b1, 1.2.3rc1, 1.2.3.post1.
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.post\d+)?")
WHEEL = re.compile(
    r"mi_kernels-(?P<version>[0-9a-z.]+)(\+(?P<variant>\w+))?-cp(?P<python>\d+)-cp\d+-manylinux[\w.]*?_(?P<machine>x86_64|aarch64)\.whl"
)


class ReleaseError(Exception):
    """The release is not ready; the text says why."""


def version(root: Path = ROOT) -> str:
    """The version in mi_kernels/_version.py."""
    found = re.fullmatch(r'__version__ = "(.*)"\n', (root / "mi_kernels" / "_version.py").read_text())
    if not found or not VERSION.fullmatch(found[1]):
        raise ReleaseError("mi_kernels/_version.py: does not hold a version such as 1.2.3 or 1.2.3rc1")
    return found[1]


def section(text: str, wanted: str) -> str:
    """The text of the section `## wanted` of a changelog. A date may follow: `## 1.2.3 - 2026-01-31`."""
    title = rf"^## {re.escape(wanted)}( - \d{{4}}-\d\d-\d\d)?\n"
    found = re.search(rf"{title}(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if not found or not found[2].strip():
        raise ReleaseError(f"CHANGELOG.md: the section `## {wanted}` is missing or empty")
    return found[2].strip() + "\n"


def check(tag: str | None, root: Path = ROOT) -> str:
    """One line that says what is released.

    Raises:
        ReleaseError: the tag is not v and the version, or CHANGELOG.md has no section for the version.
    """
    number = version(root)
    if tag is not None and tag != f"v{number}":
        raise ReleaseError(f"the tag is {tag}, and mi_kernels/_version.py says {number}: the tag must be v{number}")
    section((root / "CHANGELOG.md").read_text(), number)
    return f"mi_kernels {number}" + ("" if tag else " (no tag: a rehearsal)")


def pythons(root: Path = ROOT) -> list[str]:
    """The versions that pyproject.toml claims, as in the names of wheels: 310, 311, ..."""
    classifiers = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', (root / "pyproject.toml").read_text())
    return [f"3{minor}" for minor in classifiers]


def check_files(names: Iterable[str], number: str, wanted_pythons: Iterable[str]) -> str:
    """One line that counts what is there.

    Raises:
        ReleaseError: a file is missing, is of another version, or does not belong to a release.
    """
    names = set(names)
    archive = f"mi_kernels-{number}.tar.gz"
    found = {}
    for name in sorted(names - {archive}):
        wheel = WHEEL.fullmatch(name)
        if not wheel:
            raise ReleaseError(f"{name}: does not belong to a release")
        if wheel["version"] != number:
            raise ReleaseError(f"{name}: has version {wheel['version']}, and mi_kernels/_version.py says {number}")
        found[(wheel["variant"] or "", wheel["python"], wheel["machine"])] = name
    wanted = {(v, python, machine) for v in VARIANTS for python in wanted_pythons for machine in MACHINES}
    missing = ["the source archive"] if archive not in names else []
    missing += [f"{v or 'cpu'} for cp{python} on {machine}" for v, python, machine in sorted(wanted - set(found))]
    if missing:
        raise ReleaseError(f"missing: {', '.join(missing)}")
    if extra := set(found) - wanted:
        raise ReleaseError(f"{found[min(extra)]}: pyproject.toml or tools/release.py does not name this Python or CUDA")
    return f"mi_kernels {number}: the source archive and {len(found)} wheels"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("tag", nargs="?")
    commands.add_parser("files").add_argument("folder", type=Path)
    commands.add_parser("notes")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "check":
            print(check(chosen.tag))
        elif chosen.command == "files":
            print(check_files((path.name for path in chosen.folder.iterdir()), version(), pythons()))
        else:
            print(section((ROOT / "CHANGELOG.md").read_text(), version()), end="")
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
