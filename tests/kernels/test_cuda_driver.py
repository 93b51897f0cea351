"""The CUDA binding over a fake driver: its calls, the error of each failure, and the resulting bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mi_kernels.backends import cuda

from ..support import ROOT, cuda_host

KERNELS = [
    *(f"mi_lerp_{kind}" for kind in ("bf16", "f16", "f32", "mixed")),
    *(f"mi_combine_{kind}_{models}" for kind in ("bf16", "mixed") for models in (2, 3, 4, 5)),
    "mi_combine_any",
    *(f"mi_{step}_{part}" for part in ("upper", "lower") for step in ("count", "find")),
    *("mi_moment_parts", "mi_moment_totals"),
]
needs_gxx = pytest.mark.skipif(cuda_host.GXX is None, reason=cuda_host.NO_GXX)


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pybind11", reason="no pybind11 to compile the binding with")
    return cuda_host.compile_extension(tmp_path_factory.mktemp("extension"))


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda_host.compile_library("driver.cpp", tmp_path_factory.mktemp("driver") / "libcuda.so.1")


def python(*arguments: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def session(scenario: str, libcuda: Path, extension: Path) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(python("-m", "tests.support.cuda_host.session", scenario, libcuda, extension))
    return seen


@needs_gxx
def test_everything_is_loaded_before_the_first_launch(libcuda: Path, extension: Path) -> None:
    """A launch pushes the context, launches and restores: nothing that a stream capture forbids."""
    seen = session("launch", libcuda, extension)
    loads = [call for name in KERNELS for call in (f"cuModuleGetFunction({name})", "cuFuncLoad()")]
    assert seen["prepare"] == [
        *("cuInit()", "cuDeviceGet(1)", "cuDevicePrimaryCtxRetain(1)", "cuCtxPushCurrent(1)"),
        *("cuModuleLoadData(fat)", *loads, "cuCtxPopCurrent(1)"),
    ]
    assert seen["prepare again"] == seen["nothing"] == []
    for triple in cuda_host.TRIPLES:
        name = KERNELS[triple[0] if len(set(triple)) == 1 else 3]
        calls, right = seen[str(triple)]
        assert calls == ["cuCtxPushCurrent(1)", f"cuLaunchKernel({name} x9 in 1 stream 7)", "cuCtxPopCurrent(1)"]
        assert right


@needs_gxx
def test_drivers_before_12_4_load_code_by_themselves(tmp_path: Path, extension: Path) -> None:
    old = cuda_host.compile_library("driver.cpp", tmp_path / "libcuda.so.1", "-DNO_FUNC_LOAD")
    seen = session("launch", old, extension)
    assert "cuFuncLoad()" not in seen["prepare"]
    assert seen["(0, 0, 0)"][1]


@needs_gxx
def test_every_failure_names_the_call_and_the_error(libcuda: Path, extension: Path) -> None:
    seen = session("errors", libcuda, extension)
    invalid = "CUDA_ERROR_INVALID_VALUE (invalid argument)"
    last = {
        "cuInit": "cuInit()",
        "cuDevicePrimaryCtxRetain": "cuDevicePrimaryCtxRetain(0)",
        **dict.fromkeys(
            ("cuCtxPushCurrent", "cuModuleLoadData", "cuModuleGetFunction", "cuFuncLoad", "cuCtxPopCurrent"),
            "cuDevicePrimaryCtxRelease(0)",
        ),
    }
    for call, final in last.items():
        named = {"cuInit": "CUDA_ERROR_NO_DEVICE (unknown to this driver)"}.get(call, invalid)
        named = {"cuModuleLoadData": "error 999 (unknown to this driver)"}.get(call, named)
        assert seen[call] == [f"CudaError: {call}: {named}", 0, final]
    assert seen["cuDeviceGet"] == ["CudaError: cuDeviceGet: CUDA_ERROR_INVALID_DEVICE (invalid device ordinal)", 0]
    assert seen["unprepared"] == ["ValueError: device 0 is not prepared: call prepare first", 0]
    for call in ("cuLaunchKernel", "cuCtxPushCurrent", "cuCtxPopCurrent"):
        assert seen[f"launch: {call}"] == [f"CudaError: {call}: {invalid}", 0]
    assert seen["device_count"] == [f"CudaError: cuDeviceGetCount: {invalid}", 0]


@needs_gxx
def test_arguments_are_checked_before_the_driver_sees_them(libcuda: Path, extension: Path) -> None:
    seen = session("arguments", libcuda, extension)
    assert seen.pop("calls") == []
    for given, message in seen.items():
        name = given.split("=")[0]
        assert message.startswith("ValueError: " + ("dtype codes" if name.endswith("dtype") else name)), given


@needs_gxx
def test_multi_lerp_makes_one_launch_for_each_combination(libcuda: Path, extension: Path) -> None:
    seen = session("multi_lerp", libcuda, extension)
    assert seen["right"] == [True] * 6
    # 70,000 and 1 element in chunks of 8192, and an empty tensor, are ten blocks.
    launches = {"bf16": 10, "f32": 1, "mixed": 1, "f16": 2}
    assert seen["calls"] == [f"cuLaunchKernel(mi_lerp_{k} x{n} in 0 stream 7)" for k, n in launches.items()]
    assert seen["empty"] == []
    assert seen["error"].startswith(
        "BackendError: backend 'cuda' on cuda:0: cuLaunchKernel: CUDA_ERROR_INVALID_VALUE (invalid argument)"
    )
    assert seen["available"] == [
        *(None, None, "the GPU has compute capability 7.0; 7.5 or higher is needed."),
        "cuDeviceGetCount: CUDA_ERROR_INVALID_VALUE (invalid argument).",
    ]


@needs_gxx
def test_combining_makes_one_launch_for_each_number_of_models(libcuda: Path, extension: Path) -> None:
    """Five models in bf16, four in other dtypes and seven in any; the bytes of the CPU kernels; errors."""
    seen = session("combine", libcuda, extension)
    # 9,001 and 20,000 elements in chunks of 8192 are five blocks.
    launches = {"bf16_5": 5, "mixed_5": 5, "mixed_4": 5, "any": 5}
    assert seen["calls"] == [f"cuLaunchKernel(mi_combine_{k} x{n} in 0 stream 7)" for k, n in launches.items()]
    assert seen["right"] == [True] * 4
    assert seen["empty"] == []
    for message in seen["errors"]:
        assert message.startswith("BackendError: backend 'cuda' on cuda:0: cuLaunchKernel: CUDA_ERROR_INVALID_VALUE")
    assert len(seen["errors"]) == 3
    for message in seen["capturing"]:
        assert message.startswith("BackendError: backend 'cuda' on cuda:0: statistics of tensors cannot be captured")


@needs_gxx
def test_statistics_have_the_bits_of_the_cpu(libcuda: Path, extension: Path) -> None:
    """Ranks and moments of every kind of data, dtype, size and alignment."""
    seen = session("statistics", libcuda, extension)
    assert seen["wrong ranks"] == []
    assert seen["wrong moments"] == []
    assert seen["ranks"] > 1000
    assert seen["moments"] > 100
    assert seen["calls"] == [
        *(f"cuLaunchKernel(mi_{name} x{n} in 0 stream 7)" for name, n in (("count_upper", 2), ("find_upper", 1))),
        *(f"cuLaunchKernel(mi_{name} x{n} in 0 stream 7)" for name, n in (("count_lower", 2), ("find_lower", 1))),
        *(f"cuLaunchKernel(mi_{name} x{n} in 0 stream 7)" for name, n in (("moment_parts", 5), ("moment_totals", 1))),
    ]


@needs_gxx
def test_combine_of_cuda_tensors_copies_nothing_to_the_cpu(libcuda: Path, extension: Path) -> None:
    """mi_kernels.combine by every method: the bits of the same call on the CPU, all work in launches."""
    seen = session("combine_methods", libcuda, extension)
    assert seen["wrong"] == []
    assert seen["copies"] == []
    assert len(seen["launches"]) > 20
    for case, calls in seen["launches"].items():
        assert calls, case
        assert {call.split("(")[0] for call in calls} == {"cuLaunchKernel"}, case


@needs_gxx
def test_importing_needs_no_driver(tmp_path: Path, extension: Path) -> None:
    """With an invalid libcuda.so.1, importing works, and calls report what is missing."""
    (tmp_path / "libcuda.so.1").write_text("not a library")
    code = (
        "import sys\n"
        "from tests.support.cuda_host import session\n"
        "from mi_kernels.backends import cuda\n"
        f"_cuda = session.load_extension({str(extension)!r})\n"
        "print(_cuda.CUDA_VERSION, '|', session.attempt(_cuda.prepare, 0), '|', cuda.available())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(tmp_path)},
    )  # fmt: skip
    version, error, reason = done.stdout.split(" | ")
    assert version == "cu128"
    assert error.startswith("CudaError: no NVIDIA driver: ")
    assert "libcuda.so.1" in error
    assert reason.startswith("no NVIDIA driver: ")


def test_a_build_without_cuda_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    assert cuda.available() == "this build of mi_kernels is for the CPU only."


@pytest.mark.parametrize(
    ("driver", "wheel", "runs"),
    [(12020, "cu128", True), (12080, "cu126", True), (13000, "cu126", True), (12090, "cu130", False)],
)
def test_a_driver_runs_code_of_its_major_version_and_before(driver: int, wheel: str, runs: bool) -> None:
    reason = cuda.too_old(driver, wheel)
    assert (reason is None) == runs
    assert reason is None or ("CUDA 12.9" in reason and "CUDA 13.0" in reason)


@pytest.mark.parametrize(
    ("elements", "chunk"),
    [(1, 8192), (11200 * 8192, 8192), (11200 * 16384 - 1, 8192), (11200 * 16384, 16384), (4_000_000_000, 65536)],
)
def test_chunks_are_large_when_there_are_many(elements: int, chunk: int) -> None:
    assert cuda.chunk_for(elements) == chunk
