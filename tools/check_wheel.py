"""Checks a wheel of mi_kernels: its tag, its machine code, the libraries it needs, importing it without a driver.

    python tools/check_wheel.py dist/*.whl

The import is tried when the wheel is for the Python that runs this.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cuda_toolkit

NAME = re.compile(
    r"mi_kernels-(?P<version>[0-9.a-z]+)(\+(?P<cuda>cu\d{3}))?-(?P<python>cp\d+)-cp\d+-(?P<platform>[\w.]+)\.whl"
)
# What every Linux with a driver has. Not CUDA's libraries, nor torch's: those are found at run time.
SYSTEM = {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"}

# Run with the wheel's own folder first on the path, and a libcuda.so.1 that cannot be loaded.
IMPORT = """
from mi_kernels import _cuda
try:
    _cuda.prepare(0)
except _cuda.CudaError as error:
    assert str(error).startswith("no NVIDIA driver: "), error
else:
    raise AssertionError("prepare ran without a driver")
print(_cuda.CUDA_VERSION)
"""


class WheelError(Exception):
    """The wheel is not what its name says."""


def check(wheel: Path) -> str:
    """One line that says what the wheel holds.

    Raises:
        WheelError: something is missing, or should not be there.
    """
    named = NAME.fullmatch(wheel.name)
    if not named:
        raise WheelError(f"{wheel.name}: not a name of ours")
    if "manylinux" not in named["platform"]:
        raise WheelError(f"{wheel.name}: no manylinux tag; auditwheel repair gives it one")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        libraries = sorted(Path(folder).rglob("*.so*"))
        wanted = {"_cpu", *(("_cuda",) if named["cuda"] else ())}
        if {library.name.split(".")[0] for library in libraries} != wanted:
            raise WheelError(f"{wheel.name}: holds {', '.join(library.name for library in libraries)}")
        for library in libraries:
            if extra := needed(library) - SYSTEM:
                raise WheelError(f"{wheel.name}: {library.name} needs {', '.join(extra)}")
        code = ""
        if named["cuda"]:
            code = f"; {check_code(wheel, named['cuda'], libraries[1])}"
            if named["python"] == f"cp{sys.version_info[0]}{sys.version_info[1]}":
                check_import(wheel, named["cuda"], Path(folder))
    return f"{wheel.name}: {wheel.stat().st_size:,} bytes{code}"


def needed(library: Path) -> set[str]:
    """The shared libraries it is linked to; the loader itself aside."""
    listed = subprocess.run(["readelf", "-d", str(library)], check=True, capture_output=True, text=True).stdout
    return {name for name in re.findall(r"\(NEEDED\).*\[(.*)\]", listed) if not name.startswith("ld-linux")}


def check_code(wheel: Path, cuda: str, library: Path) -> str:
    """All chips that this CUDA version can compile for (8.0 to 9.0 at least, Blackwell from 12.8 on), and PTX."""
    newest = 120 if cuda_toolkit.version_of(cuda) >= (12, 8) else 90
    wanted = [str(arch) for arch in cuda_toolkit.SASS if arch <= newest]
    listed = cuda_toolkit.run_cuobjdump("-lelf", "-lptx", library)
    sass, ptx = re.findall(r"sm_(\d+)\.cubin", listed), re.findall(r"sm_(\d+)\.ptx", listed)
    if sass != wanted or ptx != [str(cuda_toolkit.PTX)]:
        raise WheelError(f"{wheel.name}: SASS for {sass}, PTX for {ptx}; wanted SASS for {wanted}")
    return f"SASS {', '.join(sass)}; PTX {ptx[0]}"


def check_import(wheel: Path, cuda: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        (Path(elsewhere) / "libcuda.so.1").write_text("no library")
        environment = {**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": elsewhere}
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], env=environment, cwd=elsewhere, capture_output=True, text=True, check=False
        )
    if done.returncode or done.stdout.strip() != cuda:
        raise WheelError(f"{wheel.name}: importing without a driver: {done.stdout}{done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="*", type=Path, metavar="WHEEL")
    failed = 0
    for path in parser.parse_args().wheels:
        try:
            print(check(path))
        except (WheelError, cuda_toolkit.ToolkitError) as error:
            print(error, file=sys.stderr)
            failed = 2
    return failed


if __name__ == "__main__":
    sys.exit(main())
