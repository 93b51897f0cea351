"""What tools/check_wheel.py refuses, and what setup.py makes of MI_KERNELS_CUDA."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mi_kernels import _cpu

from ..support import ROOT, cuda_host

sys.path.insert(0, str(ROOT / "tools"))
import check_wheel

PLATFORM = "cp311-cp311-manylinux_2_28_x86_64"
LIBRARY = Path(_cpu.__file__)

needs_readelf = pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf")


def wheel(folder: Path, name: str, libraries: dict[str, Path]) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for member, source in libraries.items():
            archive.write(source, f"mi_kernels/{member}")
    return path


@needs_readelf
def test_a_wheel_for_the_cpu_passes(tmp_path: Path) -> None:
    path = wheel(tmp_path, f"mi_kernels-0.1.0-{PLATFORM}.whl", {"_cpu.cpython-311.so": LIBRARY})
    assert check_wheel.check(path).startswith(path.name)


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        (f"mi_kernels-0.1.0+cpu-{PLATFORM}.whl", ["_cpu.so"], "not a name of ours"),
        ("mi_kernels-0.1.0-cp311-cp311-linux_x86_64.whl", ["_cpu.so"], "no manylinux tag"),
        (f"mi_kernels-0.1.0+cu128-{PLATFORM}.whl", ["_cpu.so"], "holds _cpu.so"),
        (f"mi_kernels-0.1.0-{PLATFORM}.whl", ["_cpu.so", "_cuda.so"], "holds _cpu.so, _cuda.so"),
        (f"mi_kernels-0.1.0-{PLATFORM}.whl", ["_cpu.so", "libcudart.so.12"], "holds _cpu.so, libcudart.so.12"),
    ],
)
def test_a_wheel_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, name: str, members: list[str], message: str
) -> None:
    with pytest.raises(check_wheel.WheelError, match=message):
        check_wheel.check(wheel(tmp_path, name, dict.fromkeys(members, LIBRARY)))


@needs_readelf
@pytest.mark.skipif(cuda_host.GXX is None, reason=cuda_host.NO_GXX)
def test_a_library_linked_to_cuda_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.cpp").write_text("")
    other, linked = tmp_path / "libcudart.so.12", tmp_path / "linked.so"
    cuda_host.gxx("-shared", "-fPIC", tmp_path / "empty.cpp", "-Wl,-soname,libcudart.so.12", "-o", other)
    cuda_host.gxx("-shared", "-fPIC", tmp_path / "empty.cpp", "-Wl,--no-as-needed", other, "-o", linked)
    path = wheel(tmp_path, f"mi_kernels-0.1.0-{PLATFORM}.whl", {"_cpu.so": linked})
    with pytest.raises(check_wheel.WheelError, match=r"_cpu\.so needs libcudart\.so\.12"):
        check_wheel.check(path)


@pytest.mark.parametrize(
    ("value", "requirements"),
    [
        (None, []),
        ("", []),
        ("cu128", ["nvidia-cuda-nvrtc-cu12==12.8.*", "nvidia-nvfatbin-cu12==12.8.*"]),
        ("cu130", ["nvidia-cuda-nvrtc==13.0.*", "nvidia-nvfatbin==13.0.*"]),
    ],
)
def test_only_a_cuda_build_fetches_a_compiler(value: str | None, requirements: list[str]) -> None:
    """What pip is told to install for a build, by the hook it asks."""
    pytest.importorskip("setuptools", "77")  # as pyproject.toml asks for
    pytest.importorskip("pybind11")
    environment = {k: v for k, v in os.environ.items() if k != "MI_KERNELS_CUDA"}
    if value is not None:
        environment["MI_KERNELS_CUDA"] = value
    code = "from setuptools import build_meta; print('\\n', build_meta.get_requires_for_build_wheel(), sep='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == repr(requirements)
