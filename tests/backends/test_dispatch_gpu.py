"""The choice among GPU backends on fake machines; and the cost of examining the real machine."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import mi_kernels
from mi_kernels import BackendError
from mi_kernels.backends import dispatch, triton
from mi_kernels.backends.dispatch import Machine, Request, choose

ALL = Machine(cuda=None, triton=None)
NO_CUDA = Machine(cuda="it was built without CUDA.", triton=None)
NO_GPU = Machine(cuda="no driver.", triton="triton is not installed.")
INTERPRETER = Machine(interpreter=True)


@pytest.mark.parametrize(
    ("request_", "machine", "chosen"),
    [
        (Request(None), ALL, "cpu"),
        (Request(None), NO_GPU, "cpu"),
        (Request("reference"), ALL, "reference"),
        (Request(None, "cuda:0"), ALL, "cuda"),
        (Request(None, "cuda"), ALL, "cuda"),
        (Request(None, "cuda:1"), NO_CUDA, "triton"),
        (Request(None, "cuda:0"), NO_GPU, "reference"),
        (Request("triton", "cuda:0"), ALL, "triton"),
        (Request("reference", "cuda:0"), ALL, "reference"),
        (Request(None, "cuda:0", variable="triton"), ALL, "triton"),
        (Request(None, variable="reference"), ALL, "reference"),
        (Request("cuda", "cuda:0", variable="triton"), ALL, "cuda"),
        (Request(None), INTERPRETER, "cpu"),
        (Request("triton"), INTERPRETER, "triton"),
    ],
)
def test_choice(request_: Request, machine: Machine, chosen: str) -> None:
    assert choose(request_, machine) == chosen


@pytest.mark.parametrize(
    ("request_", "machine", "parts"),
    [
        (Request("tpu"), ALL, ["backend 'tpu': unknown", "cpu, cuda, triton, reference"]),
        (Request(None, variable="tpu"), ALL, ["'tpu' requested by MI_KERNELS_BACKEND: unknown"]),
        (Request(None, "mps"), ALL, ["tensors on 'mps': no backend", "Move the tensors to the CPU"]),
        (
            Request("cpu", "cuda:0"),
            ALL,
            [
                "'cpu' requested for tensors on cuda:0; available: cuda, triton, reference",
                "to the CPU, or use cuda or triton",
            ],
        ),
        (
            Request("triton"),
            ALL,
            [
                "'triton' requested for tensors on cpu; available: cpu, reference; triton: it serves CUDA",
                "Move the tensors to a GPU",
            ],
        ),
        (
            Request("triton", "cuda:0"),
            NO_GPU,
            ["available: reference; cuda: no driver; triton: triton is not installed\n", "pip install"],
        ),
        (
            Request("cuda", "cuda:0"),
            NO_CUDA,
            ["available: triton, reference; cuda: it was built", "MI_KERNELS_CUDA=cu128 python -m pip install ."],
        ),
        (Request(None, "cuda:0", variable="cuda"), NO_CUDA, ["'cuda' requested by MI_KERNELS_BACKEND for tensors"]),
        (Request(None), Machine(cpu_extension=False), ["'cpu' requested; available: reference", "C++17 compiler"]),
    ],
)
def test_refusals_say_requested_found_and_available(request_: Request, machine: Machine, parts: list[str]) -> None:
    with pytest.raises(BackendError) as refusal:
        choose(request_, machine)
    for part in parts:
        assert part in str(refusal.value)


def test_the_variable_applies_if_backend_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    a = np.zeros(3, np.float32)
    monkeypatch.setenv(dispatch.VARIABLE, "cuda")
    with pytest.raises(BackendError, match="MI_KERNELS_BACKEND"):
        mi_kernels.lerp(a, a, 0.5)
    mi_kernels.lerp(a, a, 0.5, backend="cpu")
    monkeypatch.setenv(dispatch.VARIABLE, "")
    mi_kernels.lerp(a, a, 0.5)


def test_the_slow_reference_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    machine = Machine(cuda="no wheel.", triton="triton 1.0 is too old.")
    monkeypatch.setattr(dispatch, "this_machine", lambda kind: machine)
    dispatch._warn_of_reference.cache_clear()
    with pytest.warns(RuntimeWarning, match="no wheel.*too old") as told:
        assert [dispatch.backend_for(None, "cuda:0") for _ in range(3)] == ["reference"] * 3
    assert len(told) == 1


def test_numpy_arrays_need_neither_torch_nor_triton() -> None:
    program = (
        "import sys, numpy, mi_kernels; mi_kernels.lerp(numpy.zeros(3, 'f'), numpy.ones(3, 'f'), 0.5);"
        "sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_machine_is_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(dispatch, "_ask", lambda name: asked.append(name))
    dispatch.this_machine.cache_clear()
    try:
        assert [dispatch.backend_for(None, "cuda:0"), dispatch.backend_for("triton", "cuda:1")] == ["cuda", "triton"]
    finally:
        dispatch.this_machine.cache_clear()
    assert asked == ["cuda", "triton"]


@pytest.mark.parametrize(
    ("version", "cuda", "visible", "capability", "environment", "reason"),
    [
        ("3.9.0", "13.0", True, (9, 0), None, None),
        ("3.2.0+git", "12.6", True, (8, 0), None, None),
        ("3.1.0", "12.6", True, (9, 0), None, "triton 3.1.0 is installed; 3.2 or newer"),
        (None, "12.6", True, (9, 0), None, "triton is not installed"),
        ("3.9.0", None, True, (9, 0), None, "is built without CUDA"),
        ("3.9.0", "13.0", False, (9, 0), None, "torch finds no GPU"),
        ("3.9.0", "13.0", True, (7, 5), None, "compute capability 7.5"),
        ("3.9.0", "13.0", True, (9, 0), "1", "TRITON_INTERPRET=1 is set"),
    ],
)
def test_triton_says_why_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    cuda: str | None,
    visible: bool,
    capability: tuple[int, int],
    environment: str | None,
    reason: str | None,
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(triton, "find_spec", lambda name: version)
    monkeypatch.setattr(triton, "_version", lambda: version)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if environment:
        monkeypatch.setenv("TRITON_INTERPRET", environment)
    else:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = triton.available()
    assert (found is None) if reason is None else (reason in str(found))
