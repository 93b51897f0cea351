"""Builds the extension modules in place with g++ and nvcc, for a machine without a package index.

    python -m bench.gpu.build          builds what does not import, in about ten seconds

A folder made by `python -m bench.gpu pack` brings both modules for one version of Python. Where they do not import,
`_cpu` needs g++ and `_cuda` needs g++ and nvcc; neither pip, setuptools nor nvFatbin is used. `_cuda` gets machine code
for the GPU of this machine, and the PTX of every wheel.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("cpu", "cuda")
CUDA_HOME = Path("/usr/local/cuda")  # where the toolkit's installer puts it


class BuildError(RuntimeError):
    """A compiler is missing or refused. The message holds the command's output."""


def why_missing(part: str, root: Path = ROOT) -> str | None:
    """Why mi_kernels._PART of the tree at `root` does not import, or None. Asks a fresh interpreter.

    A module of another tree, which an editable install may add, does not count.
    """
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import mi_kernels._{part} as m; print(m.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    found = Path(done.stdout.strip()).resolve()
    return None if found.is_relative_to(root.resolve()) else f"only {found} exists"


def build_missing(root: Path = ROOT, parts: Sequence[str] = PARTS) -> dict[str, str]:
    """Builds each module of `parts` that does not import. Returns what was built, with the reason; {} if nothing was.

    Raises:
        BuildError: a compiler is missing or refused, or a built module does not import.
    """
    built = {}
    for part in parts:
        reason = why_missing(part, root)
        if reason is None:
            continue
        build(part, root)
        if (still := why_missing(part, root)) is not None:
            raise BuildError(f"mi_kernels._{part} was built and does not import: {still}")
        built[part] = reason
    return built


def build(part: str, root: Path = ROOT) -> Path:
    """Compiles csrc/PART and puts the module beside the package's sources, complete or not at all.

    Raises:
        BuildError: see `build_missing`.
    """
    flags = _flags(root)
    gxx = program("g++", "mi_kernels cannot be built on this machine: install g++, or pack modules for this Python.")
    output = root / "mi_kernels" / f"_{part}{sysconfig.get_config_var('EXT_SUFFIX')}"
    with tempfile.TemporaryDirectory(prefix="mi-kernels-build-") as name:
        folder = Path(name)
        common = ["-std=c++17", "-fPIC", "-fvisibility=hidden", *flags.COMMON, *flags.PARTS[part], *_includes()]
        if part == "cuda":
            tag = cuda_tag()
            image = compile_kernels(folder / "kernels.fatbin", capability(), root)
            common += [f'-DMI_FATBIN="{image}"', f'-DMI_CUDA_VERSION="{tag}"']
        sources = sorted((root / "csrc" / part).glob("*.cpp"))
        objects = [folder / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [
                [gxx, *common, *flags.of_isa(source.name), "-c", source, "-o", at]
                for source, at in zip(sources, objects)
            ]
            list(pool.map(_run, commands))
        part_file = output.with_suffix(".part")
        _run([gxx, "-shared", *objects, "-ldl", "-o", part_file])
        os.replace(part_file, output)
    return output


def compile_kernels(output: Path, capability: str | None, root: Path = ROOT) -> Path:
    """Compiles csrc/cuda/kernels.cu into a fat binary with nvcc.

    Args:
        capability: the compute capability to make machine code for, such as "9.0"; None for all chips of a wheel.
    """
    _flags(root)  # makes tools/ importable
    import cuda_toolkit
    import fatbin

    nvcc = program("nvcc", "Add the folder of nvcc to PATH, or pack modules for this Python.")
    chips = cuda_toolkit.SASS if capability is None else (int(capability.replace(".", "")),)
    codes = [f"-gencode=arch=compute_{chip},code=sm_{chip}" for chip in chips]
    codes.append(f"-gencode=arch=compute_{cuda_toolkit.PTX},code=compute_{cuda_toolkit.PTX}")
    source = root / "csrc" / "cuda" / "kernels.cu"
    _run([nvcc, "-fatbin", "--no-compress", *fatbin.CONTRACT, *codes, source, "-o", output])
    return output


def cuda_tag() -> str:
    """The version of nvcc as wheels name it: "cu130"."""
    nvcc = program("nvcc", "Add the folder of nvcc to PATH, or pack modules for this Python.")
    found = re.search(r"release (\d+)\.(\d+)", _run([nvcc, "--version"]))
    if found is None:
        raise BuildError(f"{nvcc} --version names no release")
    return f"cu{found[1]}{found[2]}"


def capability() -> str | None:
    """The compute capability of the first GPU, such as "9.0"; None if nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", "-i", "0"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return text if re.fullmatch(r"\d+\.\d", text) else None


def program(name: str, remedy: str) -> str:
    """The path of a compiler: on PATH, or in the folder of the CUDA toolkit.

    Raises:
        BuildError: it is in neither.
    """
    found = shutil.which(name) or shutil.which(name, path=str(CUDA_HOME / "bin"))
    if found is None:
        raise BuildError(f"{name} is neither on PATH nor in {CUDA_HOME / 'bin'}\n{remedy}")
    return found


def _flags(root: Path) -> ModuleType:
    tools = str(root / "tools")
    if tools not in sys.path:
        sys.path.insert(0, tools)
    import extension_flags

    return extension_flags


def _includes() -> list[str]:
    try:
        import pybind11
    except ImportError as error:
        raise BuildError("pybind11 is missing\nInstall it, or pack modules for this Python.") from error
    paths = dict.fromkeys([pybind11.get_include(), sysconfig.get_path("include"), sysconfig.get_path("platinclude")])
    return [f"-I{path}" for path in paths]


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed: {' '.join(map(str, command))}\n{done.stderr[-4000:]}")
    return done.stdout


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m bench.gpu.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        built = build_missing()
    except BuildError as error:
        print(f"bench.gpu.build: {error}", file=sys.stderr)
        return 2
    for part, reason in built.items():
        print(f"built mi_kernels._{part} ({reason})")
    if not built:
        print("mi_kernels._cpu and mi_kernels._cuda import: nothing to build")
    return 0


if __name__ == "__main__":
    sys.exit(main())
