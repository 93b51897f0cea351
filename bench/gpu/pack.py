"""Packs what `bench.gpu` needs on a machine without a network into one folder.

    python -m bench.gpu pack -o FOLDER                       # for a Python 3.12 and CUDA 13.0
    python -m bench.gpu pack -o FOLDER --python python3.13 --cuda cu128
    python -m bench.gpu pack -o FOLDER --no-build            # sources only: the other machine compiles them

The folder holds the sources, tests and benchmarks as they are in the working tree, the extension modules for one
version of Python, PyYAML, and COMMIT. The modules are built here, in an environment of their own, with the packages
from PyPI that a wheel is built with.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath

from .. import machine
from . import checks

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 << 20  # bytes: of the folder
CONTENT = (
    "mi_kernels", "csrc", "tests", "bench", "tools",
    "pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in",
)  # fmt: skip
_NOT = ("bench/results/plots",)
_IGNORED = {"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}
_PURE = {"PyYAML": ("yaml",)}  # packages with Python files alone that the other machine may lack


class PackError(RuntimeError):
    """The folder cannot be made; the message says why."""


def pack(folder: Path, python: str | None, cuda: str, root: Path = ROOT) -> int:
    """Makes the folder. Returns its size in bytes.

    Args:
        folder: where to make it; must not exist, or be empty.
        python: the interpreter to build the extension modules for; None builds none.
        cuda: the version of CUDA to build for, such as "cu130".

    Raises:
        PackError: the folder is not empty, a build fails, or the result is too large.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PackError(f"{folder} is not empty\nName a folder that does not exist, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in files(root):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target)
    (folder / machine.COMMIT).write_text(f"{machine.commit() or 'unknown'}\n")
    _add_packages(folder / checks.VENDOR)
    if python is not None:
        build(folder, python, cuda)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise PackError(f"{folder} has {size:,} bytes, and at most {LIMIT:,} are meant to travel")
    return size


def files(root: Path = ROOT) -> list[str]:
    """The files of CONTENT in the working tree, without what git ignores."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENT]
        text = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
        found = [name for name in text.split("\0") if name and (root / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        found = list(_walk(root))
    return sorted(name for name in found if not any(PurePosixPath(name).is_relative_to(other) for other in _NOT))


def _walk(root: Path) -> Iterator[str]:
    """Where there is no git, as in a packed folder."""
    for top in CONTENT:
        paths = (root / top).rglob("*") if (root / top).is_dir() else [root / top]
        for path in paths:
            if path.is_file() and not _IGNORED & set(path.parts) and path.suffix != ".so":
                yield path.relative_to(root).as_posix()


def _add_packages(folder: Path) -> None:
    for distribution, packages in _PURE.items():
        for file in metadata.files(distribution) or ():
            if file.parts[0] in packages and file.suffix == ".py":
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), target)


def build(folder: Path, python: str, cuda: str) -> None:
    """Builds both extension modules in `folder` for the interpreter `python`, in an environment of its own.

    Raises:
        PackError: there is no such interpreter, or a command fails.
    """
    program = shutil.which(python)
    if program is None:
        raise PackError(
            f"no interpreter {python!r} on PATH\n"
            "Give the path of one with --python, or use --no-build and compile on the other machine."
        )
    sys.path.insert(0, str(folder / "tools"))
    import cuda_toolkit

    try:
        needed = cuda_toolkit.requirements(cuda)
    except cuda_toolkit.ToolkitError as error:
        raise PackError(str(error)) from error
    finally:
        sys.path.remove(str(folder / "tools"))
    with tempfile.TemporaryDirectory(prefix="mi-kernels-pack-") as name:
        inside = str(Path(name) / "bin" / "python")
        _run([program, "-m", "venv", name])
        _run([inside, "-m", "pip", "install", "--quiet", "setuptools>=77", "pybind11>=2.13", *needed])
        environment = {**os.environ, "MI_KERNELS_CUDA": cuda}
        build_at = str(Path(name) / "build")
        command = [inside, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", str(os.cpu_count() or 1)]
        _run([*command, "--build-temp", build_at], folder, environment)
    shutil.rmtree(folder / "build", ignore_errors=True)
    for leftover in (*folder.glob("*.egg-info"), folder / ".eggs"):
        shutil.rmtree(leftover, ignore_errors=True)


def _run(command: Sequence[str], folder: Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PackError(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-4000:]}")


def main(argv: Sequence[str]) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument("--python", default="python3.12", help="the interpreter of the other machine (python3.12)")
    parser.add_argument("--cuda", default="cu130", help="its version of CUDA, as torch's wheels name it (cu130)")
    parser.add_argument("--no-build", action="store_true", help="pack no extension modules")
    arguments = parser.parse_args(argv)
    try:
        size = pack(arguments.output, None if arguments.no_build else arguments.python, arguments.cuda)
    except PackError as error:
        print(f"bench.gpu pack: {error}", file=sys.stderr)
        return 2
    commit = (arguments.output / machine.COMMIT).read_text().strip()
    print(f"{arguments.output}: {size / 2**20:.1f} MiB, commit {commit}")
    return 0
