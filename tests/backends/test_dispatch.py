"""The choice of the backend, a pure function of the request and of the machine, with fake machines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mi_kernels
from mi_kernels import _cpu
from mi_kernels.backends import cpu, dispatch
from mi_kernels.backends.dispatch import Machine, Request

WITH, WITHOUT = Machine(cpu_extension=True), Machine(cpu_extension=False)


@pytest.mark.parametrize(
    ("backend", "machine", "chosen"),
    [(None, WITH, "cpu"), ("cpu", WITH, "cpu"), ("reference", WITH, "reference"), ("reference", WITHOUT, "reference")],
)
def test_the_backend_chosen(backend: str | None, machine: Machine, chosen: str) -> None:
    assert dispatch.choose(Request(backend), machine) == chosen


def test_an_unknown_backend_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(mi_kernels.BackendError, match="'tpu'") as caught:
        dispatch.choose(Request("tpu"), WITH)
    assert ", ".join(dispatch.NAMES) in caught.value.remedy


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_a_missing_extension_is_an_error_that_says_how_to_build_it(backend: str | None) -> None:
    """No slow backend replaces it, even if the caller named none."""
    with pytest.raises(mi_kernels.BackendError, match="available: reference") as caught:
        dispatch.choose(Request(backend), WITHOUT)
    assert "pip install" in caught.value.remedy


@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
def test_tensors_on_an_unsupported_device_are_an_error(backend: str | None) -> None:
    with pytest.raises(mi_kernels.BackendError, match="'mps:0'") as caught:
        dispatch.choose(Request(backend, "mps:0"), WITH)
    assert "CPU" in caught.value.remedy


@pytest.mark.parametrize(
    ("available", "requested", "chosen"),
    [
        (["avx512", "avx2", "scalar"], None, "avx512"),
        (["avx512", "avx2", "scalar"], "", "avx512"),
        (["avx512", "avx2", "scalar"], "avx2", "avx2"),
        (["avx512", "avx2", "scalar"], "scalar", "scalar"),
        (["neon", "scalar"], None, "neon"),
        (["scalar"], None, "scalar"),
    ],
)
def test_choice_of_the_isa(available: list[str], requested: str | None, chosen: str) -> None:
    assert cpu.choose_isa(available, requested) == chosen


@pytest.mark.parametrize("requested", ["avx512", "AVX2", "best", " "])
def test_an_unavailable_isa_is_an_error_that_lists_the_available_ones(requested: str) -> None:
    with pytest.raises(mi_kernels.BackendError, match=f"MI_KERNELS_CPU_ISA={requested}") as caught:
        cpu.choose_isa(["avx2", "scalar"], requested)
    assert "avx2, scalar" in caught.value.problem
    assert "MI_KERNELS_CPU_ISA" in caught.value.remedy


def test_the_variable_forces_the_isa_a_call_uses(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    used = []
    real = _cpu.lerp_spans

    def record(spans: Any, name: str, *rest: Any) -> None:
        used.append(name)
        real(spans, name, *rest)

    monkeypatch.setattr(_cpu, "lerp_spans", record)
    monkeypatch.setenv(cpu.ISA_VARIABLE, isa)
    assert mi_kernels.lerp(np.zeros(3, np.float32), np.ones(3, np.float32), 0.25).tolist() == [0.25] * 3
    assert used == [isa]


def test_the_best_isa_is_used_when_none_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cpu.ISA_VARIABLE, raising=False)
    assert cpu.isa() == _cpu.isas()[0]


def test_forcing_an_unavailable_isa_stops_the_call_before_any_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.ISA_VARIABLE, "sse9")
    out = np.full(3, 7, np.float32)
    with pytest.raises(mi_kernels.BackendError, match="MI_KERNELS_CPU_ISA=sse9"):
        mi_kernels.lerp(np.zeros(3, np.float32), np.ones(3, np.float32), 0.5, out)
    assert out.tolist() == [7, 7, 7]


def test_the_default_is_every_core_this_process_may_use() -> None:
    assert cpu.checked_threads(None) == cpu.default_threads() >= 1


@pytest.mark.parametrize("threads", [1, 2, 1024])
def test_threads_in_range_pass(threads: int) -> None:
    assert cpu.checked_threads(threads) == threads


@pytest.mark.parametrize("threads", [0, -1, 1025, 2.0, "2", True])
def test_threads_out_of_range_are_an_error(threads: Any) -> None:
    with pytest.raises(mi_kernels.ArgumentError, match="threads is") as caught:
        cpu.checked_threads(threads)
    assert "1 to 1024" in caught.value.remedy
